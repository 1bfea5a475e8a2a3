"""What methods cost beside FedAvg, and beside their own arithmetic: `python -m benchmarks.methods`.

Each method takes turns with FedAvg (FedAvg, method, FedAvg, method, ...) in one process on one
thread, and processor time is what counts, so that other programs disturb little. Shown is how many
times FedAvg's multiply-adds and how many times its time a client takes, by the medians over turns,
and their ratio: the share of FedAvg's speed that the method reaches in its own arithmetic. Below
0.8 a method spends its time on something else.

Multiply-adds are counted, not derived: of two clients whose networks compute as they are, one by
one, in the round that is timed. Strategies are timed in a training round that is like the next,
FedAvg's as well; DUA's in the importances of two experts on every client and their merge; local
adaptations from the model received to the tested adapted model, and once more what they ask the
federation beforehand, in their rows with a question mark.
"""

import argparse
import cProfile
import json
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.arithmetic import multiply_adds
from benchmarks.rounds import Turn, evaluations, merges, questions, rounds
from benchmarks.works import WORKS, Work, parsed
from fedadapt.client.adaptations import registry as adaptations
from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.models.build import build_model
from fedadapt.models.norms import has_batch_norm
from fedadapt.parameters import parameters
from fedadapt.simulations.engines.kept_pages import keep_pages
from fedadapt.strategies.registry import find as find_strategy

FEDAVG = "fedavg"
STRATEGIES = ("fedrep", "ditto", "apfl", "fedala", "pfa", "mas-racl")
ARGUMENTS = {"pfa": "federated_rounds=1 groups=2"}
WARM_UP = 2  # rounds, after which every further one of a strategy above is alike
EPOCHS = 2  # of adaptations, which have up to 150 by default: every epoch costs the same
COUNTED = 2  # clients
ENOUGH = 0.8  # of FedAvg's speed, in the same arithmetic


@dataclass(frozen=True)
class Cost:
    """One method on one work."""

    work: str
    method: str
    arithmetic: float  # times FedAvg's multiply-adds
    seconds: list[float]  # of the processor, a client, one number a turn
    beside: list[float]  # FedAvg's, in the same turns

    @property
    def times(self) -> float:
        """How many times FedAvg's processor time, by the median over turns."""
        return statistics.median(a / b for a, b in zip(self.seconds, self.beside, strict=True))

    @property
    def share(self) -> float:
        """Of FedAvg's multiply-adds a second; nan where there are none."""
        return self.arithmetic / self.times if self.arithmetic else float("nan")


def main(arguments: Sequence[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 110)
    torch.set_num_threads(1)
    keep_pages()  # as a worker does
    found: list[Cost] = []
    for work in given.work:
        with ExitStack() as stack:
            beside = _ready(work, FEDAVG, stack), counted(work, FEDAVG)
            for method in _methods(work, given):
                with console.status(f"{work.name}: {method}"):
                    found.append(cost(work, method, beside, given.repeats))
                    if given.profile:
                        _profile(work, method, console)
                if given.json:
                    given.json.write_text(json.dumps([_facts(one) for one in found], indent=1))
        _show(console, work, [one for one in found if one.work == work.name])


def cost(work: Work, method: str, beside: tuple[Turn, float], repeats: int) -> Cost:
    """Count a method, and time it in turns with FedAvg.

    Args:
        beside: FedAvg's next round, and its multiply-adds a client.

    """
    base, of_base = beside
    with ExitStack() as stack:
        own = _ready(work, method, stack)
        pairs = [(_seconds(base), _seconds(own)) for _ in range(repeats)]
    return Cost(
        work.name,
        method,
        counted(work, method) / of_base,
        [seconds / work.clients for _, seconds in pairs],
        [seconds / work.clients for seconds, _ in pairs],
    )


def counted(work: Work, method: str) -> float:
    """Multiply-adds a client of what is timed, in the network as it is."""
    with ExitStack() as stack:
        turn = _ready(replace(work, clients=COUNTED), method, stack, execution="sequential")
        return multiply_adds(turn) / COUNTED


def turn_of(work: Work, method: str, folder: Path, **settings: Any) -> Turn:
    """What is timed of a method, by its name; a question mark behind it: what it asks."""
    if method.endswith("?"):
        name = method.removesuffix("?")
        return questions(work, folder, name, adapt_args=_adapt_args(name, work), **settings)
    if method in adaptations.ADAPTATIONS.names():
        return evaluations(work, folder, method, adapt_args=_adapt_args(method, work), **settings)
    if find_strategy(method).learns_tasks:
        return merges(work, folder, method, **settings)
    words = ARGUMENTS.get(method, "")
    return rounds(work, folder, strategy=method, strategy_args=words, **settings)


def _adapt_args(name: str, work: Work) -> str:
    """Few epochs in FedAvg's batches, where an adaptation has epochs and batches."""
    few = {"epochs": EPOCHS, "batch_size": work.batch}
    known = parameters(adaptations.find(name))
    return " ".join(f"{name}.{key}={value}" for key, value in few.items() if key in known)


def _ready(work: Work, method: str, stack: ExitStack, **settings: Any) -> Turn:
    """What is timed of a method, when it has been done often enough that it is always alike."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    turn = turn_of(work, method, folder, **settings)
    for _ in range(WARM_UP):
        turn()
    return turn


def _seconds(turn: Turn) -> float:
    began = time.process_time()
    turn()
    return time.process_time() - began


def _profile(work: Work, method: str, console: Console) -> None:
    """Where the time goes, by functions' own time."""
    with ExitStack() as stack:
        turn, profile = _ready(work, method, stack), cProfile.Profile()
        profile.runcall(turn)
    console.print(f"{work.name}: {method}")
    pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(20)


def _methods(work: Work, given: argparse.Namespace) -> Iterator[str]:
    """Those asked for, or all that can do the work; adaptations that ask something twice."""
    normalised = has_batch_norm(build_model(RunConfig(model=work.model), work.shape, 10))
    yield from STRATEGIES if given.methods is None else ()
    names = adaptations.ADAPTATIONS.names() if given.methods is None else given.methods
    for name in names:
        if name.removesuffix("?") in adaptations.ADAPTATIONS.names():
            cls = adaptations.find(name.removesuffix("?"))
            if cls.needs_batch_norm and not normalised:
                continue
            if cls().query() is not None and not name.endswith("?"):
                yield f"{name}?"
        yield name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.methods",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--work",
        type=lambda text: [_training(word) for word in text.split(",")],
        default=[WORKS["W1"], WORKS["W3"]],
        help="of W1, W2, W3, separated by commas; W1:20 for another number of clients",
    )
    parser.add_argument(
        "--methods",
        type=_names,
        help=f"strategies and adaptations (default: {', '.join(STRATEGIES)}, all adaptations)",
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="show functions by their own time")
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    return parser


def _training(word: str) -> Work:
    work = parsed(word)
    if work.kind != "train":
        raise argparse.ArgumentTypeError(f"{word!r}; clients train in W1, W2 and W3 only")
    return work


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        try:
            if name.removesuffix("?") not in adaptations.ADAPTATIONS.names():
                find_strategy(name)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return names


def _show(console: Console, work: Work, found: Sequence[Cost]) -> None:
    console.print(f"[bold]{work.name}[/bold]: {work.clients} clients, {work.title}")
    columns = ("CPU ms a client", "clients/CPU s", "times FedAvg's arithmetic", "... time", "share")
    table = Table("method", *columns, "")
    beside = [seconds for one in found for seconds in one.beside]
    if beside:
        table.add_row(FEDAVG, *_speeds(beside), "1", "1", "1", "")
    for one in found:
        cells = (f"{one.arithmetic:.2f}", f"{one.times:.2f}", f"{one.share:.2f}")
        table.add_row(
            one.method, *_speeds(one.seconds), *cells, "" if one.share >= ENOUGH else "below 0.8"
        )
    console.print(table)


def _speeds(seconds: Sequence[float]) -> tuple[str, str]:
    median = statistics.median(seconds)
    return f"{1000 * median:.3g}", f"{1 / median:,.0f}"


def _facts(one: Cost) -> dict[str, object]:
    return {
        "work": one.work,
        "method": one.method,
        "times FedAvg's multiply-adds": one.arithmetic,
        "times FedAvg's time": one.times,
        "share": one.share,
        "CPU seconds a client": one.seconds,
        "FedAvg's": one.beside,
    }


if __name__ == "__main__":
    main()
