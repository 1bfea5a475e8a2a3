"""Images of a task-incremental benchmark that are in memory once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedadapt.datasets.feature_shift.shift import shift_images
from fedadapt.datasets.feature_shift.spec import Shift
from fedadapt.datasets.in_memory import resize
from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.datasets.task_incremental.benchmark import TaskImages


@dataclass(frozen=True, eq=False)
class StoredImages(TaskImages):
    """Bytes in memory, resized and shifted when they are asked for."""

    pixels: Tensor  # uint8 [N, C, H, W]
    labels: Rows  # inside the task, int64 [N]
    shape: tuple[int, int, int]  # one stored channel becomes three equal ones where this says so
    shift: Shift
    seed: int

    def inputs(self, rows: Rows, client: int | None) -> Tensor:
        plain = resize(self.pixels[torch.from_numpy(rows)], self.shape[1:])
        plain = plain.expand(-1, self.shape[0], -1, -1).contiguous()
        if client is None:
            return plain
        return shift_images(plain, self.shift, client, rows, self.seed)

    def is_expensive(self, client: int) -> bool:
        return bool(self.shift.change(client))
