"""How the clients of a run are computed: as suits the network, or as the run was told."""

import logging

import torch
from torch import nn

from fedadapt.client.stacking import Plan, plan, trace
from fedadapt.config import RunConfig
from fedadapt.errors import InputError

log = logging.getLogger(__name__)

ONE_AT_A_TIME = ("sequential", "per-client")
STACKED_ANYWAY = 10  # clients, where the network would rather be computed one by one
ONE_BY_ONE = 5  # clients in a cohort: tested together with the model that all have


def plan_for(
    config: RunConfig, model: nn.Module, image_shape: tuple[int, int, int], compute: torch.device
) -> Plan:
    """The plan of a run: a function of its settings and of the network, so it can be repeated.

    Raises:
        InputError: Clients are to be stacked, and the network cannot be.

    """
    found = plan(model, image_shape, config.batch_size, compute)
    if config.execution == "sequential":
        found = Plan("sequential", ONE_BY_ONE, "asked for")
    elif config.execution == "stacked" and found.execution in ONE_AT_A_TIME:
        if trace(model) is None:
            raise InputError(
                f"execution: {config.model} has parts that cannot be stacked; use auto or "
                "sequential"
            )
        found = Plan("stacked-kernels", STACKED_ANYWAY, "asked for")
    elif found.execution in ONE_AT_A_TIME:
        found = found._replace(cohort_size=ONE_BY_ONE)
    return found._replace(cohort_size=config.cohort_size or found.cohort_size)


def warn_if_slow(config: RunConfig, compute: torch.device) -> None:
    """Log what was asked for and costs time here."""
    if config.precision == "bf16" and compute.type == "cpu" and not _has_bf16():
        log.warning("precision=bf16: this processor has no arithmetic for it; float32 is faster")


def _has_bf16() -> bool:
    """Whether the processor says so; True where it is not asked, by older versions of PyTorch."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return True
    found = torch.cpu.get_capabilities()
    return any(has for name, has in found.items() if name.endswith("bf16"))
