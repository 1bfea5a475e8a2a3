"""How the clients of a run are computed: as the network suggests, or as ``execution`` says."""

import logging
from dataclasses import replace

import torch
from torch import nn

from fedadapt.client.stacking import Plan, gains_from_bf16, plan, trace
from fedadapt.config import RunConfig
from fedadapt.errors import InputError

log = logging.getLogger(__name__)

ONE_AT_A_TIME = ("sequential", "per-client")
STACKED_ANYWAY = 10  # clients in a stack if the rule is against stacking and the run asks for it
ONE_BY_ONE = 5  # clients in a cohort; they are trained one by one and share the base evaluation


def plan_for(
    config: RunConfig, model: nn.Module, image_shape: tuple[int, ...], compute: torch.device
) -> Plan:
    """Return the plan of a run: a function of its settings and its network, so it can be repeated.

    Raises:
        InputError: The run asks for stacking, and the network cannot be stacked.

    """
    chosen = plan(model, image_shape, config.batch_size, compute)
    if config.execution == "sequential":
        chosen = Plan("sequential", ONE_BY_ONE, "asked for")
    elif config.execution == "stacked" and chosen.execution in ONE_AT_A_TIME:
        if trace(model) is None:
            raise InputError(
                f"execution: {config.model} has parts that cannot be stacked; use auto or "
                "sequential"
            )
        chosen = Plan("stacked-kernels", STACKED_ANYWAY, "asked for")
    elif chosen.execution in ONE_AT_A_TIME:
        chosen = chosen._replace(cohort_size=ONE_BY_ONE)
    return chosen._replace(cohort_size=config.cohort_size or chosen.cohort_size)


def with_precision(
    config: RunConfig, model: nn.Module, image_shape: tuple[int, ...], compute: torch.device
) -> RunConfig:
    """Return the settings with a precision instead of ``auto``, and warn of one that is slow here.

    It is settled once, so that a run goes on in the arithmetic in which it was begun.
    """
    has_bf16 = _has_bf16(compute)
    if config.precision == "auto":
        gains = has_bf16 and (
            compute.type == "cuda" or gains_from_bf16(model, image_shape, config.batch_size)
        )
        chosen = "bf16" if gains else "float32"
        log.info("precision=auto: %s", chosen)
        return replace(config, precision=chosen)
    if config.precision == "bf16" and has_bf16 is False:
        log.warning("precision=bf16: this processor has no arithmetic for it; float32 is faster")
    return config


def _has_bf16(compute: torch.device) -> bool | None:
    """Whether the device has arithmetic in bf16; None if this version of PyTorch cannot tell."""
    if compute.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if compute.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return None
    capabilities = torch.cpu.get_capabilities()
    return any(has for name, has in capabilities.items() if name.endswith("bf16"))
