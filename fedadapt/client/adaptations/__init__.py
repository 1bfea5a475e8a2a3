"""Local adaptations: what a device does with a model before it uses it."""
