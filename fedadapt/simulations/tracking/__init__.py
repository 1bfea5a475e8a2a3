"""Trackers of experiments: TensorBoard, MLflow, Weights & Biases, or anybody's own."""
