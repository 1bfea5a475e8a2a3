"""An engine on a work in a fresh process, started and read by another."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 900  # seconds
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # a process: small networks gain
SILENT = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
STARTER = "FEDADAPT_BENCHMARK_STARTER"  # the process whose descendants are a measurement
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Found(NamedTuple):
    """What one process measured."""

    seconds: list[float]  # of each round but the first; [] where it failed
    note: str  # how clients were computed, or why it failed
    looks: Sequence[Sequence[float]] = ()  # what ``AccuracyClock`` or ``CpuClock`` saw, by round


def measured(
    engine: str,
    work: str,
    seconds: float,
    *,
    python: str = sys.executable,
    watch: Callable[[int], None] = lambda pid: None,
    more: Sequence[str] = (),
) -> Found:
    """Run ``engine`` on ``work`` for about so many seconds after its first round.

    Args:
        watch: Called with the number of the process; it may take as long as the process does.
        more: Further arguments of ``benchmarks.measure``.

    """
    command = [python, "-m", "benchmarks.measure", engine, work, "--seconds", str(seconds), *more]
    if engine == "pfl":  # its own way to use all cores
        start = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={CORES}"]
        command[1:1] = start
    environment = os.environ | ONE_THREAD | SILENT
    environment |= {"PYTHONPATH": str(ROOT), STARTER: str(os.getpid())}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            watch(process.pid)
            said, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            said = f"nothing after {PATIENCE} s"
        finally:
            with suppress(ProcessLookupError):  # what it may have left running
                os.killpg(process.pid, signal.SIGKILL)
    return _read(said)


def _read(said: str) -> Found:
    lines = said.strip().splitlines() or ["it said nothing"]
    for line in lines:
        if line.startswith("MEASURED "):
            return Found(**json.loads(line.removeprefix("MEASURED ")))
    return Found([], lines[-1])


def python_with_pfl(given: str) -> str:
    """The interpreter that has pfl-research: ``given``, or this one; "" where there is none."""
    if given:
        return given
    return sys.executable if importlib.util.find_spec("pfl") else ""
