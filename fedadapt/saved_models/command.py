"""``fedadapt predict`` and ``fedadapt export``. Light: torch is loaded when a model is."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

FORMATS = ("onnx", "torch-export", "safetensors")


def _which_model(command: Any) -> Any:
    """Add the options that name one model of a run."""
    options: list[Callable[[Any], Any]] = [
        click.option("--client", type=int, help="whose model; without it the base model of all"),
        click.option(
            "--adaptation",
            default="none",
            help="the local adaptation, e.g. fine-tune; without it the model as the client got it",
        ),
        click.option(
            "--model",
            type=click.Choice(("base", "personal", "served")),
            help="base, personal, or what the client chose  [served, else personal, else base]",
        ),
        click.option("--task", type=int, help="of a task-incremental run: the number of the task"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.argument(
    "images", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="IMAGE..."
)
@_which_model
@click.option(
    "--json", "as_json", is_flag=True, help="print JSON with the probability of each class"
)
def predict(
    run: Path,
    images: tuple[Path, ...],
    client: int | None,
    adaptation: str,
    model: str | None,
    task: int | None,
    as_json: bool,
) -> None:
    """Predict the class of image files with a model that a run has saved.

    RUN is the folder of a run, the state folder of a client, or the file of one model. Images may
    have any size and format; they are brought to the size of the network as the images of the run
    were.
    """
    _find_factories()
    from fedadapt.saved_models.files import find
    from fedadapt.saved_models.load import load_with_card
    from fedadapt.saved_models.predict import predict as predictions

    network, card = load_with_card(find(run, client, adaptation, model, task))
    predicted = list(predictions(network, card, images))
    if as_json:
        rows = [
            {
                "image": p.image,
                "class": p.name,
                "confidence": p.confidence,
                "probabilities": p.probabilities,
            }
            for p in predicted
        ]
        click.echo(json.dumps(rows, indent=1))
        return
    whose = "all clients" if card.client is None else f"client {card.client}"
    table = Table(title=f"{card.label} of {whose}", box=None, header_style="bold")
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("confidence, %", justify="right")
    for p in predicted:
        table.add_row(p.image, p.name, f"{100 * p.confidence:.1f}")
    Console().print(table)


@click.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@_which_model
@click.option("--format", "form", type=click.Choice(FORMATS), required=True, help="of the file")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="the file to write")
def export(
    run: Path,
    client: int | None,
    adaptation: str,
    model: str | None,
    task: int | None,
    form: str,
    out: Path,
) -> None:
    """Write a model that a run has saved for another runtime.

    The onnx and torch-export programs take any number of images with pixels between 0 and 1,
    normalise them themselves and return logits. Each is compared with the network first.
    """
    _find_factories()
    from fedadapt.saved_models.export import export as write
    from fedadapt.saved_models.files import find
    from fedadapt.saved_models.load import load_with_card

    network, card = load_with_card(find(run, client, adaptation, model, task))
    write(network, card, form, out)
    click.echo(f"{out}: {card.label}, {out.stat().st_size:,} bytes, checked against the network")


def _find_factories() -> None:
    """Let ``module:factory`` be a file in the current folder, as for ``fedadapt simulate``."""
    if "" not in sys.path:
        sys.path.insert(0, "")
