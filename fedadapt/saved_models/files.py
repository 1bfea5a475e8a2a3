"""Files of saved models: where they lie, and how they are written, found and read.

``models/base.safetensors`` is the model that is the same for all. A client's models lie in folders
named by model and adaptation: ``models/personal/7.safetensors``,
``models/base+fine-tune/7.safetensors``. Of a task-incremental run there is one more level,
``models/task-2/...``.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote, unquote

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedadapt.errors import InputError
from fedadapt.files import write_atomically
from fedadapt.older_runs import refuse_older_run
from fedadapt.records import SERVED
from fedadapt.saved_models.card import Card, label
from fedadapt.saved_models.on_device import newest_models
from fedadapt.weights import Weights

MODELS = "models"
INDEX = "cards.json"
KEY = "fedadapt-card"  # in the header of a file
SUFFIX = ".safetensors"


def relative_path(card: Card) -> Path:
    """Where a model lies below ``models/``."""
    folder = Path() if card.task is None else Path(f"task-{card.task}")
    if card.client is None:
        return folder / f"{folder_name(card.model)}{SUFFIX}"
    return folder / folder_name(card.label) / f"{card.client}{SUFFIX}"


def folder_name(label: str) -> str:
    """A label as the name of a folder; not all disks take the colon of ``module:Class``."""
    return quote(label, safe="+")


def encode(weights: Mapping[str, Tensor], card: Card) -> bytes:
    """A safetensors file with the card in its header.

    Args:
        weights: One model, [...], in any layout, on any device.

    """
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in weights.items()
    }
    # One entry only: safetensors writes several in an order that differs from process to process.
    return save(plain, {KEY: json.dumps(card.to_json())})


def write(folder: Path, weights: Mapping[str, Tensor], card: Card, *, private: bool = False) -> int:
    """Write a model below ``folder/models``, atomically; the size of the file in bytes.

    Args:
        private: Readable by its owner only.

    """
    path = folder / MODELS / relative_path(card)
    path.parent.mkdir(mode=0o700 if private else 0o777, parents=True, exist_ok=True)
    content = encode(weights, card)
    write_atomically(path, content, mode=0o600 if private else 0o666)
    return len(content)


def read(path: Path) -> tuple[Weights, Card]:
    """The tensors and the card of a saved model.

    Raises:
        InputError: The file cannot be read, is damaged, or has no card.

    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be read ({reason}); it must be a saved model") from None
    if KEY not in metadata:
        raise InputError(
            f"{path}: has no card, so it is not known which network it is of; only models that "
            "were saved by this version of fedadapt or a newer one have one"
        )
    return weights, Card.of_json(metadata[KEY], str(path))


def find(
    run: Path,
    client: int | None = None,
    adaptation: str = "none",
    model: str | None = None,
    task: int | None = None,
) -> Path:
    """The file of a model of a run, or of a client's own state folder.

    Args:
        run: The folder that has ``models/``; or a client's ``state-dir``, for its models of the
            newest run; or the file itself, and nothing else is given then.
        client: None: the base model that is the same for all; in a ``state-dir`` the one client.
        model: ``base``, ``personal``, or ``served`` for the model and adaptation that the client
            chose; None: the served one where clients chose, else personal, else base.
        task: Of a task-incremental run.

    Raises:
        InputError: There is no such model, and the message says which there are; or the run is of
            0.1.0.

    """
    if run.is_file():
        if (client, adaptation, model, task) != (None, "none", None, None):
            raise InputError(f"{run}: is one model; leave client, adaptation, model and task away")
        return run
    refuse_older_run(run)
    if own := newest_models(run, client):
        run, client = own
    models = _folder_of(run, task)
    if client is not None and adaptation == "none" and model in (None, SERVED):
        model, adaptation = _chosen(run, client) or (model, adaptation)
    if model == SERVED:
        raise InputError(
            f"{run}: no client chose a model there; a run with --serve best-on-adapt saves what "
            "each chose, and it goes with the number of a client, without an adaptation"
        )
    wanted = ("personal", "base") if model is None else (model,)
    if client is None:
        if adaptation != "none" or "base" not in wanted:
            raise InputError(
                f"{run}: {label(wanted[0], adaptation)} is a client's own model; say whose with "
                "the number of a client"
            )
        return _common_base(run, models)
    for name in wanted:
        path = models / folder_name(label(name, adaptation)) / f"{client}{SUFFIX}"
        if path.is_file():
            return path
    if "base" in wanted and adaptation == "none" and not (models / "base").is_dir():
        _check_client(run, client)
        return _common_base(run, models)
    raise _no_such_model(run, models, client, wanted, adaptation)


def _folder_of(run: Path, task: int | None) -> Path:
    """``models/``, or the folder of one task in it."""
    if not run.is_dir():
        raise InputError(f"{run}: no such folder; name the folder of a run, or one model's file")
    models = run / MODELS
    if not any(models.rglob(f"*{SUFFIX}")):
        raise InputError(
            f"{run}: no models are saved there; a run saves them at its end, and none with "
            "save-models=none"
        )
    tasks = sorted(
        int(folder.name.removeprefix("task-"))
        for folder in models.iterdir()
        if re.fullmatch(r"task-\d+", folder.name)
    )
    if not tasks:
        if task is not None:
            raise InputError(f"task: {task}; {run} is no task-incremental run, leave it away")
        return models
    if task not in tasks:
        asked = "none was given" if task is None else f"there is no {task}"
        raise InputError(f"task: {asked}; {run} has tasks {in_words(tasks)}")
    return models / f"task-{task}"


def _common_base(run: Path, models: Path) -> Path:
    path = models / f"base{SUFFIX}"
    if not path.is_file():
        raise InputError(f"{run}: has no base model; say which client's model is meant")
    return path


def _chosen(run: Path, client: int) -> tuple[str, str] | None:
    """The model and the adaptation that a client chose, if the run had its clients choose."""
    try:
        model, adaptation = json.loads((run / MODELS / INDEX).read_text("utf-8"))[SERVED][
            str(client)
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return model, adaptation


def _check_client(run: Path, client: int) -> None:
    """The base model is everybody's; a client that the run does not have has none."""
    try:
        clients = int(json.loads((run / MODELS / INDEX).read_text("utf-8"))["clients"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if not 0 <= client < clients:
        raise InputError(f"client: {client}; {run} has clients 0 to {clients - 1}")


def _no_such_model(
    run: Path, models: Path, client: int, wanted: tuple[str, ...], adaptation: str
) -> InputError:
    labels = " or ".join(label(name, adaptation) for name in wanted)
    folders = sorted(p for p in models.iterdir() if p.is_dir())
    here = {unquote(folder.name): _clients(folder) for folder in folders}
    of_others = sorted({c for name in wanted for c in here.get(label(name, adaptation), ())})
    if of_others:
        return InputError(
            f"{run}: no model {labels} of client {client}; there are those of clients "
            f"{in_words(of_others)}"
        )
    of_client = [name for name, clients in here.items() if client in clients]
    if of_client:
        return InputError(
            f"{run}: no model {labels} of client {client}; there are: {', '.join(of_client)}"
        )
    if here:
        clients = sorted({c for listed in here.values() for c in listed})
        return InputError(
            f"{run}: no model of client {client}; there are {', '.join(here)} of clients "
            f"{in_words(clients)}"
        )
    return InputError(
        f"{run}: no model {labels} of client {client}; only the base model was saved; "
        "run with save-models=all, or leave client and adaptation away"
    )


def _clients(folder: Path) -> list[int]:
    return sorted(int(p.stem) for p in folder.glob(f"*{SUFFIX}") if re.fullmatch(r"\d+", p.stem))


def in_words(numbers: Iterable[int]) -> str:
    """``0 to 4, 7, 9 to 11``; at most a few of them."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    shown = [str(a) if a == b else f"{a} to {b}" for a, b in spans[:5]]
    return ", ".join([*shown, "..."] if len(spans) > 5 else shown)
