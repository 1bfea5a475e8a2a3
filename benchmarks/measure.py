"""One engine on one work, in a process of its own: prints a line of JSON.

Not called by hand, but by ``benchmarks.speed`` and ``benchmarks.growth``.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from importlib import import_module

from benchmarks.clock import Clock
from benchmarks.process import CORES
from benchmarks.works import Work, parsed

Run = Callable[[Work, Clock], str | None]


def _from(module: str, **settings: object) -> Run:
    """Imported when it runs: an engine is measured without the others in its memory."""

    def run(work: Work, clock: Clock) -> str | None:
        note: str | None = import_module(f"benchmarks.engines.{module}").run(
            work, clock, **settings
        )
        return note

    return run


ENGINES: dict[str, Run] = {
    "flower": _from("flower"),
    "pfl": _from("pfl_research"),
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
    given = parser.parse_args(arguments)
    clock = Clock(given.seconds)
    note = ENGINES[given.engine](given.work, clock)
    if clock.rounds:  # of several processes of an engine, the one that leads has them
        print("MEASURED", json.dumps({"seconds": clock.rounds, "note": note or ""}), flush=True)


if __name__ == "__main__":
    main()
