"""Print the results of a reproduction and write them beside its runs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import click
from rich.console import Console

from fedadapt.reproductions.table import Grid
from fedadapt.simulations.results.parquet import put


def show(grids: Iterable[Grid]) -> None:
    """Print tables."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a log can be as wide as it takes
    for grid in grids:
        console.print(grid.to_rich(), "")


def publish(
    folder: Path,
    name: str,
    grids: Iterable[Grid],
    metadata: Mapping[str, object],
    pictures: Sequence[Path],
) -> None:
    """Print tables, and write them as ``name.md`` and their data as ``name.json``.

    ``pictures`` are files that are there already: a picture, and mostly a page.
    """
    grids = list(grids)
    show(grids)
    text = "\n".join(grid.to_markdown() for grid in grids)
    put(folder / f"{name}.json", json.dumps(metadata).encode())
    page = put(folder / f"{name}.md", text.encode())
    for picture in pictures:
        click.echo(picture)
    click.echo(page)
