"""The papers' experiments, run here and held against what was published."""
