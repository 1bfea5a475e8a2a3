"""A client of a deployment, on its own machine."""
