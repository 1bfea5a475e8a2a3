"""Feature shift: how the images of devices come to look different."""
