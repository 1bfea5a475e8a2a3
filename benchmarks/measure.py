"""One engine on one work, in a process of its own: prints a line of JSON.

Not called by hand, but by ``benchmarks.speed`` and ``benchmarks.growth``.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from importlib import import_module

from benchmarks.accuracy_clock import AccuracyClock
from benchmarks.clock import Clock
from benchmarks.cpu_clock import CpuClock
from benchmarks.process import CORES, STARTER
from benchmarks.works import Work, parsed

Run = Callable[..., str | None]  # work, clock, and settings of ours


def _from(module: str, **settings: object) -> Run:
    """Imported when it runs: an engine is measured without the others in its memory."""

    def run(work: Work, clock: Clock, **more: object) -> str | None:
        note: str | None = import_module(f"benchmarks.engines.{module}").run(
            work, clock, **settings, **more
        )
        return note

    return run


ENGINES: dict[str, Run] = {
    "flower": _from("flower"),
    "pfl": _from("pfl_research"),
    "fluke": _from("fluke"),
    "pfllib": _from("pfllib"),
    "bare-1": _from("bare", processes=1),
    "bare": _from("bare", processes=CORES),
    "bare-cl": _from("bare", processes=CORES, channels_last=True),
    "bare-bf16": _from("bare", processes=CORES, channels_last=True, bf16=True),
    "ours": _from("ours"),
    "ours-1": _from("ours", workers=1),
    "ours-one-by-one": _from("ours", execution="sequential"),
    "ours-stacked": _from("ours", execution="stacked"),
    "ours-bf16": _from("ours", precision="bf16"),
    "ours-ray": _from("ours", engine="ray"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=list(ENGINES))
    parser.add_argument("work", type=parsed, help="W1, or W1:1000 with another number of clients")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--target", type=float, help="accuracy to reach, of real work")
    parser.add_argument("--rounds", type=int, default=100, help="at most so many, to a target")
    parser.add_argument("--cpu", action="store_true", help="tell each round's processor time")
    parser.add_argument("--workers", type=int, help="of fedadapt (default: its own choice)")
    given = parser.parse_args(arguments)
    clock = Clock(given.seconds)
    if given.target is not None:
        root = int(os.environ.get(STARTER, os.getpid()))
        clock = AccuracyClock(given.work, given.target, given.rounds, given.seconds, root)
    elif given.cpu:
        clock = CpuClock(given.seconds)
    more = {} if given.workers is None else {"workers": given.workers}
    note = ENGINES[given.engine](given.work, clock, **more)
    if clock.rounds:  # of several processes of an engine, the one that leads has them
        facts = {"seconds": clock.rounds, "note": note or "", **clock.facts}
        print("\nMEASURED", json.dumps(facts), flush=True)  # an engine may not have ended its line


if __name__ == "__main__":
    main()
