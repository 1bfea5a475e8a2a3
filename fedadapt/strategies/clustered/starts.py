"""Several random starts one after the other, of which the best one goes on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any, Self

from torch import Tensor

from fedadapt.strategies.clusters import Clusters, below
from fedadapt.weights import Weights


@dataclass(frozen=True, eq=False)
class Starts:
    """The models in training, and the best ones that were tried before them."""

    current: Clusters
    initial: Weights  # the run's initial model, [...]; {} where there is one start
    tried: int = 0  # starts whose trial is over
    best: Clusters | None = None  # at the end of its trial
    loss: float = inf  # of ``best``, on adapt images
    is_judged: bool = False  # ``current`` was, in this round

    @property
    def models(self) -> tuple[Weights, ...]:
        """Those in training."""
        return self.current.models

    @property
    def of(self) -> dict[int, int]:
        """Client -> its model among those in training."""
        return self.current.of

    def judged(self, loss: float) -> Self:
        """Return the state after the trial of ``current``, which has this loss."""
        over = replace(self, tried=self.tried + 1, is_judged=True)
        if self.best is None or loss < self.loss:
            return replace(over, best=self.current, loss=loss)
        return over

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return it as named tensors and JSON, for a checkpoint."""
        tensors, metadata = self.current.pack()
        tensors = tensors | {f"initial/{n}": t for n, t in self.initial.items()}
        metadata["starts"] = {
            "tried": self.tried,
            "loss": self.loss if isfinite(self.loss) else None,  # JSON has no infinity
        }
        if self.best is not None:
            best, metadata["best"] = self.best.pack()
            tensors |= {f"best/{n}": t for n, t in best.items()}
        return tensors, metadata

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Self:
        """Return what ``pack`` packed."""
        told = metadata["starts"]
        return cls(
            Clusters.unpack(tensors, metadata),
            below(tensors, "initial"),
            told["tried"],
            Clusters.unpack(below(tensors, "best"), metadata["best"])
            if "best" in metadata
            else None,
            inf if told["loss"] is None else told["loss"],
        )


def mean_loss(told: Iterable[Tensor]) -> float:
    """Return the mean over images of what clients told: a loss and its number of images, [2]."""
    pairs = [(loss * count, count) for loss, count in (one.tolist() for one in told)]
    images = sum(count for _, count in pairs)
    return sum(total for total, _ in pairs) / images if images else inf
