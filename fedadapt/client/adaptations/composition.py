"""Adaptations one after the other: ``adabn+fine-tune``."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.cohort import Cohort
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Composition(Adaptation):
    """Adaptations one after the other, each of the model that the one before left.

    Each does what it does alone: it has the same arguments, draws the same batches and, where it
    asks the federation, gets the same answer, which is that at the base model. What any of them
    needs, the composition needs. Its stages are those of the last one.
    """

    chain: tuple[Adaptation, ...]

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", "+".join(part.name for part in self.chain))
        for need in ("needs_labels", "needs_batch_norm"):
            object.__setattr__(self, need, any(getattr(part, need) for part in self.chain))

    @property
    def reads_adapt(self) -> bool:
        return any(part.reads_adapt for part in self.chain)

    def in_turn(self) -> tuple[Adaptation, ...]:
        return self.chain

    def pooled_from(self, answers: Mapping[str, Weights]) -> Weights | None:
        pooled: Weights = {}
        for part in self.chain:
            own = part.pooled_from(answers) or {}
            pooled |= {f"{part.name}/{name}": tensor for name, tensor in own.items()}
        return pooled or None

    def adapt(self, cohort: Cohort, weights: Weights, pooled: Weights | None = None) -> Weights:
        for part in self.chain:
            weights = part.adapt(part.images_of(cohort), weights, _own(part, pooled))
        return weights

    def moves(self, model: nn.Module) -> frozenset[str]:
        return frozenset[str]().union(*(part.moves(model) for part in self.chain))

    def stages(
        self, cohort: Cohort, weights: Weights, pooled: Weights | None = None
    ) -> Iterator[tuple[int, Weights]]:
        *before, last = self.chain
        for part in before:
            weights = part.adapt(part.images_of(cohort), weights, _own(part, pooled))
        yield from last.stages(last.images_of(cohort), weights, _own(last, pooled))


def _own(part: Adaptation, pooled: Weights | None) -> Weights | None:
    """Return what the part asked for, under the names that it gave."""
    mark = f"{part.name}/"
    own = {n.removeprefix(mark): t for n, t in (pooled or {}).items() if n.startswith(mark)}
    return own or None
