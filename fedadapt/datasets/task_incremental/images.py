"""Images of a task-incremental benchmark that are in memory once."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedadapt.datasets.feature_shift.shift import shift_kind, shifted
from fedadapt.datasets.in_memory import resize
from fedadapt.datasets.partitioning.spec import Shift
from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.datasets.task_incremental.benchmark import TaskImages


@dataclass(frozen=True, eq=False)
class StoredPictures(TaskImages):
    """Bytes in memory, resized and spoilt when they are asked for."""

    pixels: Tensor  # uint8 [N, C, H, W]
    labels: Rows  # inside the task, int64 [N]
    shape: tuple[int, int, int]  # one stored channel becomes three equal ones where this says so
    shift: Shift
    seed: int

    def inputs(self, rows: Rows, client: int | None) -> Tensor:
        plain = resize(self.pixels[torch.from_numpy(rows)], self.shape[1:])
        plain = plain.expand(-1, self.shape[0], -1, -1).contiguous()
        if client is None or not len(rows) or not shift_kind(self.shift, client):
            return plain
        corrupted = [
            shifted(image, self.shift, client, int(number), self.seed)
            for image, number in zip(plain.permute(0, 2, 3, 1).numpy(), rows, strict=True)
        ]
        return torch.from_numpy(np.stack(corrupted)).permute(0, 3, 1, 2).contiguous()

    def is_expensive(self, client: int) -> bool:
        return bool(shift_kind(self.shift, client))
