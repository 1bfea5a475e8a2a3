"""PFA: find clients with similar data without seeing any, then federate within each group.

Liu et al. 2021, "PFA: Privacy-preserving federated adaptation for effective model
personalization". Sections: feature extraction 3.2 (on the client), comparison 3.3, adaptation 3.4.
"""

import logging
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedadapt.client.cohort import Cohort
from fedadapt.client.differential_privacy import KEPT, Guarantee, check, promised, release_once
from fedadapt.client.statistics.sparsity import SPARSITY, Layer, num_channels, sparsity_vectors
from fedadapt.messages import Answers, Config, Sent, Update
from fedadapt.server.clustering.grouping import EXACT_LIMIT, group_clients
from fedadapt.server.exchange import RoundFailedError
from fedadapt.strategies.base import LocalTraining, Metadata, Strategy
from fedadapt.strategies.fedavg import FedAvg
from fedadapt.strategies.pfa.arguments import RULES
from fedadapt.strategies.pfa.groups import Groups, at_random, below, formed
from fedadapt.weights import Weights, repeat

WEAK = 0.25  # a silhouette below this is no evidence of groups (Kaufman & Rousseeuw 1990)

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class PfaState:
    """What the server knows."""

    base: Weights  # the federated model; M_f, and fixed, once there are groups
    clients: tuple[int, ...]  # that train, ascending
    groups: Groups | None = None


@dataclass(frozen=True, kw_only=True)
class PFA(Strategy[PfaState]):
    """FedAvg for ``federated_rounds``, then groups by sparsity, then FedAvg inside each group.

    A client that did not answer when groups were made is asked again in every round until it does,
    and joins the group with the nearest mean vector; until then it has the federated model, and
    what it trains is not used. ``federated_rounds`` of 0 groups the model it begins with.

    ``preset`` says how clients weigh: ``paper`` by examples, ``released`` all alike.
    """

    model: nn.Module  # the architecture, for its layers; its weights are never read
    image_shape: tuple[int, ...]  # of a network input, (C, H, W)
    training: LocalTraining = field(default_factory=LocalTraining)
    batch_norm: str = "shared"
    federated_rounds: int = 50
    groups: int | None = None  # None: as many as the vectors say
    q: int = 30  # channels; all of them where the layer has fewer
    layer: Layer = "first"
    epsilon: float = 0.0  # 0: exact zeros; above: |a| < epsilon, for activations that are not ReLU
    method: str = "efficient"
    preset: str = "paper"
    random: bool = False  # groups of random clients: the baseline of the paper's table 8
    regroup_every: int = 0  # rounds; 0: once and for all
    newcomers: tuple[int, ...] = ()  # never train; asked for a vector too, to be given a group
    seed: int = 0
    dp_epsilon: float = 0.0  # the vectors leave with (epsilon, delta)-DP; 0: as they are
    dp_delta: float = 1e-5
    noise_seed: int | None = None  # repeats a simulation; None, on real devices: true entropy

    def __post_init__(self) -> None:
        for name, (holds, allowed) in RULES.items():
            value = getattr(self, name)
            if not holds(value) and not (name == "groups" and value is None):
                raise ValueError(f"{name}={value!r}; it must be {allowed}")
        if self.random and not self.groups:
            raise ValueError("random=True needs groups, their number")
        if self.dp_epsilon:
            if self.random:
                raise ValueError("dp_epsilon: random groups ask for no vector to protect")
            check(Guarantee(self.dp_epsilon, self.dp_delta))
            if self.batch_norm == "local":
                raise ValueError(
                    "dp_epsilon needs a model that is not the client's: no local norms"
                )
        _ = self.channels  # a network without the layer is refused at once

    def begin(self, start: Weights, clients: Sequence[int]) -> PfaState:
        return PfaState(self._average.begin(start, clients), tuple(sorted(clients)))

    @cached_property
    def channels(self) -> list[int]:
        """The channels that every client reports, drawn from the seed; none for random groups."""
        if self.random:
            return []
        count = num_channels(self.model, self.image_shape, self.layer, self.epsilon)
        drawn = self._stream("channels").choice(count, min(self.q, count), replace=False)
        return [int(c) for c in drawn]

    def actions(self, state: PfaState, round: int) -> tuple[str, ...]:
        training = self._average.actions(state.base, round)
        return (SPARSITY, *training) if self._to_ask(state, round) else training

    def send(self, state: PfaState, action: str, round: int, clients: Sequence[int]) -> Sent:
        if action == SPARSITY:  # whoever it is needed of, whether it trains in this round or not
            asked = self._to_ask(state, round)
            config: Config = {
                "server-round": round,
                "layer": self.layer,
                "channels": self.channels,
                "epsilon": self.epsilon,
            }
            if self.dp_epsilon:
                config = {**config, "dp-epsilon": self.dp_epsilon, "dp-delta": self.dp_delta}
            return Sent(asked, repeat(state.base, len(asked)), config)
        state = self._with_random_groups(state, round)
        sent = self._average.send(state.base, action, round, clients)
        if state.groups is None:
            return sent
        return sent._replace(weights=state.groups.personal(state.base, clients))

    def answer(self, action: str, cohort: Cohort, received: Sent) -> Update:
        if action != SPARSITY:
            return self._average.answer(action, cohort, received)
        measure = partial(
            sparsity_vectors,
            cohort,
            self.localise(cohort, received.weights),
            layer=received.config["layer"],  # type: ignore[arg-type]
            channels=received.config["channels"],  # type: ignore[arg-type]
            epsilon=float(received.config["epsilon"]),  # type: ignore[arg-type]
        )
        # How many images there are is not asked, so it is not told.
        alike = torch.ones(len(cohort), dtype=torch.float64)
        guarantee = promised(received.config, Guarantee(self.dp_epsilon, self.dp_delta))
        if guarantee is None:
            return Update({}, alike, report={"sparsity": measure().float()})
        # Every image goes through the network alone, so that none has an influence on another.
        alone = partial(measure, batch_size=1)
        said, states = release_once(cohort, received, alone, guarantee, self.noise_seed)
        return Update({}, alike, report={"sparsity": said}, states={KEPT: states})

    def expected(self, action: str, sent: Weights) -> Weights:
        return {} if action == SPARSITY else self._average.expected(action, sent)

    def merge(
        self, state: PfaState, action: str, round: int, answers: Iterable[Answers]
    ) -> PfaState:
        if action == SPARSITY:
            if state.groups is not None and not self._grouping_is_due(state, round):
                found = self._vectors(_whoever_answers(answers))
                return replace(state, groups=state.groups.joined_by(found))
            return self._grouped(state, round, self._vectors(answers))
        state = self._with_random_groups(state, round)
        known = set(state.clients)
        if self.preset == "released":
            answers = map(_equally, answers)
        answers = _noting(answers, known)
        base, groups = state.base, state.groups
        if groups is None:
            base = self._average.merge(base, action, round, answers)
        elif action == "train":
            groups = groups.trained(answers)
        else:  # batch-norm moments: small, so they can wait for each other
            pairs = zip(groups.models, groups.parted(answers), strict=True)
            models = tuple(self._average.merge(m, action, round, part) for m, part in pairs)
            groups = replace(groups, models=models)
        return PfaState(base, tuple(sorted(known)), groups)

    def models(self, state: PfaState, clients: Sequence[int]) -> Mapping[str, Weights]:
        models_by_task = {"base": repeat(state.base, len(clients))}
        if state.groups is None:
            return models_by_task
        return models_by_task | {"personal": state.groups.personal(state.base, clients)}

    def localise(self, cohort: Cohort, weights: Weights, model: str = "base") -> Weights:
        return self._average.localise(cohort, weights)

    def describe(self, state: PfaState) -> dict[str, Metadata]:
        if state.groups is None:
            return {}
        how: Metadata = (
            {}
            if self.random
            else {"layer": self.layer, "channels": self.channels, "epsilon": self.epsilon}
        )
        if self.dp_epsilon:
            how |= {"dp_epsilon": self.dp_epsilon, "dp_delta": self.dp_delta}
        return {"groups": state.groups.describe() | how}

    def pack(self, state: PfaState) -> tuple[dict[str, Tensor], Metadata]:
        tensors = {f"base/{n}": t for n, t in state.base.items()}
        if state.groups is None:
            return tensors, {"clients": list(state.clients)}
        theirs, metadata = state.groups.pack()
        return tensors | theirs, {"clients": list(state.clients), "groups": metadata}

    def unpack(self, tensors: dict[str, Tensor], metadata: Metadata) -> PfaState:
        told: dict[str, Any] = dict(metadata)
        groups = Groups.unpack(tensors, told["groups"]) if "groups" in told else None
        return PfaState(below(tensors, "base"), tuple(told["clients"]), groups)

    @cached_property
    def _average(self) -> FedAvg:
        return FedAvg(model=self.model, training=self.training, batch_norm=self.batch_norm)

    def _stream(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng((self.seed, zlib.crc32(purpose.encode())))

    def _grouping_is_due(self, state: PfaState, round: int) -> bool:
        if state.groups is None:
            return round > self.federated_rounds
        return 0 < self.regroup_every <= round - state.groups.since

    def _to_ask(self, state: PfaState, round: int) -> tuple[int, ...]:
        """Whose vectors are needed in this round: everybody's, nobody's or those not had yet."""
        if self.random or round <= self.federated_rounds:
            return ()
        everyone = set(state.clients) | set(self.newcomers)
        if not self._grouping_is_due(state, round) and state.groups is not None:
            everyone -= set(state.groups.clients)
        return tuple(sorted(everyone))

    def _with_random_groups(self, state: PfaState, round: int) -> PfaState:
        if not self.random or state.groups is not None or round <= self.federated_rounds:
            return state
        number = min(self.groups or 1, len(state.clients))
        generator = self._stream("random-groups")
        given = (state.clients, self.newcomers, number, state.base, round, generator)
        return replace(state, groups=at_random(*given))

    def _vectors(self, answers: Iterable[Answers]) -> dict[int, Tensor]:
        """The usable vectors, by client, ascending; any client may answer anything."""
        shape = (len(self.channels),)
        found = {}
        for some in answers:
            reported = some.update.report.get("sparsity") if some.update else None
            for d, client in enumerate(some.clients):
                vector = None if reported is None else reported[d]
                if vector is None or vector.shape != shape or not vector.is_floating_point():
                    log.warning("client %d: no vector of %d channels; left out", client, *shape)
                elif not bool(((vector >= 0) & (vector <= 1)).all()):  # NaN is neither
                    log.warning("client %d: its vector holds no shares; left out", client)
                else:
                    found[client] = vector.float()
        return dict(sorted(found.items()))

    def _grouped(self, state: PfaState, round: int, found: dict[int, Tensor]) -> PfaState:
        """Groups of the clients that train; newcomers join them."""
        before = state.groups
        everyone = found if before is None else dict(sorted((before.answered | found).items()))
        members = {d: v for d, v in everyone.items() if d in set(state.clients)}
        if not members:
            log.warning("round %d: no vector of a client that trains; one group for all", round)
            return state
        most = min(len(members), EXACT_LIMIT)
        if self.groups and self.groups > most:
            log.warning("round %d: %d groups of %d clients", *(round, self.groups, most))
        grouping = group_clients(
            torch.stack(list(members.values())),
            groups=min(self.groups, most) if self.groups else None,
            method=self.method,
            seed=self.seed,
        )
        log.info(
            "round %d: %d groups of %d clients by sparsity (%s, silhouette %.2f)",
            *(round, grouping.num_groups, len(members), grouping.method, grouping.quality),
        )
        if grouping.quality < WEAK:
            log.warning("round %d: the groups are hardly apart (%.2f)", round, grouping.quality)
        groups = formed(members, grouping, state.base, before, round)
        rest = {d: v for d, v in everyone.items() if d not in members}
        return replace(state, groups=groups.joined_by(rest))


def _whoever_answers(answers: Iterable[Answers]) -> Iterator[Answers]:
    """Without a quorum: clients that are late are not waited for, and training goes on."""
    try:
        yield from answers
    except RoundFailedError as failure:
        log.info("%s; they are asked again in the next round", failure)


def _equally(answers: Answers) -> Answers:
    """Every client counts once, however many images it has."""
    if answers.update is None:
        return answers
    ones = torch.ones_like(answers.update.num_examples)
    return replace(answers, update=replace(answers.update, num_examples=ones))


def _noting(answers: Iterable[Answers], known: set[int]) -> Iterator[Answers]:
    """Add to ``known`` whoever answers."""
    for some in answers:
        known.update(some.clients)
        yield some
