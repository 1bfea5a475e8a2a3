"""Settings of the training of experts; a preset is a set of values.

De Lange et al. 2020, "Unsupervised model personalization while preserving privacy and scalability:
an open problem" (DUA), section 4, and the code released with it.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, get_args

from fedadapt.errors import InputError, unknown

Method = Literal["imm", "ewc", "mas", "lwf", "joint", "fine-tune"]
METHODS: tuple[str, ...] = get_args(Method)


@dataclass(frozen=True, kw_only=True)
class ExpertTraining:
    """SGD on cross-entropy, task after task; the best epoch on the validation images is kept.

    The defaults are the paper's, for scenes; digits take 10 epochs in batches of 20.
    """

    method: str = "imm"
    epochs: int = 30
    batch_size: int = 30
    lr: float = 1e-3
    momentum: float = 0.9
    decay_after: int = 5  # bad epochs in a row; see ``EarlyStopping``
    decay: float = 0.1  # factor on the learning rate
    stop_after: int = 10  # bad epochs in a row
    reset_norms: bool = False  # reinitialise batch norm before each task, including the first
    augment_from: int | None = 128  # crop and flip images of so many pixels and more; None: never
    l2_lambda: float = 1e-3  # IMM's L2-transfer
    l2_from_task: int = 2  # counts from 1
    l2_head: bool = False  # the fresh head is also pulled to its random start
    ewc_lambda: float = 400.0
    mas_lambda: float = 1.0
    lwf_lambda: float = 1.0
    lwf_temperature: float = 2.0
    granularity: Literal["sample", "batch"] = "sample"  # of the importances of EWC and MAS

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("experts: method", self.method, METHODS)
        if self.granularity not in ("sample", "batch"):
            raise unknown("experts: granularity", self.granularity, ("sample", "batch"))
        for name in ("epochs", "batch_size", "decay_after", "stop_after", "l2_from_task"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, ">= 1")
        for name in ("lr", "decay", "lwf_temperature"):
            _require(name, getattr(self, name), 0 < getattr(self, name) < math.inf, "> 0")
        for name in ("l2_lambda", "ewc_lambda", "mas_lambda", "lwf_lambda"):
            _require(name, getattr(self, name), 0 <= getattr(self, name) < math.inf, ">= 0")
        _require("momentum", self.momentum, 0 <= self.momentum < 1, ">= 0 and < 1")

    @classmethod
    def paper(cls, method: str = "imm", **changes: Any) -> Self:
        """The paper's choices; where it leaves something open, those of the released code."""
        return cls(method=method, **changes)

    @classmethod
    def released(cls, method: str = "imm", **changes: Any) -> Self:
        """The choices of the released code.

        Its option ``--lmbL2trans 0.001`` only names a folder: the penalty is weighted by another
        option, which is 1. The penalty is 0 on task 2, and from task 3 on it includes the fresh
        head. Training images get the transform of the validation images.
        """
        quirks = cls(
            method=method,
            epochs=50,
            stop_after=11,
            reset_norms=True,
            augment_from=None,
            l2_lambda=1.0,
            l2_from_task=3,
            l2_head=True,
            granularity="batch",
        )
        return replace(quirks, **changes)

    def to_mapping(self) -> dict[str, Any]:
        """Return every value by its name, as JSON."""
        return asdict(self)


def _require(name: str, value: float, holds: bool, allowed: str) -> None:
    if not holds:
        raise InputError(f"experts: {name}: {value} is out of range; it must be {allowed}")
