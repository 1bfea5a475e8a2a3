"""Methods whose server has a model of each client."""
