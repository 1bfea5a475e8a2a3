"""Methods whose server makes each client's model, or a part of it, with a network; one a file."""
