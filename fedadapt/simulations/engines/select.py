"""Choose the engine of a run: this process, processes of this machine, or a Ray cluster."""

import logging
import os
from pathlib import Path

from fedadapt.config import RunConfig
from fedadapt.server.client_states import ClientStates
from fedadapt.simulations.assembly import Assembly
from fedadapt.simulations.engines.in_process import InProcessClients
from fedadapt.simulations.engines.processes import ProcessClients
from fedadapt.simulations.engines.worker_pool import WorkerPoolClients

log = logging.getLogger(__name__)

Engine = InProcessClients | WorkerPoolClients


def engine_for(assembly: Assembly, folder: Path) -> Engine:
    """Return the engine of a run, not yet open; states beyond memory go to ``folder``."""
    config, plan, worker = assembly.config, assembly.plan, assembly.worker
    size, client_states = plan.cohort_size, ClientStates(folder)
    count = num_workers(config, assembly)
    log.info(
        "%s: %s; %d at a time on %s, %d side by side",
        plan.execution,
        plan.reason,
        size,
        worker.compute,
        count,
    )
    if config.engine == "ray":
        from fedadapt.simulations.engines.ray_clients import RayClients

        return RayClients(
            config,
            worker,
            address=config.ray_address,
            num_workers=config.workers,
            gpus_per_worker=config.gpus_per_worker,
            cohort_size=size,
            client_states=client_states,
        )
    if count > 1:
        return ProcessClients(
            worker,
            num_workers=count,
            cohort_size=size,
            client_states=client_states,
            config=config,
        )
    return InProcessClients(worker, cohort_size=size, client_states=client_states)


def num_workers(config: RunConfig, assembly: Assembly) -> int:
    """Return the number of processes: one for each core, and no more than there are clients.

    On a GPU it is one, unless more were asked for.
    """
    if assembly.worker.compute.type != "cpu":
        return config.workers or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(config.workers or cores or 1, max(1, assembly.benchmark.num_clients))
