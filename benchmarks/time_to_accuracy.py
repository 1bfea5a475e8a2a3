"""Time to an accuracy on real data, engine beside engine: `python -m benchmarks.time_to_accuracy`.

MNIST and CIFAR-10, divided by Dirichlet(0.1) over labels, batches of 10, one local epoch, all
clients in each round: FedAvg as the public libraries run it. Every engine gets the same images of
the same clients, the same network with the same initial weights, the same learning rate and the
same budget; engines take turns, each measurement in a process of its own. The global model is
looked at after each round, on all clients' test images together, while the clock stands still.
Start-up is left out, and the first round, in which some engines still start, counts as long as the
median of the others.

  python -m benchmarks.time_to_accuracy --examples 100 --clients 20 --target 0.9
  python -m benchmarks.time_to_accuracy --data cifar10 --models resnet18 --target 0.4

Data lie in $FEDADAPT_DATA. fluke-fl and pfl-research need environments of their own, beside what
fedadapt needs: give their interpreters. PFLlib is a repository: give its folder.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import real_work
from benchmarks.engines.pfllib import FOLDER
from benchmarks.process import Found, measured, python_with_pfl
from benchmarks.works import Work
from fedadapt.config import RunConfig
from fedadapt.errors import InputError

TITLES = {
    "flower": "stock Flower (Ray)",
    "pfl": "pfl-research",
    "fluke": "fluke",
    "pfllib": "PFLlib",
    "bare-cl": "bare loop, channels last",
    "ours": "fedadapt",
}
PARTITION = "dirichlet:0.1"
BATCH = 10
TARGETS = {"mnist": 0.95, "cifar10": 0.45}
RATES = {"mnist": 0.05, "cifar10": 0.05}
MISSING = {
    "pfl": "not there: pip install pfl, or --pfl-python",
    "fluke": "not there: pip install fluke-fl into an environment and give --fluke-python",
    "pfllib": "not there: give the folder of the repository, --pfllib",
}


class Reached(NamedTuple):
    """What a target took."""

    rounds: int
    seconds: float
    cpu_seconds: float  # of all processes together


def main(arguments: Sequence[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    if given.pfllib:
        os.environ[FOLDER] = str(given.pfllib.resolve())
    pythons = {
        "pfl": python_with_pfl(given.pfl_python),
        "fluke": given.fluke_python,
        "pfllib": sys.executable if given.pfllib else "",
    }
    facts: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for data, model, clients in product(given.data, given.models, given.clients):
            if model == "resnet18" and data == "mnist":
                console.print("mnist, resnet18: left out; nobody trains it on that")
                continue
            target = given.target or TARGETS[data]
            found: dict[str, list[Found]] = {engine: [] for engine in given.engines}
            for seed in given.seeds:
                config = _config(data, model, clients, seed, given)
                try:
                    work = real_work.written(config, Path(folder) / f"{data}-{clients}-{seed}.npz")
                except InputError as error:
                    raise SystemExit(str(error)) from None
                for engine in given.engines:
                    python = pythons.get(engine, sys.executable)
                    if not python:
                        found[engine].append(Found([], MISSING[engine]))
                        continue
                    with console.status(f"{data}, {model}, {clients}, {seed}: {TITLES[engine]}"):
                        found[engine].append(_run(engine, work, target, python, given))
                    facts.append(_facts(engine, work, seed, target, found[engine][-1]))
                    if given.json:
                        given.json.write_text(json.dumps(facts, indent=1))
            said = f"{data}, {model}, {clients} clients of {work.examples} training images at most"
            console.print(f"[bold]{said}[/bold], to {target:.0%}, learning rate {work.lr:g}")
            console.print(table(found, target))


def _run(engine: str, work: Work, target: float, python: str, given: argparse.Namespace) -> Found:
    budget = ("--target", str(target), "--rounds", str(given.rounds))
    return measured(engine, work.data, given.seconds, python=python, more=budget)


def _config(data: str, model: str, clients: int, seed: int, given: argparse.Namespace) -> RunConfig:
    return RunConfig(
        benchmark=data,
        partition=PARTITION,
        clients=clients,
        examples=given.examples,
        test_share=real_work.TEST_SHARE,
        adapt_share=real_work.UNUSED_SHARE,
        model=model,
        batch_size=BATCH,
        lr=given.lr or RATES[data],
        momentum=0.0,
        seed=seed,
    )


def reached(looks: Sequence[Sequence[float]], target: float) -> Reached | None:
    """What the target took; None where it was not reached.

    Args:
        looks: After each round: seconds and processor seconds since the start, and the accuracy.

    """
    for count, (seconds, cpu, accuracy) in enumerate(looks, start=1):
        if accuracy >= target:
            return Reached(count, seconds - _excess(looks, 0), cpu - _excess(looks, 1))
    return None


def _excess(looks: Sequence[Sequence[float]], which: int) -> float:
    """By how much the first round was longer than the median of the others; 0 of a round alone."""
    ends = [look[which] for look in looks]
    later = [b - a for a, b in pairwise(ends)]
    return max(0.0, ends[0] - statistics.median(later)) if later else 0.0


def table(found: Mapping[str, Sequence[Found]], target: float) -> Table:
    """A row for each engine: medians over seeds, and how many times as long as ours."""
    columns = ("rounds", "seconds", "CPU seconds", "times ours", "... CPU", "accuracy")
    shown = Table("engine", *columns, "")
    all_reached = {
        engine: [r for one in each if (r := reached(one.looks, target)) is not None]
        for engine, each in found.items()
    }
    ours = all_reached.get("ours", [])
    for engine, each in found.items():
        own, cells = all_reached[engine], ["", "", "", "", ""]
        note = each[-1].note if each else ""
        last = [one.looks[-1][2] for one in each if one.looks]
        if own:
            cells = [_median(r.rounds for r in own), *_times(own)]
            cells += _beside(own, ours)
        if last and len(own) < len(each):
            note = f"{len(own)} of {len(each)} seeds reached it; {note}".rstrip("; ")
        accuracy = f"{statistics.median(last):.1%}" if last else ""
        shown.add_row(TITLES[engine], *cells, accuracy, note)
    return shown


def _times(own: Sequence[Reached]) -> list[str]:
    return [_median(r.seconds for r in own), _median(r.cpu_seconds for r in own)]


def _beside(own: Sequence[Reached], ours: Sequence[Reached]) -> list[str]:
    if not ours:
        return ["", ""]
    medians = [
        [statistics.median(reached[which] for reached in each) for each in (own, ours)]
        for which in (1, 2)
    ]
    return [f"{theirs / own:.2f}" for theirs, own in medians]


def _median(numbers: object) -> str:
    return f"{statistics.median(numbers):.3g}"  # type: ignore[call-overload]


def _facts(engine: str, work: Work, seed: int, target: float, found: Found) -> dict[str, object]:
    took = reached(found.looks, target)
    return {
        "data": work.name,
        "model": work.model,
        "clients": work.clients,
        "seed": seed,
        "engine": engine,
        "target": target,
        "reached": took._asdict() if took else None,
        "looks": found.looks,
        "note": found.note,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.time_to_accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", nargs="+", default=["mnist", "cifar10"], choices=list(TARGETS))
    parser.add_argument("--models", nargs="+", default=["cnn", "resnet18"])
    parser.add_argument("--clients", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--examples", type=int, default=0, help="of a client at most; 0: all")
    parser.add_argument("--target", type=float, help=f"accuracy (default: {TARGETS})")
    parser.add_argument("--lr", type=float, help=f"learning rate (default: {RATES})")
    parser.add_argument("--rounds", type=int, default=200, help="at most so many")
    parser.add_argument("--seconds", type=float, default=600.0, help="at most, of a measurement")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--engines", nargs="+", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--pfl-python", default="", help="interpreter of an environment with pfl")
    parser.add_argument("--fluke-python", default="", help="... with fluke-fl")
    parser.add_argument("--pfllib", type=Path, help="folder of PFLlib's repository")
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    return parser


if __name__ == "__main__":
    main()
