"""A guard against getting slower: W1 to W3 beside the bare loop, in under a minute.

  python -m benchmarks.guard                      # beside what is kept
  python -m benchmarks.guard --json speed.json    # and written to a file
  python -m benchmarks.guard --keep               # written over what is kept

fedadapt and the bare loop (channels last where there are convolutions) take turns in one process on
one thread, on few clients, and only the ratio of their processor time is looked at: it is nearly
the same on a busy machine. What is kept is kept for each kind of processor (AVX2, AVX512, ...),
since wider arithmetic makes a loop over convolutions faster, and passes over memory not. It is a
report, and never fails: who reads it decides.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.engines.bare import Loop
from benchmarks.rounds import Turn, rounds
from benchmarks.works import WORKS, Work
from fedadapt.simulations.engines.kept_pages import keep_pages

KEPT = Path(__file__).parent / "results" / "guard.json"
CLIENTS = {"W1": 100, "W2": 16, "W3": 10}
REPEATS = 3
SLOWER = 0.85  # of what is kept: more than turns differ by


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.guard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--json", type=Path, help="write the report to this file")
    parser.add_argument("--keep", action="store_true", help=f"write it to {KEPT.name}")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_pages()  # as a worker does
    kind = torch.backends.cpu.get_cpu_capability()
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    works = {
        name: measured(replace(WORKS[name], clients=n), given.repeats)
        for name, n in CLIENTS.items()
    }
    report = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "works": works,
    }
    if given.json:
        _write(given.json, {kind: report})
    if given.keep:
        _write(KEPT, kept | {kind: report})
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table(works, kept.get(kind, {}).get("works", {})))


def measured(work: Work, repeats: int) -> dict[str, float]:
    """How many times as fast as the bare loop, and what either takes of the processor."""
    with tempfile.TemporaryDirectory() as folder:
        turns = (rounds(work, Path(folder)), bare_rounds(work))
        for turn in turns:  # the first round has what is done once
            turn()
        pairs = [[_seconds(turn) for turn in turns] for _ in range(repeats)]
    ours, bare = (statistics.median(column) / work.clients for column in zip(*pairs, strict=True))
    return {
        "clients": work.clients,
        "times the bare loop": round(statistics.median(b / a for a, b in pairs), 3),
        "CPU ms a client": round(1000 * ours, 4),
        "of the bare loop": round(1000 * bare, 4),
    }


def bare_rounds(work: Work) -> Turn:
    """Return the next round of the bare loop, computed here, at each call."""
    loop = Loop(work, channels_last=len(work.shape) == 3 and work.model != "mlp", bf16=False)
    shared = loop.flat()
    total = torch.zeros_like(shared)

    def turn() -> None:
        loop.compute(shared, range(work.clients), total)
        shared.copy_(total / loop.examples)

    return turn


def table(
    works: Mapping[str, Mapping[str, float]], kept: Mapping[str, Mapping[str, float]]
) -> Table:
    """A row for each work, beside what is kept."""
    shown = Table("work", "clients", "CPU ms a client", "bare loop", "times", "kept", "")
    for name, one in works.items():
        ratio, before = one["times the bare loop"], kept.get(name, {}).get("times the bare loop")
        shown.add_row(
            name,
            f"{one['clients']:.0f}",
            f"{one['CPU ms a client']:.3g}",
            f"{one['of the bare loop']:.3g}",
            f"{ratio:.2f}",
            f"{before:.2f}" if before else "",
            "SLOWER" if before and ratio < SLOWER * before else "",
        )
    return shown


def _write(path: Path, reports: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(reports, indent=1) + "\n")


def _seconds(turn: Turn) -> float:
    began = time.process_time()
    turn()
    return time.process_time() - began


if __name__ == "__main__":
    main()
