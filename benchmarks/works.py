"""The work every engine is given: clients, their images, their network and how they train it."""

import json
from argparse import ArgumentTypeError
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Benchmark, Examples, Manifest, Scaling, Split
from fedadapt.models.build import build_model

BATCH = 20
CLASSES = tuple("0123456789")
DIGITS = (1, 8, 8)


@dataclass(frozen=True, kw_only=True)
class Work:
    """A round of it is what is timed."""

    name: str
    title: str
    clients: int
    model: str
    shape: tuple[int, int, int]  # of an image; 8 x 8: the built-in digits, else noise
    kind: str = "train"  # or what the clients are asked: adabn-s, sparsity, importance
    examples: int = 100  # of a client
    batch: int = BATCH
    lr: float = 0.0
    momentum: float = 0.0
    dense: bool = False  # convolutions as bf16 is for
    evaluated: bool = False  # the new global model, on every client's images, in every round
    data: str = ""  # a file of ``benchmarks.real_work`` with the clients' images; "": made here


WORKS = {
    work.name: work
    for work in (
        Work(
            name="W1",
            title="MLP 64-100-100-10 on digits: train and evaluate",
            clients=100,
            model="mlp",
            shape=DIGITS,
            lr=0.05,
            momentum=0.5,
            evaluated=True,
        ),
        Work(
            name="W2",
            title="small CNN on 28 x 28: train",
            clients=100,
            model="cnn",
            shape=(1, 28, 28),
            lr=0.05,
            dense=True,
        ),
        Work(
            name="W3",
            title="MobileNetV2-0.25 with batch norm on 32 x 32: train",
            clients=25,
            model="mobilenetv2-0.25",
            shape=(3, 32, 32),
            lr=0.01,
            momentum=0.5,
        ),
        Work(
            name="adabn-s",
            title="AdaBN-S (5 epochs on 20 images) and its test, MobileNetV2-0.25",
            clients=200,
            model="mobilenetv2-0.25",
            shape=(3, 32, 32),
            kind="adabn-s",
            examples=20,
        ),
        Work(
            name="sparsity",
            title="sparsity query, small CNN on 28 x 28",
            clients=200,
            model="cnn",
            shape=(1, 28, 28),
            kind="sparsity",
        ),
        Work(
            name="mas",
            title="MAS importance query, image by image, MLP on digits",
            clients=200,
            model="mlp",
            shape=DIGITS,
            kind="importance",
        ),
    )
}


class Clients(Benchmark):
    """A work's images: one store of bytes, and each client's row numbers in it.

    All three parts of a client are the same images: only the arithmetic matters here.
    """

    def __init__(self, work: Work) -> None:
        self.name, self.num_clients, self.image_shape = work.name, work.clients, work.shape
        self.classes = CLASSES
        self.scaling = Scaling((0.5,) * work.shape[0], (0.5,) * work.shape[0])
        self.kinds, self.unseen = ("all",) * work.clients, frozenset()
        self.manifest = Manifest(f"{work.name} {work.clients}")
        rng = np.random.default_rng(1)
        if work.data:
            with np.load(work.data) as file:
                self._store = Examples(*(torch.from_numpy(file[n]) for n in ("images", "labels")))
                ends = np.cumsum(file["sizes"])
                self.scaling = Scaling(tuple(file["mean"].tolist()), tuple(file["std"].tolist()))
            rows = np.arange(ends[-1], dtype=np.int32)
            self._rows = [torch.from_numpy(own) for own in np.split(rows, ends[:-1])]
        elif work.shape == DIGITS:
            self._store = _digits()
            rows = rng.random((work.clients, len(self._store)), np.float32).argpartition(
                work.examples
            )[:, : work.examples]
            self._rows = list(torch.from_numpy(rows.astype(np.int32)))
        else:
            count = work.clients * work.examples
            pixels = rng.integers(0, 256, (count, *work.shape), np.uint8)
            labels = rng.integers(0, len(CLASSES), count)
            self._store = Examples(torch.from_numpy(pixels), torch.from_numpy(labels))
            self._rows = list(torch.arange(count, dtype=torch.int32).view(work.clients, -1))

    def split(self, client: int) -> Split:
        rows = self._rows[client]
        mine = Examples(self._store.inputs[rows], self._store.labels[rows])
        return Split(mine, mine, mine)

    def num_train_examples(self, client: int) -> int:
        return len(self._rows[client])

    @property
    def global_test(self) -> None:
        return None

    def scaled(self, client: int) -> tuple[Tensor, Tensor]:
        """Images as a network takes them, and labels: what other engines hold in memory."""
        mine = self.split(client).train
        return self.scaling(mine.inputs), mine.labels


def _digits() -> Examples:
    """The 1,797 digits that come with scikit-learn, as bytes."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, *DIGITS)
    return Examples(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)))


def word(work: Work) -> str:
    """A work as one word, for other processes; ``parsed`` is the inverse."""
    return work.data or f"{work.name}:{work.clients}"


def parsed(word: str) -> Work:
    """``W1`` or, with another number of clients, ``W1:1000``, or a file of real work."""
    if word.endswith(".npz") and Path(word).is_file():
        with np.load(word) as file:
            settings = json.loads(str(file["work"]))
        return Work(**settings | {"shape": tuple(settings["shape"]), "data": word})
    name, _, clients = word.partition(":")
    if name not in WORKS or (clients and not clients.isdecimal()):
        raise ArgumentTypeError(f"{word!r}; it is of {', '.join(WORKS)}, or one with ':1000'")
    return replace(WORKS[name], clients=int(clients)) if clients else WORKS[name]


def network(work: Work) -> nn.Module:
    """The same network with the same initial weights for every engine."""
    return build_model(RunConfig(model=work.model), work.shape, len(CLASSES))
