"""FedRoD: a shared head that is trained as if classes were balanced, and a personal one on top.

Chen and Chao 2022, "On bridging generic and personalized federated learning for image
classification", equations 5 and 6; balanced softmax is that of Ren et al. 2020.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedadapt.client.cohort import Cohort
from fedadapt.client.fit import fit
from fedadapt.messages import Update
from fedadapt.objectives import View, cross_entropy
from fedadapt.parameters import param
from fedadapt.selectors import linear_head
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class FedRod(SharedModel):
    """FedAvg by balanced softmax; a personal head learns what is left. Chen and Chao 2022.

    Body and head minimise CE(h(z) + log n_y), n_y a client's training images of class y, and are
    averaged, batch norm as the run says. The personal head, 0 at first, stays on its client; it
    minimises CE(h(z) + own(z)) and moves nothing else. Both are linear, so the personal model is an
    ordinary network whose head is their sum. A client that never trained gets the shared model. The
    authors have published no code; their variant that generates personal heads is left out.
    """

    personal = "on client"
    client_keeps = "its personal head"
    unseen_get = "the shared model"
    head_rate: float = param(
        1.0, "learning rate of the personal head, as a multiple of the run's", at_least=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        linear_head(self.model)

    def train(self, cohort: Cohort, shared: Weights) -> Update:
        own, (optimizer, schedule) = self._own(cohort, shared), self.local()
        rates = dict.fromkeys(own, optimizer.learning_rate * self.head_rate)
        fitted = fit(
            cohort,
            shared,
            replace(optimizer, rates=rates),
            schedule,
            objective=self.objective,
            extra=own,
            memory={"prior": {"log": self._log_prior(cohort, shared)}},
        )
        return self.sending(cohort, fitted).keeping(head=fitted.extra)

    def personal_model(self, cohort: Cohort, shared: Weights) -> Weights:
        own = self._own(cohort, shared)
        return shared | {n: shared[n] + own[f"own/{n}"] for n in self._head}

    def objective(self, view: View) -> Tensor:
        """The loss of the shared model and that of the personal head, which share no parameter."""
        balanced = view.logits + view.memory["prior"]["log"].unsqueeze(1)
        weight, *bias = (view.params[f"own/{n}"] for n in self._head)
        both = view.logits.detach() + torch.einsum("dbf,dcf->dbc", view.features.detach(), weight)
        for b in bias:
            both = both + b.unsqueeze(1)
        return cross_entropy(view.with_logits(balanced)) + cross_entropy(view.with_logits(both))

    @property
    def _head(self) -> list[str]:
        return [n for n in linear_head(self.model) if n is not None]

    def _own(self, cohort: Cohort, shared: Weights) -> Weights:
        """The clients' personal heads; 0 where one has none yet."""
        return cohort.state("head", {f"own/{n}": torch.zeros_like(shared[n]) for n in self._head})

    def _log_prior(self, cohort: Cohort, shared: Weights) -> Tensor:
        """Log n_y of each client [D, C]; a class that it has no image of counts half an image."""
        weight = shared[self._head[0]]
        counts = [torch.bincount(s.train.labels, minlength=weight.shape[1]) for s in cohort.splits]
        return torch.stack(counts).to(weight).clamp(min=0.5).log()
