"""A federation that is computed in milliseconds: four clients and a fifth that never trains.

Images are small and float64, so that a difference is a difference and not rounding.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from fedadapt.datasets.benchmark import Benchmark, Examples, Manifest, ServerImages, Split
from fedadapt.models.network import Network
from fedadapt.models.networks.vit import vit_tiny

CLASSES = ("circle", "cross", "square")
IMAGE_SHAPE = (1, 6, 6)
TRAIN_IMAGES = (6, 9, 7, 4, 5)
"""Of each client: batches of different sizes, and a client that is done before the others."""
SEEN = (0, 1, 2, 3)
UNSEEN = (4,)
DOMAINS = ("bright", "dark")
SHIFTS = (1.0, -1.0)  # of each domain
BATCH_SIZE = 4


def as_they_are(images: Tensor) -> Tensor:
    """The scaling of images that are scaled already."""
    return images


def examples(count: int, *, stream: tuple[int, ...], shift: float = 0.0) -> Examples:
    """Noise around a mean for each class, [count, 1, 6, 6] in float64.

    Args:
        stream: Names the random stream: equal streams draw equal images.
        shift: What is added to every image: clients have data of different distributions.

    """
    random = np.random.default_rng(stream)
    labels = random.permutation(np.arange(count) % len(CLASSES))
    noise = random.normal(shift, 1.0, (count, *IMAGE_SHAPE))
    images = noise + labels.reshape(-1, 1, 1, 1)
    return Examples(torch.from_numpy(images), torch.from_numpy(labels))


class Toys(Benchmark):
    """Five clients of two domains; the last one takes no part in training."""

    def __init__(self, splits: Mapping[int, Split] | None = None) -> None:
        """Make the clients' images.

        Args:
            splits: Images that take the place of a client's usual ones.

        """
        self.name = "toys"
        self.num_clients = len(TRAIN_IMAGES)
        self.classes = CLASSES
        self.image_shape = IMAGE_SHAPE
        self.scaling = as_they_are  # type: ignore[assignment]  # any function of images will do
        self.domains = DOMAINS
        self.kinds = tuple(DOMAINS[self.domain(d)] for d in range(self.num_clients))
        self.unseen = frozenset(UNSEEN)
        self.manifest = Manifest("0" * 64)
        self._splits = {d: _split(d) for d in range(self.num_clients)} | dict(splits or {})

    def split(self, client: int) -> Split:
        return self._splits[client]

    def domain(self, client: int) -> int:
        return client % len(DOMAINS)

    @property
    def server_images(self) -> ServerImages:
        """Nine images of each domain."""
        parts = [
            examples(9, stream=(100, domain), shift=SHIFTS[domain])
            for domain in range(len(DOMAINS))
        ]
        domains = torch.arange(len(DOMAINS)).repeat_interleave(9)
        inputs, labels = torch.cat([p.inputs for p in parts]), torch.cat([p.labels for p in parts])
        return ServerImages(Examples(inputs, labels), domains)

    def num_train_examples(self, client: int) -> int:
        return len(self.split(client).train)

    @property
    def global_test(self) -> Examples | None:
        return None


def _split(client: int) -> Split:
    shift = SHIFTS[client % len(DOMAINS)]
    counts = (TRAIN_IMAGES[client], 6, 5)
    return Split(*(examples(n, stream=(client, i), shift=shift) for i, n in enumerate(counts)))


def mlp() -> nn.Module:
    """A hidden layer of 8, without batch normalisation."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU())
    return Network(body, 8, len(CLASSES))


def cnn() -> nn.Module:
    """Two convolutions with batch normalisation."""
    body = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Flatten(),
    )
    return Network(body, 5, len(CLASSES))


class _Residual(nn.Module):
    """relu(norm(convolution(x)) + x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.norm(self.conv(x)) + x)
        return out


def residual() -> nn.Module:
    """A residual block between two layers."""
    body = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        _Residual(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return Network(body, 4, len(CLASSES))


def transformer() -> nn.Module:
    """A block of attention, with prompts."""
    return vit_tiny(IMAGE_SHAPE, len(CLASSES), prompts=2, width=6, blocks=1, heads=2)


NETWORKS: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "cnn": cnn, "residual": residual}
PARTICULAR: dict[str, Callable[[], nn.Module]] = {"transformer": transformer}
"""For strategies that accept none of the others."""


def build(make: Callable[[], nn.Module]) -> nn.Module:
    """The network with initial weights in float64; torch's global generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        return make().double()
