"""Who computes the devices of a run: this process, processes of this machine, or a Ray cluster."""

import logging
import os
from pathlib import Path

from fedadapt.config import RunConfig
from fedadapt.simulations.assembly import Assembly
from fedadapt.simulations.engines.client_states import Keeper
from fedadapt.simulations.engines.in_process import InProcessFleet
from fedadapt.simulations.engines.processes import ProcessFleet
from fedadapt.simulations.engines.worker_pool import CrewFleet

log = logging.getLogger(__name__)

Engine = InProcessFleet | CrewFleet


def engine_for(assembly: Assembly, folder: Path) -> Engine:
    """The fleet of a run, still closed; ``folder`` takes what is too much for memory."""
    config, plan, worker = assembly.config, assembly.plan, assembly.worker
    size, keeper = plan.cohort_size, Keeper(folder)
    num_workers = _num_workers(config, assembly)
    log.info(
        "%s: %s; %d at a time on %s, %d side by side",
        plan.execution,
        plan.reason,
        size,
        worker.compute,
        num_workers,
    )
    if config.engine == "ray":
        from fedadapt.simulations.engines.ray_clients import RayFleet

        return RayFleet(
            config,
            worker,
            address=config.ray_address,
            num_workers=config.workers,
            gpus_per_worker=config.gpus_per_worker,
            cohort_size=size,
            keeper=keeper,
        )
    if num_workers > 1:
        return ProcessFleet(
            worker, num_workers=num_workers, cohort_size=size, keeper=keeper, config=config
        )
    return InProcessFleet(worker, cohort_size=size, keeper=keeper)


def _num_workers(config: RunConfig, assembly: Assembly) -> int:
    """Processes side by side: one a core, no more than there are devices in a round.

    On a GPU one process feeds the card, unless more were asked for.
    """
    if assembly.worker.compute.type != "cpu":
        return config.workers or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(config.workers or cores or 1, max(1, assembly.benchmark.num_devices))
