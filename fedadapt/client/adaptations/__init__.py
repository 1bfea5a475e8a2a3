"""Local adaptations: what a client does with a model before it uses it. One class in one file."""
