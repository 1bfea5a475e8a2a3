"""Local adaptations that somebody else might plug in, good and bad."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.adaptations.query import Query
from fedadapt.client.adaptations.tuning import Tuning
from fedadapt.client.cohort import Cohort
from fedadapt.parameters import param
from fedadapt.weights import Weights


def _sizes(cohort: Cohort, weights: Weights) -> dict[str, Tensor]:
    """Of each client its number, and its number of training images: [D, 2]."""
    numbers = torch.tensor(cohort.clients, dtype=torch.float64)
    return {"sizes": torch.stack([numbers, cohort.num_examples], dim=1)}


def _two_numbers(model: nn.Module, sent: Weights) -> Weights:
    return {"sizes": torch.zeros(2, dtype=torch.float64)}


@dataclass(frozen=True, kw_only=True)
class Asks(Adaptation):
    """Multiplies the whole network by what the clients answered to a query of its own."""

    factor: float = param(0.01, "of the mean number of training images", above=0)

    def query(self) -> Query:
        return Query(action="query.anything", answer=_sizes, expected=_two_numbers)

    def adapt(self, cohort: Cohort, weights: Weights, pooled: Weights | None = None) -> Weights:
        assert pooled is not None
        by = self.factor * pooled["sizes"][:, 1]  # [D]
        return {
            n: t * by.to(t.dtype).view(-1, *[1] * (t.dim() - 1)) if t.is_floating_point() else t
            for n, t in weights.items()
        }


@dataclass(frozen=True, kw_only=True)
class AsksAsWell(Asks):
    """Another one that asks the same query."""


@dataclass(frozen=True, kw_only=True)
class HalfDone(Tuning):
    """Does not say what is minimised."""


class Undecorated(Asks):
    """Its parameter would be no field."""

    more: float = param(1.0, "nothing", above=0)


NOT_AN_ADAPTATION = 3
