"""What Flower's own strategies need to run here: their arguments, their state, their client."""
