"""A benchmark: the examples of each client, and how they become a network's input."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Inputs with labels: decoded, not yet scaled.

    Inputs are images (uint8 [N, C, H, W], 0..255), measurements (float32 [N, ...], such as time
    series [N, C, T]) or sequences of tokens (int64 [N, T]).
    """

    inputs: Tensor
    labels: Tensor  # int64 [N], 0..num_classes-1

    def __len__(self) -> int:
        return len(self.labels)


class ServerImages(NamedTuple):
    """Images that the server has, as public or donated data; no client holds any of them."""

    examples: Examples
    domains: Tensor  # int64 [N], places in ``Benchmark.domains``; all 0 where there are none


class Split(NamedTuple):
    """One client's images; the three never overlap.

    ``train`` takes part in federated training. ``adapt`` (the papers' user-validation set) is for
    local adaptation and model choice. ``test`` is for reporting and never for a choice.
    """

    train: Examples
    adapt: Examples
    test: Examples


@dataclass(frozen=True)
class Scaling:
    """(x / unit - mean) / std, channel by channel: from what is stored to a network's input.

    Attributes:
        mean: One value a channel; empty where inputs stay as they are, as tokens do.
        std: See ``mean``.
        unit: 255 for images, which are stored as bytes; 1 for measurements.
        trailing: Axes of an input behind that of the channels: 2 for images [C, H, W], 1 for time
            series [C, T], 0 for vectors.

    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    unit: float = 255.0
    trailing: int = 2

    def __call__(self, inputs: Tensor) -> Tensor:
        """Scale [..., C, H, W] uint8 to float32; a float tensor keeps its type."""
        if not self.mean:
            return inputs
        x = inputs if inputs.is_floating_point() else inputs.to(torch.float32)
        mean, std = (
            torch.tensor(values, dtype=x.dtype, device=x.device).view(-1, *[1] * self.trailing)
            for values in (self.mean, self.std)
        )
        return (x - mean * self.unit) / (std * self.unit)


@dataclass(frozen=True)
class MeasuredScaling(Scaling):
    """A scaling whose mean and deviation were measured on the clients' own training images.

    One image then changes the network input of every other image, on its own client and on all
    others: nothing that is computed from it can be differentially private.
    """


@dataclass(frozen=True)
class Manifest:
    """The facts that fix the assignment of images to clients: a function of (benchmark, seed)."""

    hash: str  # sha256 over everything below and every client's image indices, hexadecimal
    metadata: dict[str, object] = field(default_factory=dict)  # JSON: name, seed, sizes, parameters


class Benchmark(ABC):
    """Client data, made lazily: ``split(d)`` makes the images of client ``d`` only.

    Attributes:
        name: As given on the command line.
        num_clients: Clients are numbered 0..num_clients-1.
        classes: Class names in label order.
        image_shape: Of every input: (C, H, W) of an image, (C, T) of a time series, (T,) of a
            sequence of tokens.
        vocabulary: Number of different tokens, which are numbered from 0; 0 where inputs are no
            tokens.
        scaling: From bytes to network input.
        kinds: One word per client for its domain, class set and shift; "all" where there is one.
        unseen: Clients that never take part in training; they are only evaluated.
        domains: Names of the domains that a client or the server can tell its images to be of; ()
            where there are none, or where clients have images of several.
        manifest: Describes the assignment; its hash goes with every result.

    """

    name: str
    num_clients: int
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    vocabulary: int = 0
    scaling: Scaling
    kinds: Sequence[str]
    unseen: frozenset[int]
    domains: tuple[str, ...] = ()
    manifest: Manifest

    @abstractmethod
    def split(self, client: int) -> Split:
        """The images of one client; equal calls give equal tensors."""

    @abstractmethod
    def num_train_examples(self, client: int) -> int:
        """Size of the client's training set, without making it."""

    def label_counts(self, client: int) -> NDArray[np.int64] | None:
        """Images of the client's train, adapt and test sets by class, [3, C]; None: not known.

        It is for pages about simulations. Who holds data of its own does not tell.
        """
        return None

    def unlabelled(self, client: int) -> Tensor:
        """Images of one client without labels, stored as those of its split; most have none."""
        return torch.empty(0)

    @property
    @abstractmethod
    def global_test(self) -> Examples | None:
        """A balanced test set for all clients together, or None where the data have none."""

    @property
    def server_images(self) -> ServerImages | None:
        """Images for training on the server; None where it has none."""
        return None

    def domain(self, client: int) -> int:
        """The place of the client's domain in ``domains``; 0 where there are none."""
        return 0

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def seen(self) -> Sequence[int]:
        """Clients that take part in training, ascending."""
        return [d for d in range(self.num_clients) if d not in self.unseen]
