"""Models that clients end up with, collected while they are evaluated, for saving."""

from collections.abc import Collection
from dataclasses import dataclass, field

import torch

from fedadapt.client.cohort import Cohort
from fedadapt.client.evaluation import evaluate
from fedadapt.saved_models.card import label
from fedadapt.server.client_pool import ModelStack
from fedadapt.weights import Weights


@dataclass(eq=False)
class CollectedModels:
    """Collects models of one cohort, each with its scores on the clients' adapt images.

    Attributes:
        wanted: Labels of the models to collect, such as ``personal`` or ``base+fine-tune``.
        models: Model, adaptation -> a stack of the clients' models, on the CPU.

    """

    wanted: Collection[str]
    models: dict[str, dict[str, ModelStack]] = field(default_factory=dict)

    def add(self, cohort: Cohort, model: str, adaptation: str, weights: Weights) -> None:
        """Collect ``weights`` [D, ...] of the cohort's clients, if they are wanted."""
        if label(model, adaptation) not in self.wanted:
            return
        scores = evaluate(cohort, weights, cohort.part("adapt"))
        stack = ModelStack(
            torch.tensor(cohort.clients),
            {n: t.detach().cpu() for n, t in weights.items()},
            torch.tensor([s.accuracy for s in scores], dtype=torch.float64),
            torch.tensor([s.num_examples for s in scores]),
        )
        adapted = self.models.setdefault(model, {})
        # A cohort in which one client fails comes client by client.
        adapted[adaptation] = (
            _joined(adapted[adaptation], stack) if adaptation in adapted else stack
        )


def _joined(first: ModelStack, second: ModelStack) -> ModelStack:
    """The models of both, one after the other."""
    return ModelStack(
        torch.cat([first.clients, second.clients]),
        {n: torch.cat([t, second.weights[n]]) for n, t in first.weights.items()},
        torch.cat([first.accuracy, second.accuracy]),
        torch.cat([first.num_images, second.num_images]),
    )
