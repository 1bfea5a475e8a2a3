"""Pictures that the server has, for strategies that train on them; clients have others.

They lie in ``<class>/*.jpg``, as a client's do. They say which classes a run has; whose domain they
are of nobody tells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Examples, Scaling, ServerImages
from fedadapt.datasets.own.agreement import agreed_schema, fixed_scaling, pooled_scaling
from fedadapt.datasets.own.decoded import decode_pictures
from fedadapt.datasets.own.own_data import channel_sums
from fedadapt.datasets.own.pictures import list_pictures
from fedadapt.datasets.own.schema import Schema
from fedadapt.errors import InputError


@dataclass(frozen=True, eq=False)
class ServerPictures:
    """The server's own pictures, decoded."""

    classes: tuple[str, ...]
    examples: Examples
    scaling: Scaling  # fixed, or measured on the server's own pictures

    @property
    def images(self) -> ServerImages:
        """For training on the server."""
        return ServerImages(self.examples, torch.zeros_like(self.examples.labels))

    def schema(self, shapes: Sequence[tuple[int, int, int]]) -> Schema:
        """What clients have to agree on, whose pictures are of these shapes."""
        channels, height, width = self.examples.inputs.shape[1:]
        return agreed_schema(self.classes, [(channels, height, width), *shapes], self.scaling)


def load_server_pictures(config: RunConfig) -> ServerPictures:
    """Read the server's pictures.

    Raises:
        InputError: Pictures of fewer than two classes, or no ``image-size``.

    """
    size = config.image_size
    if not size:
        raise InputError("image-size: pictures of many sizes need one, e.g. image-size=96")
    pictures = list_pictures(Path(config.server_data).expanduser())
    decoded = decode_pictures([p for p in pictures if p.label is not None], size, None)
    labels = [str(picture.label) for picture in decoded.pictures]
    classes = tuple(sorted({*labels}))
    if len(classes) < 2:
        raise InputError(
            f"server-data: pictures of {len(classes)} classes can be read; two are needed, in "
            "<class>/*.jpg"
        )
    examples = Examples(
        torch.from_numpy(decoded.pixels), torch.tensor([classes.index(name) for name in labels])
    )
    scaling = fixed_scaling(config, 3)
    if scaling is None:
        measured = pooled_scaling([channel_sums(examples)])
        scaling = Scaling(measured.mean, measured.std)  # no client's picture is in it
    return ServerPictures(classes, examples, scaling)
