"""What a device computes: pure functions of stacked weights; the Flower adapters come on top."""

from fedadapt.client.api import adapt, importance, sparsity

__all__ = ["adapt", "importance", "sparsity"]
