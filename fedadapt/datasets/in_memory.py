"""A benchmark whose images are in memory once; clients hold the indices of theirs."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedadapt.datasets.benchmark import (
    Benchmark,
    Examples,
    Manifest,
    Scaling,
    ServerImages,
    Split,
)
from fedadapt.datasets.feature_shift.shift import shift_images
from fedadapt.datasets.feature_shift.spec import Shift
from fedadapt.datasets.partitioning.assign import Assignment
from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.datasets.sources.image_store import Store
from fedadapt.datasets.split_cache import SplitCache

CACHED_BYTES = 2**30
"""Room for shifted or resized images; those that do not fit are made again each time."""


class StoredBenchmark(Benchmark):
    """Client data from a ``Store`` and an ``Assignment``; images are shifted when asked for."""

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
        self.image_shape = tuple(store.inputs.shape[1:])
        if image_size:
            self.image_shape = (self.image_shape[0], image_size, image_size)
        self.vocabulary = store.vocabulary
        self.scaling = scaling
        self.kinds = assignment.kinds
        self.unseen = assignment.unseen
        self.domains = assignment.domains.names
        self.manifest = manifest
        self._store = store
        self._assignment = assignment
        self._shift = shift
        self._seed = seed
        self._cache = SplitCache(CACHED_BYTES)
        self._global: Examples | None = None

    def split(self, client: int) -> Split:
        rows = self._assignment.clients[client]
        return self._cache.get(
            client,
            lambda: Split(*(self._examples(part, client) for part in rows)),
            keep=self._is_expensive(client),
        )

    def num_train_examples(self, client: int) -> int:
        return len(self._assignment.clients[client].train)

    @property
    def global_test(self) -> Examples | None:
        rows = self._assignment.global_test
        if self._global is None and rows is not None:
            self._global = self._examples(rows, None)
        return self._global

    @property
    def server_images(self) -> ServerImages | None:
        """The server's images, changed by the shifts of the clients in turn; made each time."""
        parts = self._assignment.domains.of_images(
            self._assignment.server, self._store.labels, self._store.domain_of
        )
        made = [(self._examples(part.rows, part.like_client), part.domains) for part in parts]
        if not made:
            return None
        inputs = torch.cat([examples.inputs for examples, _ in made])
        labels = torch.cat([examples.labels for examples, _ in made])
        domains = torch.from_numpy(np.concatenate([domains for _, domains in made]))
        return ServerImages(Examples(inputs, labels), domains)

    def label_counts(self, client: int) -> NDArray[np.int64]:
        return np.stack([
            np.bincount(self._store.labels[rows], minlength=len(self.classes))
            for rows in self._assignment.clients[client]
        ])  # fmt: skip

    def domain(self, client: int) -> int:
        return self._assignment.domains.of_client[client]

    def rows(self, client: int) -> tuple[Rows, Rows, Rows]:
        """Which images of the store the client's train, adapt and test are."""
        return self._assignment.clients[client]

    def _is_expensive(self, client: int) -> bool:
        resized = self.image_shape != tuple(self._store.inputs.shape[1:])
        return resized or self._shift.change(client) != ""

    def _examples(self, rows: Rows, client: int | None) -> Examples:
        """Take images out of the store, resize them, then shift them as the client's are."""
        inputs = resize(self._store.inputs[torch.from_numpy(rows)], self.image_shape[1:])
        if client is not None:
            inputs = shift_images(inputs, self._shift, client, rows, self._seed)
        return Examples(inputs, torch.from_numpy(self._store.labels[rows]))


def resize(inputs: Tensor, size: tuple[int, ...]) -> Tensor:
    """Uint8 [N, C, H, W] -> uint8 [N, C, *size], bilinear, smoothed where it shrinks."""
    if inputs.shape[2:] == size:
        return inputs
    resized = torch.empty((*inputs.shape[:2], *size), dtype=torch.uint8)
    for start in range(0, len(inputs), 512):  # floats are four times as large
        batch = inputs[start : start + 512].to(torch.float32)
        larger = torch.nn.functional.interpolate(
            batch, size, mode="bilinear", align_corners=False, antialias=True
        )
        resized[start : start + 512] = larger.round().clamp(0, 255).to(torch.uint8)
    return resized
