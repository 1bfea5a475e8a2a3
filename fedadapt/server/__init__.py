"""What the server computes: means, checks of what devices answer, checkpoints."""

from fedadapt.server.grouping import Grouping, group_devices
from fedadapt.server.mean import weighted_mean

__all__ = ["Grouping", "group_devices", "weighted_mean"]
