"""What the server computes: means and merges, checks of what devices answer, checkpoints."""

from fedadapt.server.grouping import Grouping, group_devices
from fedadapt.server.mean import weighted_mean
from fedadapt.server.modes import mode_merge

__all__ = ["Grouping", "group_devices", "mode_merge", "weighted_mean"]
