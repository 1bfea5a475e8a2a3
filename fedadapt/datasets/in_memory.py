"""A benchmark whose images are in memory once, and whose clients hold lists of numbers."""

import numpy as np
import torch
from torch import Tensor

from fedadapt.datasets.benchmark import Benchmark, Examples, Manifest, Scaling, Split
from fedadapt.datasets.feature_shift.shift import shift_kind, shifted
from fedadapt.datasets.partitioning.assign import Assignment
from fedadapt.datasets.partitioning.spec import Shift
from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.datasets.sources.image_store import Store

KEPT_BYTES = 2**30
"""Spoilt or resized images are kept up to this size; what does not fit is made again each time."""


class StoredBenchmark(Benchmark):
    """Client data from a ``Store`` and an ``Assignment``; images are spoilt when asked for."""

    def __init__(
        self,
        name: str,
        store: Store,
        assignment: Assignment,
        shift: Shift,
        image_size: int,
        seed: int,
        scaling: Scaling,
        manifest: Manifest,
    ) -> None:
        self.name = name
        self.num_clients = len(assignment.clients)
        self.classes = store.classes
        channels, height, width = store.pixels.shape[1:]
        self.image_shape = (channels, image_size or height, image_size or width)
        self.scaling = scaling
        self.kinds = assignment.kinds
        self.unseen = assignment.unseen
        self.manifest = manifest
        self._store = store
        self._assignment = assignment
        self._shift = shift
        self._seed = seed
        self._kept: dict[int, Split] = {}
        self._kept_bytes = 0
        self._global: Examples | None = None

    def split(self, client: int) -> Split:
        if client in self._kept:
            return self._kept[client]
        made = Split(*(self._examples(rows, client) for rows in self._assignment.clients[client]))
        size = sum(part.inputs.numel() for part in made)
        if self._costly(client) and self._kept_bytes + size <= KEPT_BYTES:
            self._kept[client] = made
            self._kept_bytes += size
        return made

    def num_train_examples(self, client: int) -> int:
        return len(self._assignment.clients[client].train)

    @property
    def global_test(self) -> Examples | None:
        rows = self._assignment.global_test
        if self._global is None and rows is not None:
            self._global = self._examples(rows, None)
        return self._global

    def rows(self, client: int) -> tuple[Rows, Rows, Rows]:
        """Which images of the store the client's train, adapt and test are."""
        return self._assignment.clients[client]

    def _costly(self, client: int) -> bool:
        resized = self.image_shape != tuple(self._store.pixels.shape[1:])
        return resized or shift_kind(self._shift, client) != ""

    def _examples(self, rows: Rows, client: int | None) -> Examples:
        """Take images out of the store, resize them, then spoil them as the client does."""
        inputs = resize(self._store.pixels[torch.from_numpy(rows)], self.image_shape[1:])
        if client is not None and shift_kind(self._shift, client) and len(rows):
            pictures = inputs.permute(0, 2, 3, 1).numpy()
            corrupted = [
                shifted(image, self._shift, client, int(number), self._seed)
                for image, number in zip(pictures, rows, strict=True)
            ]
            inputs = torch.from_numpy(np.stack(corrupted)).permute(0, 3, 1, 2).contiguous()
        return Examples(inputs, torch.from_numpy(self._store.labels[rows]))


def resize(inputs: Tensor, size: tuple[int, ...]) -> Tensor:
    """Uint8 [N, C, H, W] -> uint8 [N, C, *size], bilinear, smoothed where it shrinks."""
    if inputs.shape[2:] == size:
        return inputs
    made = torch.empty((*inputs.shape[:2], *size), dtype=torch.uint8)
    for start in range(0, len(inputs), 512):  # floats are four times as large
        some = inputs[start : start + 512].to(torch.float32)
        larger = torch.nn.functional.interpolate(
            some, size, mode="bilinear", align_corners=False, antialias=True
        )
        made[start : start + 512] = larger.round().clamp(0, 255).to(torch.uint8)
    return made
