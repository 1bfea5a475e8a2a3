"""Predictions of a saved model for image files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedadapt.models.mode import evaluating
from fedadapt.saved_models.card import Card

AT_ONCE = 64  # images that are in memory at a time


class Prediction(NamedTuple):
    """What a model says of one image."""

    image: str
    name: str  # of the most likely class
    confidence: float  # its probability
    probabilities: dict[str, float]  # of every class


def predict(network: nn.Module, card: Card, paths: Sequence[str | Path]) -> Iterator[Prediction]:
    """Predict the class of each image file.

    Raises:
        InputError: A file is no image that can be read.

    """
    for first in range(0, len(paths), AT_ONCE):
        batch = paths[first : first + AT_ONCE]
        probabilities = logits(network, card, card.images(batch)).double().softmax(1)
        for path, row in zip(batch, probabilities.tolist(), strict=True):
            best = max(range(len(row)), key=row.__getitem__)
            each = dict(zip(card.classes, row, strict=True))
            yield Prediction(str(path), card.classes[best], row[best], each)


def logits(network: nn.Module, card: Card, inputs: Tensor) -> Tensor:
    """The network's logits [N, classes] in the arithmetic in which the run evaluated it."""
    bf16 = card.run.get("precision") == "bf16"
    with (
        evaluating(network),
        torch.no_grad(),
        torch.autocast(inputs.device.type, torch.bfloat16, enabled=bf16),
    ):
        return network(inputs).float()
