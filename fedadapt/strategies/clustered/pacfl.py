"""PACFL: clusters of clients whose images span similar subspaces, before any training.

Vahidian et al. 2023, "Efficient distribution similarity identification in clustered federated
learning via principal angles between client data subspaces", algorithm 1.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedadapt.client.cohort import Cohort
from fedadapt.client.statistics.subspaces import class_subspaces
from fedadapt.messages import Answers, Sent, Update
from fedadapt.models.meta import on_meta
from fedadapt.models.sequences.inputs import blank, refuse_tokens
from fedadapt.parameters import from_run, param
from fedadapt.server.clustering.grouping import by_first_client
from fedadapt.server.clustering.principal_angles import angles_between
from fedadapt.strategies.base import Metadata
from fedadapt.strategies.clustered_models import (
    ClusteredModels,
    ClusteredState,
    reported,
    until_quorum_fails,
)
from fedadapt.strategies.clusters import Clusters, Vectors, nearest_on_average
from fedadapt.weights import Weights

SUBSPACES = "query.subspaces"
MOST_TOLD = 1000  # clients whose distances are written into the run folder

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PACFL(ClusteredModels):
    """Clusters by the principal angles between the spans of clients' images. Vahidian et al. 2023.

    Every client is asked once, before the first round trains, for what the leading singular
    vectors of each class of its training images span. The server joins clients by average linkage
    on the angles until clusters are ``threshold`` degrees apart, and FedAvg goes on inside each. A
    client that answers late, or never trains, joins the cluster nearest on average; until then it
    has the model of the largest cluster, which is ``base``.

    **What clients send shows their images.** The first singular vector of a class is nearly its
    mean image, and whoever has the span can tell which images lie in it. Use ``pfa`` where that
    matters.

    The angles are those of linear algebra: singular values of the product of two orthonormal
    bases. The released code takes the arc cosine of single, signed products, which depends on the
    arbitrary signs of singular vectors. Their mean is the default: the smallest angle, which the
    paper prints, is near 0 as soon as spans of many dimensions have a direction in common. Two
    clients with the same images under different labels are the same to this method.
    """

    query_types: ClassVar[tuple[str, ...]] = (SUBSPACES, *ClusteredModels.query_types)
    leaves: ClassVar[Mapping[str, str]] = {
        SUBSPACES: "the main directions of each class's images: nearly mean images",
    }
    client_reports = "once the span of each class's images"
    unseen_get = "the model of the nearest cluster"

    image_shape: tuple[int, ...] = from_run()  # of a network input, (C, H, W)
    threshold: float = param(40.0, "degrees at which clusters stay apart", above=0, at_most=90)
    per_class: int = param(3, "singular vectors that stand for a class", at_least=1)
    angle: str = param("mean", "of the principal angles", choices=("mean", "smallest"))
    newcomers: tuple[int, ...] = from_run(default=())  # asked too, to be given a cluster

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_tokens(self.model, "pacfl", "compares the directions in which inputs vary")

    def queries(self, state: ClusteredState, round: int) -> tuple[str, ...]:
        return (SUBSPACES,) if self._to_ask(state) else ()

    def ask(self, state: ClusteredState, action: str, round: int) -> Sent:
        return Sent(self._to_ask(state), {}, {"server-round": round})

    def tell(self, action: str, cohort: Cohort, received: Sent) -> Update:
        bases = class_subspaces(cohort, self.per_class, self._num_classes)
        alike = torch.ones(len(cohort), dtype=torch.float64)
        return Update({}, alike, report={"subspace": bases.flatten(1).float()})

    def expected_report(self, action: str, sent: Weights) -> Weights:
        return {"subspace": torch.zeros(prod(self._shape))} if action == SUBSPACES else {}

    def assign(
        self, state: ClusteredState, action: str, round: int, answers: Iterable[Answers]
    ) -> ClusteredState:
        if state.clusters is not None:
            answers = until_quorum_fails(answers)
        subspaces = reported(answers, "subspace", prod(self._shape))
        clusters = state.clusters
        if clusters is None:
            members = {d: v for d, v in subspaces.items() if d in set(state.clients)}
            if not members:
                return state
            clusters = self._made(members, state, round)
            subspaces = {d: v for d, v in subspaces.items() if d not in members}
        return replace(state, clusters=clusters.joined_by(subspaces, self._nearest))

    def shared(self, state: ClusteredState) -> Weights:
        """Return the model of the largest cluster: the initial one is trained by nobody."""
        return (
            state.base if state.clusters is None else state.clusters.models[state.clusters.largest]
        )

    def describe(self, state: ClusteredState) -> dict[str, Metadata]:
        if state.clusters is None:
            return {}
        told: Metadata = {"found_by": "principal angles", "threshold": self.threshold}
        if len(state.clusters.clients) <= MOST_TOLD:
            angles = self._angles(state.clusters.vectors, state.clusters.vectors)
            told |= {"distances": angles.round(decimals=3).tolist()}
            told |= {"unit": f"{self.angle} principal angle, degrees"}
        return {"groups": state.clusters.members() | told}

    @cached_property
    def _num_classes(self) -> int:
        with torch.no_grad():
            empty = on_meta(self.model).eval()
            logits: Tensor = empty(blank(empty, self.image_shape, device="meta"))
        return logits.shape[1]

    @property
    def _shape(self) -> tuple[int, int]:
        """Of a basis."""
        pixels = prod(self.image_shape)
        return pixels, min(self.per_class * self._num_classes, pixels)

    def _to_ask(self, state: ClusteredState) -> tuple[int, ...]:
        """Name the clients that have not answered yet, sampled or not."""
        everyone = set(state.clients) | set(self.newcomers)
        return tuple(sorted(everyone - set(state.clusters.clients if state.clusters else ())))

    def _angles(self, first: Tensor, second: Tensor) -> Tensor:
        shaped = (vectors.unflatten(1, self._shape) for vectors in (first, second))
        return angles_between(*shaped, smallest=self.angle == "smallest")

    def _nearest(self, clusters: Clusters, vectors: Tensor) -> Tensor:
        return nearest_on_average(self._angles(vectors, clusters.vectors), clusters)

    def _made(self, members: Vectors, state: ClusteredState, round: int) -> Clusters:
        vectors = torch.stack(list(members.values()))
        angles = self._angles(vectors, vectors)
        labels = torch.from_numpy(by_first_client(_linked(angles, self.threshold)))
        number = int(labels.max()) + 1
        log.info("round %d: %d clusters of %d clients", round, number, len(members))
        return Clusters(
            clients=tuple(members),
            vectors=vectors,
            labels=labels,
            centroids=torch.zeros(number, 0, dtype=torch.float64),
            models=(state.base,) * number,
            since=round,
            quality=float("nan"),
        )


def _linked(distances: Tensor, threshold: float) -> NDArray[np.int64]:
    """Labels by average linkage up to ``threshold``, [n]."""
    from sklearn.cluster import AgglomerativeClustering

    if len(distances) == 1:
        return np.zeros(1, dtype=np.int64)
    linkage = AgglomerativeClustering(
        n_clusters=None, metric="precomputed", linkage="average", distance_threshold=threshold
    )
    symmetric = (distances + distances.T) / 2
    labels: NDArray[np.int64] = linkage.fit_predict(symmetric.numpy()).astype(np.int64)
    return labels
