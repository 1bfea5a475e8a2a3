"""What a device computes. Pure functions of stacked weights; the Flower adapters come on top."""
