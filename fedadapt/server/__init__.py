"""What the server computes: means, checks of what devices answer, checkpoints."""

from fedadapt.server.mean import weighted_mean

__all__ = ["weighted_mean"]
