"""What one core can do at most on the products of W1 and W2: `python -m benchmarks.limits`.

Each rate is that of one operator, repeated while its data stay in the cache: the share of it that a
whole round reaches is told by `benchmarks.speed` and `benchmarks.guard`. Of several repetitions the
fastest quarter counts, in processor time, so neighbours disturb little.
"""

import json
import time
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from benchmarks.works import BATCH
from fedadapt.simulations.engines.kept_pages import keep_pages

STACKED = 25  # clients of W1 in a product
LAYERS = ((64, 100), (100, 100), (100, 10))  # inputs and outputs of W1's
REPEATS = 40


def main() -> None:
    parser = ArgumentParser(prog="python -m benchmarks.limits", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rates to this file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    keep_pages()  # as a worker does
    rates = {"matrix 1024": rate(_matrix(1024))} | _w1() | _w2()
    table = Table("product", "GFLOP/s")
    for name, value in rates.items():
        table.add_row(name, f"{value:.0f}")
    Console().print(table)
    if given.json:
        given.json.write_text(json.dumps(rates, indent=1))


Work = tuple[Callable[[], Any], float]  # and its floating-point operations


def rate(work: Work) -> float:
    """Return GFLOP/s."""
    run, operations = work
    run()
    seconds = []
    for _ in range(REPEATS):
        began = time.process_time()
        for _ in range(10):
            run()
        seconds.append((time.process_time() - began) / 10)
    return operations / sorted(seconds)[REPEATS // 4] / 1e9


def _matrix(size: int) -> Work:
    a = torch.randn(size, size)
    return lambda: a @ a, 2.0 * size**3


def _w1() -> dict[str, float]:
    """Return the rates of the products of a stack of clients, layer by layer."""
    rates = {}
    for seen, made in LAYERS:
        x, dy = torch.randn(STACKED, BATCH, seen), torch.randn(STACKED, BATCH, made)
        weight, bias = torch.randn(STACKED, made, seen), torch.randn(STACKED, 1, made)
        velocity = torch.zeros_like(weight)
        operations = 2.0 * STACKED * BATCH * seen * made

        kinds = {
            "forward": partial(torch.baddbmm, bias, x, weight.transpose(1, 2)),
            "backward to its input": partial(torch.bmm, dy, weight),
            "gradient, new memory": partial(torch.bmm, dy.transpose(1, 2), x),
            "gradient, added to a velocity": partial(
                velocity.baddbmm_, dy.transpose(1, 2), x, beta=0.5
            ),
        }
        for kind, run in kinds.items():
            rates[f"W1 {seen} to {made}, {kind}"] = rate((run, operations))
    return rates


def _w2() -> dict[str, float]:
    """Return the rates of the second convolution of `cnn`, as oneDNN computes it, channels last."""
    shape = {"memory_format": torch.channels_last}
    x = torch.randn(BATCH, 32, 14, 14).to(**shape)
    weight, dy = torch.randn(64, 32, 3, 3).to(**shape), torch.randn(BATCH, 64, 14, 14).to(**shape)
    operations = 2.0 * BATCH * 14 * 14 * 64 * 32 * 9

    def backward(*wanted: bool) -> Any:
        return torch.ops.aten.convolution_backward(
            dy, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [*wanted, False]
        )

    patches, filters = torch.randn(BATCH * 14 * 14, 288), torch.randn(288, 64)
    kinds = {
        "forward": lambda: F.conv2d(x, weight, None, 1, 1),
        "backward to its input": lambda: backward(True, False),
        "gradient of its filters": lambda: backward(False, True),
        "forward as a product of patches that are there": lambda: patches @ filters,
    }
    return {f"W2, {kind}": rate((run, operations)) for kind, run in kinds.items()}


if __name__ == "__main__":
    main()
