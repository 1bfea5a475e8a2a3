"""Devices trained per second: the in-process engine beside a bare PyTorch loop, in one run.

Work: 100 digits devices with an MLP, 20 of 28 x 28 images with the small CNN; one local epoch,
batches of 20, SGD 0.05 with momentum 0.5. Start-up and the first round are left out.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from fedadapt.client.fit import Sgd
from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Benchmark, Examples, Manifest, Scaling, Split
from fedadapt.messages import Sent
from fedadapt.models.build import build_model
from fedadapt.simulations.in_process import InProcessFleet
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.base import LocalTraining
from fedadapt.strategies.fedavg import FedAvg
from fedadapt.weights import repeat

BATCH, EXAMPLES = 20, 100
WORK: dict[str, tuple[int, tuple[int, int, int]]] = {
    "mlp": (100, (1, 8, 8)),
    "cnn": (20, (1, 28, 28)),
}


class Noise(Benchmark):
    """Devices with random images: only the arithmetic matters here."""

    def __init__(self, devices: int, shape: tuple[int, int, int]) -> None:
        self.name, self.num_devices, self.image_shape = "noise", devices, shape
        self.classes = tuple("0123456789")
        self.scaling = Scaling((0.5,) * shape[0], (0.5,) * shape[0])
        self.kinds, self.unseen = ("all",) * devices, frozenset()
        self.manifest = Manifest("", {})

    def split(self, device: int) -> Split:
        draw = torch.Generator().manual_seed(device)
        inputs = torch.randint(0, 256, (EXAMPLES, *self.image_shape), generator=draw)
        labels = torch.randint(0, 10, (EXAMPLES,), generator=draw)
        mine = Examples(inputs.to(torch.uint8), labels)
        return Split(mine, mine, mine)

    def num_train_examples(self, device: int) -> int:
        return EXAMPLES

    @property
    def global_test(self) -> None:
        return None


def engine(
    benchmark: Benchmark, model: nn.Module, *, stacked: bool, threads: int
) -> Callable[[], None]:
    """A round of the in-process engine."""
    training = LocalTraining(optimizer=Sgd(0.05, 0.5), batch_size=BATCH, epochs=1)
    strategy = FedAvg(model=model, training=training)
    worker = Worker(benchmark, model, strategy, [], seed=1, stacked=stacked)  # type: ignore[arg-type]
    devices = tuple(range(benchmark.num_devices))
    start = {n: t.detach() for n, t in model.state_dict().items()}
    sent = Sent(devices, repeat(start, len(devices)), {"server-round": 1})

    def round() -> None:
        size = 25 if stacked else 1
        with InProcessFleet(worker, num_threads=threads, cohort_size=size) as fleet:
            answers = fleet.ask("train", 1, sent, start)
            strategy.merge(start, "train", 1, answers)

    return round


def bare(benchmark: Benchmark, model: nn.Module) -> Callable[[], None]:
    """What one would write by hand: one process, one thread, a module and an optimiser a device."""
    splits = [benchmark.split(d).train for d in range(benchmark.num_devices)]

    def round() -> None:
        total = {n: torch.zeros_like(t, dtype=torch.float64) for n, t in model.state_dict().items()}
        for mine in splits:
            net = copy.deepcopy(model).train()
            optimizer = torch.optim.SGD(net.parameters(), 0.05, 0.5)
            for rows in torch.randperm(len(mine)).split(BATCH):
                optimizer.zero_grad()
                logits = net(benchmark.scaling(mine.inputs[rows]))
                nn.functional.cross_entropy(logits, mine.labels[rows]).backward()
                optimizer.step()
            for n, t in net.state_dict().items():
                total[n] += t / len(splits)

    return round


def measure(candidates: dict[str, Callable[[], None]], devices: int, repeat: int) -> None:
    """Take turns, so that a slow minute of the machine is everybody's."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(repeat + 1):
        for name, run in candidates.items():
            began = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    rate = {name: [devices / s for s in times] for name, times in seconds.items()}
    floor = statistics.median(rate["bare loop, 1 thread"])
    table = Table("engine", "devices/s", "spread", "times the bare loop")
    for name, rates in rate.items():
        median = statistics.median(rates)
        spread = f"{min(rates):.0f} to {max(rates):.0f}"
        table.add_row(name, f"{median:.0f}", spread, f"{median / floor:.2f}")
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", nargs="?", choices=list(WORK), help="default: all")
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in [given.work] if given.work else WORK:
        devices, shape = WORK[name]
        benchmark = Noise(devices, shape)
        model = build_model(RunConfig(model=name), shape, 10)
        print(f"{name}: {devices} devices of {EXAMPLES} images {shape}")
        candidates = {
            "bare loop, 1 thread": bare(benchmark, model),
            "one by one, 1 thread": engine(benchmark, model, stacked=False, threads=1),
            "one by one, 2 threads": engine(benchmark, model, stacked=False, threads=2),
            "stacked, 1 thread": engine(benchmark, model, stacked=True, threads=1),
            "stacked, 2 threads": engine(benchmark, model, stacked=True, threads=2),
        }
        measure(candidates, devices, given.repeat)


if __name__ == "__main__":
    main()
