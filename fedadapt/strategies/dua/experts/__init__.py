"""The experts of DUA: how the server learns task after task."""
