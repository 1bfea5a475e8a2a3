"""Feature shift: how the images of clients come to look different."""
