"""What the server computes: means, checks of what devices answer, checkpoints."""
