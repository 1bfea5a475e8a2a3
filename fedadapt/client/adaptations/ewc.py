"""Elastic weight consolidation: training is slow where the model received is sure.

Yu et al. 2020, "Salvaging federated learning by local adaptation", sec. 3.2; Kirkpatrick et al.
2017, "Overcoming catastrophic forgetting in neural networks", eq. 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fedadapt.client.adaptations.query import Query
from fedadapt.client.adaptations.tuning import Tuning
from fedadapt.client.cohort import Cohort
from fedadapt.client.statistics.importance import fisher
from fedadapt.objectives import Ewc as Elastic
from fedadapt.objectives import Objective
from fedadapt.parameters import param
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Ewc(Tuning):
    """Training held back where the model received is sure (its Fisher). Yu et al. 2020, sec. 3.2.

    Deviation: the importance is cut at 1 / (lr lam). There one step pulls a parameter all the way
    back; from three times that on SGD diverges (momentum 0.5), as it does with the papers'
    constants on clients that are unlike.
    """

    lam: float = param(5000.0, "strength of the pull towards the model received", at_least=0)
    fisher: Literal["federation", "own"] = param(
        "federation",
        "whose Fisher information: the training clients' mean at the base model, weighted by "
        "examples, or the client's own alone",
        choices=("federation", "own"),
    )

    def query(self) -> Query | None:
        if self.fisher == "own":
            return None
        return Query(
            action="query.ewc_fisher",
            answer=self.own_fisher,
            leaves="Fisher information of each parameter on the training images",
        )

    def own_fisher(self, cohort: Cohort, weights: Weights) -> Weights:
        """Each client's Fisher of the parameters, [D, ...], batch by batch as ``lam`` supposes."""
        return fisher(
            cohort, weights, part=self.part, granularity="batch", batch_size=self.batch_size
        )

    def task(
        self, cohort: Cohort, weights: Weights, pooled: Weights | None
    ) -> tuple[Objective, Mapping[str, Weights]]:
        importance = pooled
        if importance is None or self.fisher == "own":
            importance = self.own_fisher(cohort, weights)
        if self.lam:
            most = 1 / (self.lr * self.lam)
            importance = {n: t.clamp(max=most) for n, t in importance.items()}
        return Elastic(self.lam), {"anchor": weights, "importance": importance}
