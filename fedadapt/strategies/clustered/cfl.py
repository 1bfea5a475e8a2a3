"""CFL: a cluster is split where its clients pull in opposite directions.

Sattler et al. 2020, "Clustered federated learning: model-agnostic distributed multitask
optimization under privacy constraints", algorithm 3 and section 3.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedadapt.client.cohort import Cohort
from fedadapt.client.fit import fit
from fedadapt.messages import Answers, Sent, Update
from fedadapt.parameters import from_run, param
from fedadapt.selectors import norms
from fedadapt.server.clustering.grouping import by_first_client
from fedadapt.strategies.base import Metadata
from fedadapt.strategies.clustered_models import (
    ClusteredModels,
    ClusteredState,
    reported,
    until_quorum_fails,
)
from fedadapt.strategies.clusters import Clusters, Vectors, nearest_on_average, one_by_one
from fedadapt.weights import Weights, repeat

DIRECTION = "query.direction"
MOST_TOLD = 1000  # clients whose distances are written into the run folder

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CFL(ClusteredModels):
    """Splits a cluster whose clients' updates point apart; FedAvg inside each. Sattler et al. 2020.

    The server keeps each client's last update d = w_k - w, over parameters alone. Once all of a
    cluster's clients have been heard since it was made, complete linkage on the cosines cuts it in
    two. ``gap`` accepts the cut if the least cosine inside a half is larger than the largest across
    (the paper's separation of equation 16) and neither half is one client. ``norms`` is the
    published criterion: ||mean d|| < eps1 and max ||d|| > eps2, where the scale of both depends on
    network, data and learning rate. A half goes on from the mean of its own clients in that round.
    Splits are never undone. Without a split this is FedAvg, to the bit.

    A client is served its cluster's model; batch-norm statistics are averaged by cluster. A
    newcomer trains once on its labelled adapt images, from the model that was split first, and
    joins the cluster whose clients' updates of that model are most like its own. The paper asks
    at every split of the tree instead. The server holds two updates a client,
    each as large as the model. Clients without a cluster have the model that was split first.
    """

    query_types: ClassVar[tuple[str, ...]] = (DIRECTION, *ClusteredModels.query_types)
    leaves: ClassVar[Mapping[str, str]] = {
        DIRECTION: "of a client that never trains: the update of one training on its adapt images",
    }
    client_reports = "newcomers once how they train the model that was split first"
    unseen_get = "the model of the cluster that trains most like them"

    rule: str = param("gap", "when a cluster is split", choices=("gap", "norms"))
    first_round: int = param(5, "no split before (published: 20)", at_least=1)
    eps1: float = param(0.4, "norms: the mean update is shorter", above=0)
    eps2: float = param(1.6, "norms: the longest update is longer", above=0)
    newcomers: tuple[int, ...] = from_run(default=())  # asked once, to be given a cluster

    def queries(self, state: ClusteredState, round: int) -> tuple[str, ...]:
        return (DIRECTION,) if self._to_ask(state) else ()

    def ask(self, state: ClusteredState, action: str, round: int) -> Sent:
        asked = self._to_ask(state)
        return Sent(asked, repeat(state.base, len(asked)), {"server-round": round})

    def tell(self, action: str, cohort: Cohort, received: Sent) -> Update:
        start = self.localise(cohort, received.weights)
        schedule = self.training.schedule._replace(part="adapt", purpose="cfl")
        fitted = fit(cohort, start, self.training.optimizer, schedule)
        moved = self._direction(fitted.weights, start)
        alike = torch.ones(len(cohort), dtype=torch.float64)
        return Update({}, alike, report={"direction": moved})

    def expected_report(self, action: str, sent: Weights) -> Weights:
        if action != DIRECTION:
            return {}
        return {"direction": torch.zeros(sum(sent[n].numel() for n in self._parameters))}

    def assign(
        self, state: ClusteredState, action: str, round: int, answers: Iterable[Answers]
    ) -> ClusteredState:
        if state.clusters is None:
            return state
        size = state.clusters.vectors.shape[1]
        directions = reported(until_quorum_fails(answers), "direction", size)
        return replace(state, clusters=state.clusters.joined_by(directions, _nearest))

    def regrouped(
        self, state: ClusteredState, round: int, answers: Iterable[Answers]
    ) -> tuple[ClusteredState, Iterable[Answers]]:
        held = list(answers)
        updates = dict(state.updates)
        for client, one in one_by_one(held):
            before = state.base if state.clusters is None else state.clusters.model_of(client)
            if before is not None:
                updates[client] = self._direction(one.weights, repeat(before, 1))[0]
        state = replace(state, updates=dict(sorted(updates.items())))
        if held and round >= self.first_round:
            state = self._split(state, round)
        return state, held

    def describe(self, state: ClusteredState) -> dict[str, Metadata]:
        if state.clusters is None:
            return {}
        told: Metadata = {"found_by": "the directions of updates", "rule": self.rule}
        if len(state.clusters.clients) <= MOST_TOLD:
            apart = 1 - _cosines(state.clusters.vectors, state.clusters.vectors)
            told |= {"distances": apart.round(decimals=4).tolist()}
            told |= {"unit": "1 - cosine of updates"}
        return {"groups": state.clusters.members() | told}

    @cached_property
    def _parameters(self) -> tuple[str, ...]:
        """Name the parameters that travel."""
        local = norms(self.model) if self.batch_norm == "local" else frozenset[str]()
        return tuple(n for n, _ in self.model.named_parameters() if n not in local)

    def _direction(self, after: Weights, before: Weights) -> Tensor:
        """How the parameters that travel moved: [D, P], float32."""
        moved = [(after[n] - before[n]).reshape(len(before[n]), -1) for n in self._parameters]
        return torch.cat(moved, 1).float()

    def _to_ask(self, state: ClusteredState) -> tuple[int, ...]:
        if state.clusters is None:
            return ()
        return tuple(sorted(set(self.newcomers) - set(state.clusters.clients)))

    def _split(self, state: ClusteredState, round: int) -> ClusteredState:
        """Split each cluster all of whose training clients were heard since it was made."""
        clusters, updates = state.clusters, dict(state.updates)
        everyone = sorted({*state.clients, *updates})
        groups = [everyone]
        if clusters is not None:
            of = clusters.of
            groups = [[d for d in everyone if of.get(d) == g] for g in range(len(clusters.models))]
        for group, members in enumerate(groups):
            if len(members) < 3 or not set(members) <= updates.keys():
                continue
            halves = self._halves(torch.stack([updates[d] for d in members]))
            if halves is None:
                continue
            leaving = [d for d, half in zip(members, halves, strict=True) if half]
            told = round, len(leaving), len(members)
            log.info("round %d: %d clients leave a cluster of %d", *told)
            clusters = clusters or _one_for_all(state.base, {d: updates[d] for d in members}, round)
            clusters = clusters.divided(group, leaving)
            updates = {d: v for d, v in updates.items() if d not in set(members)}
        if clusters is not None and clusters is not state.clusters:
            asked = {d: v for d, v in clusters.answered.items() if d in self.newcomers}
            clusters = clusters.without(asked).joined_by(asked, _nearest)
        return replace(state, clusters=clusters, updates=updates)

    def _halves(self, updates: Tensor) -> NDArray[np.int64] | None:
        """Which half each client belongs to, 0 for the first client's; None for no split."""
        from sklearn.cluster import AgglomerativeClustering

        lengths = updates.double().norm(dim=1)
        if not lengths.max() > 0:
            return None
        if self.rule == "norms":
            mean = updates.double().mean(0).norm()
            if not (mean < self.eps1 and lengths.max() > self.eps2):
                return None
        cosines = _cosines(updates, updates)
        linkage = AgglomerativeClustering(n_clusters=2, metric="precomputed", linkage="complete")
        labels = by_first_client(linkage.fit_predict((1 - cosines).numpy()).astype(np.int64))
        if self.rule == "norms":
            return labels
        same = torch.from_numpy(labels[:, None] == labels)
        apart = bool(cosines[same].min() > cosines[~same].max())
        return labels if apart and np.bincount(labels).min() > 1 else None


def _one_for_all(base: Weights, updates: Vectors, round: int) -> Clusters:
    return Clusters(
        clients=tuple(updates),
        vectors=torch.stack(list(updates.values())),
        labels=torch.zeros(len(updates), dtype=torch.int64),
        centroids=torch.zeros(1, 0, dtype=torch.float64),
        models=(base,),
        since=round,
        quality=float("nan"),
    )


def _nearest(clusters: Clusters, vectors: Tensor) -> Tensor:
    return nearest_on_average(1 - _cosines(vectors, clusters.vectors), clusters)


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    """[m, P], [n, P] -> [m, n], float64."""
    units = [torch.nn.functional.normalize(v.double(), dim=1) for v in (first, second)]
    return (units[0] @ units[1].T).clamp(-1, 1)
