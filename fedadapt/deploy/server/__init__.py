"""The server of a deployment: Flower's SuperLink, the guard in front of it, and its keys."""
