"""What a GPU computes and how fast: called by `benchmarks/gpu.sh`, which limits its time.

First the limits of the card: products of large matrices, and copies. Then, for each work, whether a
round on the card gives what it gives on the CPU, in float32 and without TF32. Then clients a second
of W1 to W3, of queries and of adaptations, beside both limits: the multiply-adds of a round, which
are counted as the network has them, and the bytes that its operations read and write, counted as
they run. Results are written after each step: whatever is there when time is over is there.

With `--device cpu` everything takes the same path on few clients: a rehearsal.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.arithmetic import multiply_adds
from benchmarks.engines.ours import IMPORTANCE, SPARSITY, assembly
from benchmarks.methods import COUNTED, FEDAVG, turn_of
from benchmarks.rounds import Turn
from benchmarks.works import WORKS, Work
from fedadapt.messages import Sent, Update
from fedadapt.simulations.assembly import initial
from fedadapt.weights import Weights, repeat

CLOSE = {"rtol": 1e-3, "atol": 1e-4}  # of float32 after an epoch, summed in another order
CHECKED = {"W1": 20, "W2": 8, "W3": 8}  # clients
TIMED = {"W1": 1000, "W2": 200, "W3": 200}
REHEARSED = {"W1": 10, "W2": 2, "W3": 2}
QUERIES = {"sparsity": SPARSITY, "mas": IMPORTANCE}
ADAPTATIONS = ("adabn", "adabn-s", "fine-tune", "tent", "shot-im", "t3a")
REPEATS = 3


class Traffic(TorchDispatchMode):
    """Bytes that operations read and write, as they run one after the other; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **kwargs or {})
        if not func.is_view:
            for leaf in tree_leaves((args, kwargs, made)):
                if isinstance(leaf, Tensor):
                    self.bytes += _held(leaf)
        return made


def _held(tensor: Tensor) -> int:
    """Bytes of a tensor; an expanded view has each number once."""
    pairs = (
        zip(tensor.shape, tensor.stride(), strict=True) if tensor.layout == torch.strided else ()
    )
    count = 1
    for size, stride in pairs:
        count *= size if stride or size == 0 else 1
    return count * tensor.element_size()


class Report:
    """Results so far, in a file at all times."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts: dict[str, Any] = {"checks": {}, "speeds": {}}

    def add(self, part: str, name: str, facts: object) -> None:
        self.facts[part][name] = facts
        self.path.write_text(json.dumps(self.facts, indent=1))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--json", type=Path, required=True, help="file for the results")
    parser.add_argument("--seconds", type=float, default=420.0, help="begin nothing after so many")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "device: cuda, and torch finds no card; --device cpu rehearses without one"
        )
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    console, report = Console(width=None if sys.stdout.isatty() else 110), Report(given.json)
    ends = time.perf_counter() + given.seconds
    on_card = given.device == "cuda"
    report.facts["where"] = _where(given.device)
    report.facts["limits"] = limits = limits_of(given.device, size=8192 if on_card else 512)
    for name, count in (CHECKED if on_card else REHEARSED).items():
        differs = difference(replace(WORKS[name], clients=count), given.device)
        report.add("checks", name, differs)
        console.print(f"{name}: {differs}")
    for one in timed(given.device, TIMED if on_card else REHEARSED):
        if time.perf_counter() > ends:
            report.add("speeds", one.name, "no time was left")
            continue
        with tempfile.TemporaryDirectory() as folder:
            report.add("speeds", one.name, speed(one, Path(folder), given.device, limits))
    console.print(table(report.facts))
    wrong = [name for name, one in report.facts["checks"].items() if not one["alike"]]
    if wrong:
        raise SystemExit(f"{given.device} and the CPU differ: {', '.join(wrong)}")


class Timed(NamedTuple):
    """One line of the results."""

    name: str
    work: Work
    make: Callable[..., Turn]  # of work, folder and settings of the run


def timed(device: str, counts: Mapping[str, int]) -> list[Timed]:
    """Rounds of W1 to W3, then queries, then adaptations."""
    works = {name: replace(WORKS[name], clients=count) for name, count in counts.items()}
    train = partial(turn_of, method=FEDAVG)
    found = [Timed(name, work, train) for name, work in works.items()]
    if device == "cuda":
        half = partial(train, precision="bf16")
        found += [Timed(f"{name}, bf16", work, half) for name, work in works.items()]
    for name, action in QUERIES.items():
        work = replace(WORKS[name], clients=counts["W1"])
        found.append(Timed(name, work, partial(asked, action=action)))
    work = list(works.values())[-1]
    for name in ADAPTATIONS:
        found.append(Timed(f"{name}, {work.name}", work, partial(turn_of, method=name)))
    return found


def asked(work: Work, folder: Path, action: str, **settings: Any) -> Turn:
    """Return a query to all clients, cohort by cohort; nothing goes to ``folder``."""
    made = assembly(work, workers=1, **settings)
    start = {n: t.clone() for n, t in initial(made.model).items()}

    def turn() -> None:
        for first in range(0, work.clients, made.plan.cohort_size):
            clients = tuple(range(first, min(first + made.plan.cohort_size, work.clients)))
            made.worker.answer(action, 1, Sent(clients, repeat(start, len(clients)), {}))

    return turn


def difference(work: Work, device: str) -> dict[str, Any]:
    """How far what clients train on a device is from what they train on the CPU."""
    trained: list[Weights] = []
    for where in ("cpu", device):
        made = assembly(work, workers=1, device=where)
        start = {n: t.clone() for n, t in initial(made.model).items()}
        clients = tuple(range(work.clients))
        update: Update = made.worker.answer(
            "train", 1, Sent(clients, repeat(start, work.clients), {})
        )
        trained.append(update.weights)
    ours, theirs = trained
    furthest = max((ours[n] - theirs[n]).abs().max().item() for n in ours)
    alike = all(torch.allclose(ours[n], theirs[n], **CLOSE) for n in ours)
    return {"alike": alike, "furthest": furthest, "clients": work.clients}


def limits_of(device: str, size: int) -> dict[str, float]:
    """Multiply-adds a second of large products, and bytes a second of copies."""
    limits = {}
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        limits[f"multiply-adds, {name}"] = size**3 / _fastest(lambda a=a, b=b: a @ b, device)
    long = torch.empty(64 * size * size // 16, device=device)
    other = torch.empty_like(long)
    limits["bytes"] = 2 * long.nbytes / _fastest(lambda: other.copy_(long), device)
    return limits


def speed(one: Timed, folder: Path, device: str, limits: Mapping[str, float]) -> dict[str, Any]:
    """Clients a second, and the shares of both limits."""
    work, few = one.work, replace(one.work, clients=COUNTED)
    plain = {"execution": "sequential", "precision": "float32", "device": "cpu"}
    counted = one.make(work=few, folder=folder, **plain)
    arithmetic = multiply_adds(counted) / few.clients * work.clients
    turn = one.make(work=work, folder=folder, device=device)
    turn()
    with Traffic() as traffic:
        turn()
    times = [_seconds(turn, device) for _ in range(REPEATS)]
    seconds = statistics.median(times)
    return {
        "clients": work.clients,
        "clients per second": work.clients / seconds,
        "seconds": times,
        "of the matrix rate": arithmetic / seconds / limits["multiply-adds, float32"],
        "of the bandwidth": traffic.bytes / seconds / limits["bytes"],
    }


def table(facts: dict[str, Any]) -> Table:
    """A row for each measurement."""
    shown = Table("work", "clients", "clients/s", "of the matrix rate", "of the bandwidth")
    for name, one in facts["speeds"].items():
        if isinstance(one, str):
            shown.add_row(name, one)
            continue
        shares = (f"{one[f'of the {limit}']:.1%}" for limit in ("matrix rate", "bandwidth"))
        shown.add_row(name, str(one["clients"]), f"{one['clients per second']:,.0f}", *shares)
    return shown


def _seconds(run: Callable[[], object], device: str) -> float:
    _wait(device)
    began = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - began


def _fastest(run: Callable[[], object], device: str) -> float:
    run()
    return min(_seconds(run, device) for _ in range(5))


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _where(device: str) -> dict[str, str]:
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
    return {"device": device, "name": name, "torch": torch.__version__}


if __name__ == "__main__":
    main()
