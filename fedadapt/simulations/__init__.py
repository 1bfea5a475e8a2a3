"""The federated loop, the engines that run it, and what a run leaves behind."""
