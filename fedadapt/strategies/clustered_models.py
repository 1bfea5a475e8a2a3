"""Strategies that put clients with similar data into clusters, and federate inside each."""

import logging
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, final

from torch import Tensor, nn

from fedadapt.client.cohort import Cohort
from fedadapt.messages import Answers, Sent, Update
from fedadapt.parameters import from_run
from fedadapt.server.exchange import RoundFailedError
from fedadapt.strategies.base import LocalTraining, Metadata, Strategy
from fedadapt.strategies.clusters import Clusters, Vectors, below
from fedadapt.strategies.shared.fedavg import FedAvg
from fedadapt.weights import Weights, repeat

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ClusteredState:
    """What the server knows."""

    base: Weights  # the federated model; fixed once there are clusters
    clients: tuple[int, ...]  # that train, ascending
    clusters: Clusters | None = None
    updates: Vectors = field(default_factory=dict)  # of clients, where clusters are made of them


@dataclass(frozen=True, kw_only=True)
class ClusteredModels(Strategy[ClusteredState]):
    """FedAvg until there are clusters, then FedAvg inside each, from the federated model.

    A subclass says how clients are assigned: which queries are asked in a round and of which
    clients (``queries``, ``ask``), what clients answer (``tell``), and what the server makes of the
    answers (``assign``). It adds its queries to ``query_types``. Clusters that come of what clients
    train need no query: see ``regrouped``. A client without a cluster is served the federated
    model, and what it trains is not used.
    """

    query_types: ClassVar[tuple[str, ...]] = FedAvg.query_types
    leaves: ClassVar[Mapping[str, str]] = FedAvg.told_of()
    personal_is: ClassVar[str] = "on the server, one a cluster"

    model: nn.Module = from_run()  # the architecture; its weights are never read
    training: LocalTraining = from_run(default_factory=LocalTraining)
    batch_norm: str = from_run(default="shared")

    @abstractmethod
    def queries(self, state: ClusteredState, round: int) -> tuple[str, ...]:
        """Name the queries that come before the training of a round; mostly none."""

    @abstractmethod
    def ask(self, state: ClusteredState, action: str, round: int) -> Sent:
        """Return what goes down with a query, and to which clients, sampled or not."""

    @abstractmethod
    def tell(self, action: str, cohort: Cohort, received: Sent) -> Update:
        """Compute the clients' answers to a query, in their report. Runs on the client."""

    @abstractmethod
    def assign(
        self, state: ClusteredState, action: str, round: int, answers: Iterable[Answers]
    ) -> ClusteredState:
        """Return the state with clusters, made or joined by means of the answers to a query."""

    def before_training(self, state: ClusteredState, round: int) -> ClusteredState:
        """Return the state that training starts from; for clusters that need no query."""
        return state

    def regrouped(
        self, state: ClusteredState, round: int, answers: Iterable[Answers]
    ) -> tuple[ClusteredState, Iterable[Answers]]:
        """Return the state with clusters made of what clients trained, before that is averaged.

        The answers are a stream: whoever looks at them hands on what was looked at.
        """
        return state, answers

    def shared(self, state: ClusteredState) -> Weights:
        """Return the base model, [...]: for all to be compared with, and for who has no cluster."""
        return state.base

    def weighed(self, answers: Answers) -> Answers:
        """Return trained weights with the ``num_examples`` by which they are averaged."""
        return answers

    @final
    def begin(self, start: Weights, clients: Sequence[int]) -> ClusteredState:
        return ClusteredState(self._average.begin(start, clients), tuple(sorted(clients)))

    @final
    def actions(self, state: ClusteredState, round: int) -> tuple[str, ...]:
        return (*self.queries(state, round), *self._average.actions(state.base, round))

    @final
    def send(self, state: ClusteredState, action: str, round: int, clients: Sequence[int]) -> Sent:
        if not self._trains(action):
            return self.ask(state, action, round)
        state = self.before_training(state, round)
        sent = self._average.send(state.base, action, round, clients)
        if state.clusters is None:
            return sent
        return sent._replace(weights=state.clusters.personal(state.base, clients))

    @final
    def answer(self, action: str, cohort: Cohort, received: Sent) -> Update:
        if self._trains(action):
            return self._average.answer(action, cohort, received)
        return self.tell(action, cohort, received)

    @final
    def expected(self, action: str, sent: Weights) -> Weights:
        return self._average.expected(action, sent) if self._trains(action) else {}

    @final
    def merge(
        self, state: ClusteredState, action: str, round: int, answers: Iterable[Answers]
    ) -> ClusteredState:
        if not self._trains(action):
            return self.assign(state, action, round, answers)
        state = self.before_training(state, round)
        known = set(state.clients)
        answers = _noting(map(self.weighed, answers), known)
        if action == "train":
            state, answers = self.regrouped(state, round, answers)
        base, clusters = state.base, state.clusters
        if clusters is None:
            base = self._average.merge(base, action, round, answers)
        elif action == "train":
            clusters = clusters.trained(answers)
        else:  # batch-norm statistics: small, so those of a cluster can wait for each other
            parts = zip(clusters.models, clusters.parted(answers), strict=True)
            models = tuple(self._average.merge(m, action, round, part) for m, part in parts)
            clusters = replace(clusters, models=models)
        return ClusteredState(base, tuple(sorted(known)), clusters, state.updates)

    @final
    def models(self, state: ClusteredState, clients: Sequence[int]) -> Mapping[str, Weights]:
        base = self.shared(state)
        models = {"base": repeat(base, len(clients))}
        if state.clusters is None:
            return models
        return models | {"personal": state.clusters.personal(base, clients)}

    @final
    def localise(self, cohort: Cohort, weights: Weights, model: str = "base") -> Weights:
        return self._average.localise(cohort, weights)

    @final
    def pack(self, state: ClusteredState) -> tuple[dict[str, Tensor], Metadata]:
        tensors = {f"base/{n}": t for n, t in state.base.items()}
        tensors |= {f"updates/{client}": t for client, t in state.updates.items()}
        if state.clusters is None:
            return tensors, {"clients": list(state.clients)}
        theirs, metadata = state.clusters.pack()
        return tensors | theirs, {"clients": list(state.clients), "clusters": metadata}

    @final
    def unpack(self, tensors: dict[str, Tensor], metadata: Metadata) -> ClusteredState:
        packed: dict[str, Any] = dict(metadata)
        clusters = Clusters.unpack(tensors, packed["clusters"]) if "clusters" in packed else None
        updates = {int(client): t for client, t in below(tensors, "updates").items()}
        return ClusteredState(below(tensors, "base"), tuple(packed["clients"]), clusters, updates)

    @cached_property
    def _average(self) -> FedAvg:
        return FedAvg(model=self.model, training=self.training, batch_norm=self.batch_norm)

    def _trains(self, action: str) -> bool:
        """Whether an exchange is one of FedAvg's."""
        return action in ("train", "query.moments")


def until_quorum_fails(answers: Iterable[Answers]) -> Iterator[Answers]:
    """Yield answers until the quorum fails, then stop instead of raising: training goes on."""
    try:
        yield from answers
    except RoundFailedError as failure:
        log.info("%s; they are asked again in the next round", failure)


def reported(answers: Iterable[Answers], name: str, size: int) -> dict[int, Tensor]:
    """What clients reported as ``name``, [size], in client order; without what is malformed."""
    vectors = {}
    for some in answers:
        given = some.update.report.get(name) if some.update else None
        for d, client in enumerate(some.clients):
            vector = None if given is None else given[d]
            if vector is None or vector.shape != (size,) or not vector.is_floating_point():
                log.warning("client %d: no %s of %d numbers; left out", client, name, size)
            elif not bool(vector.isfinite().all()):
                log.warning("client %d: its %s is not finite; left out", client, name)
            else:
                vectors[client] = vector.float()
    return dict(sorted(vectors.items()))


def _noting(answers: Iterable[Answers], known: set[int]) -> Iterator[Answers]:
    """Pass ``answers`` on, and add the clients that answered to ``known``."""
    for some in answers:
        known.update(some.clients)
        yield some
