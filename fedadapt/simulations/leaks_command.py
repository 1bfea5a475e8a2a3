"""``fedadapt leaks``: near duplicates between what is trained on and what is tested on."""

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from fedadapt.config import RunConfig
from fedadapt.parameters import parameters
from fedadapt.simulations.run_options import config_of, prepare, run_options

OF_DATA = (
    "benchmark", "data_root", "partition", "shift", "quantity", "imbalance", "clients", "unseen",
    "split", "adapt_share", "test_share", "examples", "image_size", "seed",
)  # fmt: skip
"""The settings that decide which client holds what."""


@click.command()
@run_options(*(name for name in parameters(RunConfig) if name not in OF_DATA))
@click.option(
    "--alike",
    type=float,
    default=0.03,
    show_default=True,
    help="images: root mean square difference, of 0 to 1, of near duplicates",
)
@click.option(
    "--shared",
    type=float,
    default=0.25,
    show_default=True,
    help="series and tokens: share of the length that two have in common",
)
def leaks(alike: float, shared: float, **options: Any) -> None:
    """Count test inputs that are nearly the same as inputs that are trained on.

    Images are compared by their shrunken pictures, series and tokens by stretches that they share.
    """
    from fedadapt.datasets.load import load_benchmark
    from fedadapt.datasets.near_duplicates import find_leaks

    prepare(verbose=False)
    benchmark = load_benchmark(config_of(options))
    table = Table(box=None, header_style="bold")
    for head in ("inputs of", "nearly the same in", "of the same client", "%", "of others only"):
        table.add_column(head, justify="left" if head.endswith((" of", " in")) else "right")
    for leak in find_leaks(benchmark, alike, shared):
        numbers = (f"{leak.number:,} of {leak.total:,}", f"{100 * leak.share:.2f}")
        table.add_row(leak.side, leak.against, *numbers, f"{leak.other_clients:,}")
    Console().print(table)
