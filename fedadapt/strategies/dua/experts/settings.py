"""Settings of the training of experts; a preset is a set of values.

De Lange et al. 2020, "Unsupervised model personalization while preserving privacy and scalability:
an open problem" (DUA), section 4, and the code released with it.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from fedadapt.parameters import check_parameters, param

METHODS = ("imm", "ewc", "mas", "lwf", "joint", "fine-tune")


@dataclass(frozen=True, kw_only=True)
class ExpertTraining:
    """SGD on cross-entropy, task after task; the best epoch on the validation images is kept.

    The defaults are the paper's, for scenes; digits take 10 epochs in batches of 20.
    """

    method: str = param("imm", "what keeps a task from being forgotten", choices=METHODS)
    epochs: int = param(30, "epochs a task", at_least=1)
    batch_size: int = param(30, "images in a training step", at_least=1)
    lr: float = param(1e-3, "learning rate", above=0)
    momentum: float = param(0.9, "momentum", at_least=0, below=1)
    decay_after: int = param(
        5, "epochs in a row that are not the best so far, before the rate decays", at_least=1
    )
    decay: float = param(0.1, "factor of the learning rate then", above=0)
    stop_after: int = param(10, "epochs in a row that are not the best, before the end", at_least=1)
    reset_norms: bool = param(False, "batch norm is as new before each task, the first included")
    augment_from: int | None = param(
        128, "crop and flip images of so many pixels and more; None: never", at_least=0
    )
    l2_lambda: float = param(1e-3, "weight of IMM's L2-transfer", at_least=0)
    l2_from_task: int = param(2, "the first task it is used on, counted from 1", at_least=1)
    l2_head: bool = param(False, "whether it holds the fresh head too, at its random start")
    ewc_lambda: float = param(400.0, "weight of EWC's penalty", at_least=0)
    mas_lambda: float = param(1.0, "weight of MAS's penalty", at_least=0)
    lwf_lambda: float = param(1.0, "weight of LwF's distillation", at_least=0)
    lwf_temperature: float = param(2.0, "temperature of LwF's distillation", above=0)
    granularity: Literal["sample", "batch"] = param(
        "sample",
        "gradients that the importances of EWC and MAS are made of",
        choices=("sample", "batch"),
    )

    def __post_init__(self) -> None:
        check_parameters(self, "experts: ")

    @classmethod
    def paper(cls, method: str = "imm", **changes: Any) -> Self:
        """The settings of the paper; those that it does not give are the released code's."""
        return cls(method=method, **changes)

    @classmethod
    def released(cls, method: str = "imm", **changes: Any) -> Self:
        """The settings of the released code.

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
