"""Computations of the server: aggregation, clustering, checks of answers, checkpoints."""

from fedadapt.server.aggregation import weighted_mean
from fedadapt.server.clustering.grouping import Grouping, group_clients
from fedadapt.server.mode_merge import mode_merge

__all__ = ["Grouping", "group_clients", "mode_merge", "weighted_mean"]
