"""PFA: find clients with similar data without seeing any, then federate within each group.

Liu et al. 2021, "PFA: Privacy-preserving federated adaptation for effective model
personalization". Sections: feature extraction 3.2 (on the client), comparison 3.3, adaptation 3.4.
"""

import logging
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fedadapt.client.cohort import Cohort
from fedadapt.client.differential_privacy import KEPT, Guarantee, promised, release_once
from fedadapt.client.differential_privacy import check as check_guarantee
from fedadapt.client.statistics.sparsity import SPARSITY, Layer, num_channels, sparsity_vectors
from fedadapt.config import RunConfig
from fedadapt.datasets.data_spec import resolved_normalization
from fedadapt.errors import InputError
from fedadapt.messages import Answers, Config, Sent, Update
from fedadapt.parameters import from_run, param
from fedadapt.server.clustering.grouping import EXACT_LIMIT, group_clients
from fedadapt.strategies.base import Metadata
from fedadapt.strategies.clustered_models import ClusteredModels, ClusteredState, until_quorum_fails
from fedadapt.strategies.clusters import at_random, formed
from fedadapt.weights import Weights, repeat

WEAK = 0.25  # a silhouette below this is no evidence of groups (Kaufman & Rousseeuw 1990)
FEDERATED_SHARE = (5, 8)  # of all rounds, as in the paper: 50 federated, 30 in groups
FEDERATED_ROUNDS = 50  # where nobody says how many rounds there are

log = logging.getLogger(__name__)


def _is_layer(value: Any) -> bool:
    return bool(value) if isinstance(value, str) else type(value) is int and value >= 0


@dataclass(frozen=True, kw_only=True)
class PFA(ClusteredModels):
    """Groups clients with similar data by the sparsity of activations, a model for each group.

    FedAvg for ``federated_rounds``, then groups, then FedAvg inside each (Liu et al. 2021). A
    client that did not answer when groups were made is asked again in every round until it does,
    and joins the group with the nearest mean vector; until then it has the federated model, and
    what it trains is not used. ``federated_rounds`` of 0 groups the model it begins with.
    """

    query_types: ClassVar[tuple[str, ...]] = (SPARSITY, *ClusteredModels.query_types)
    leaves: ClassVar[Mapping[str, str]] = {
        SPARSITY: "how often each of q channels of a layer is 0; noisy with dp_epsilon",
    }
    client_reports = "once its sparsity vector"
    unseen_get = "the model of the nearest group"
    compares_layers: ClassVar[bool] = True

    image_shape: tuple[int, ...] = from_run()  # of a network input, (C, H, W)
    federated_rounds: int | None = param(
        None, "rounds before groups are made (default: 5/8 of all; the paper: 50 of 80)", at_least=0
    )
    groups: int | None = param(
        None, "number of groups (default: found by description length)", at_least=1
    )
    q: int = param(30, "channels in a vector; all of them where the layer has fewer", at_least=1)
    layer: Layer = param(
        "first",
        "activation that is looked at: first, its number in order of execution, or its name",
        check=_is_layer,
        allowed="first, a whole number >= 0 or a dotted name",
    )
    epsilon: float = param(0.0, "count |a| < epsilon; 0 counts exact zeros", at_least=0)
    method: str = param(
        "efficient",
        "one reference client, all pairs only where that is ambiguous; or all pairs",
        choices=("efficient", "exact"),
    )
    preset: str = param(
        "paper",
        "clients weigh by their examples (paper) or all alike (released code)",
        choices=("paper", "released"),
    )
    random: bool = param(False, "random groups of the given number: the baseline of table 8")
    regroup_every: int = param(0, "group again after so many rounds; 0: never", at_least=0)
    dp_epsilon: float = param(
        0.0,
        "epsilon of the differential privacy of the vectors, with a fixed normalization; 0: off",
        check=lambda v: type(v) in (int, float) and (v == 0 or 1e-6 <= v <= 1e6),
        allowed="0 (off) or 1e-6 to 1e6",
    )
    dp_delta: float = param(1e-5, "its delta", above=0, below=1)
    newcomers: tuple[int, ...] = from_run(default=())  # asked for a vector too, to be given a group
    rounds: int | None = from_run(default=None)
    seed: int = from_run(default=0)
    noise_seed: int | None = from_run(default=None)  # repeats a simulation; None: true entropy

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.random and not self.groups:
            raise InputError("random: true; give groups, their number, as well")
        if self.dp_epsilon:
            if self.random:
                raise InputError("dp_epsilon: random groups ask for no vector to protect")
            check_guarantee(Guarantee(self.dp_epsilon, self.dp_delta))
            if self.batch_norm == "local":
                raise InputError(
                    "dp_epsilon: with batch-norm=local one image moves all others' activations "
                    "and the noise would not cover it; use shared or reestimate"
                )
        _ = self.channels  # a network without the layer is refused at once

    @classmethod
    def check(cls, arguments: Mapping[str, Any], config: RunConfig) -> None:
        federated = arguments.get("federated_rounds")
        if federated is None:
            federated = federated_rounds(config.rounds)
        if federated == 0 and not config.weights:
            raise InputError(
                "strategy-args: federated_rounds: 0; groups at once need a trained model: give "
                "weights, e.g. the models/base.safetensors of another run, and its normalization"
            )
        if config.rounds == 1 and federated:
            raise InputError(
                "rounds: 1; pfa needs one before the groups and one in groups at least"
            )
        if federated >= config.rounds:
            raise InputError(
                f"strategy-args: federated_rounds: {federated}; it must be below rounds="
                f"{config.rounds}, of which the rest are in groups"
            )
        if 0 < config.clients < arguments.get("groups", 1):
            raise InputError(
                f"strategy-args: groups: {arguments['groups']} of {config.clients} clients; it "
                f"must be at most {config.clients}"
            )
        if arguments.get("random") and "groups" not in arguments:
            raise InputError("strategy-args: random: true; give groups, their number, as well")
        if arguments.get("random") and arguments.get("regroup_every"):
            raise InputError(
                "strategy-args: random: true; random groups stay, without regroup_every"
            )
        if arguments.get("dp_epsilon"):
            _check_private(arguments, config)

    @cached_property
    def channels(self) -> list[int]:
        """The channels that every client reports, drawn from the seed; none for random groups."""
        if self.random:
            return []
        count = num_channels(self.model, self.image_shape, self.layer, self.epsilon)
        drawn = self._stream("channels").choice(count, min(self.q, count), replace=False)
        return [int(c) for c in drawn]

    def queries(self, state: ClusteredState, round: int) -> tuple[str, ...]:
        return (SPARSITY,) if self._to_ask(state, round) else ()

    def ask(self, state: ClusteredState, action: str, round: int) -> Sent:
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

    def tell(self, action: str, cohort: Cohort, received: Sent) -> Update:
        measure = partial(
            sparsity_vectors,
            cohort,
            self.localise(cohort, received.weights),
            layer=received.config["layer"],  # type: ignore[arg-type]
            channels=received.config["channels"],  # type: ignore[arg-type]
            epsilon=float(received.config["epsilon"]),  # type: ignore[arg-type]
        )
        # The server does not ask how many images there are, so clients do not say.
        alike = torch.ones(len(cohort), dtype=torch.float64)
        guarantee = promised(received.config, Guarantee(self.dp_epsilon, self.dp_delta))
        if guarantee is None:
            return Update({}, alike, report={"sparsity": measure().float()})
        # Every image goes through the network alone, so that none has an influence on another.
        alone = partial(measure, batch_size=1)
        vectors, kept = release_once(cohort, received, alone, guarantee, self.noise_seed)
        return Update({}, alike, report={"sparsity": vectors}, states={KEPT: kept})

    def expected_report(self, action: str, sent: Weights) -> Weights:
        return {"sparsity": torch.zeros(len(self.channels))} if action == SPARSITY else {}

    def assign(
        self, state: ClusteredState, action: str, round: int, answers: Iterable[Answers]
    ) -> ClusteredState:
        if state.clusters is None or self._grouping_is_due(state, round):
            return self._grouped(state, round, self._vectors(answers))
        vectors = self._vectors(until_quorum_fails(answers))
        return replace(state, clusters=state.clusters.joined_by(vectors))

    def before_training(self, state: ClusteredState, round: int) -> ClusteredState:
        """Random groups need no query: they are there once the federated rounds are over."""
        if not self.random or state.clusters is not None or round <= self._federated_rounds:
            return state
        number = min(self.groups or 1, len(state.clients))
        generator = self._stream("random-groups")
        given = (state.clients, self.newcomers, number, state.base, round, generator)
        return replace(state, clusters=at_random(*given))

    def weighed(self, answers: Answers) -> Answers:
        """Weigh every client alike, however many images it has, as the released code does."""
        if self.preset == "paper" or answers.update is None:
            return answers
        ones = torch.ones_like(answers.update.num_examples)
        return replace(answers, update=replace(answers.update, num_examples=ones))

    def describe(self, state: ClusteredState) -> dict[str, Metadata]:
        if state.clusters is None:
            return {}
        how: Metadata = {"found_by": "chance"}
        if not self.random:
            how = {"found_by": "sparsity", "layer": self.layer, "channels": self.channels}
            how |= {"epsilon": self.epsilon}
        if self.dp_epsilon:
            how |= {"dp_epsilon": self.dp_epsilon, "dp_delta": self.dp_delta}
        return {"groups": state.clusters.describe() | how}

    @property
    def _federated_rounds(self) -> int:
        if self.federated_rounds is not None:
            return self.federated_rounds
        return FEDERATED_ROUNDS if self.rounds is None else federated_rounds(self.rounds)

    def _stream(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng((self.seed, zlib.crc32(purpose.encode())))

    def _grouping_is_due(self, state: ClusteredState, round: int) -> bool:
        if state.clusters is None:
            return round > self._federated_rounds
        return 0 < self.regroup_every <= round - state.clusters.since

    def _to_ask(self, state: ClusteredState, round: int) -> tuple[int, ...]:
        """Name the clients whose vectors are needed in this round, sampled for it or not."""
        if self.random or round <= self._federated_rounds:
            return ()
        everyone = set(state.clients) | set(self.newcomers)
        if not self._grouping_is_due(state, round) and state.clusters is not None:
            everyone -= set(state.clusters.clients)
        return tuple(sorted(everyone))

    def _vectors(self, answers: Iterable[Answers]) -> dict[int, Tensor]:
        """Sparsity vectors by client, in client order. Malformed vectors are logged and dropped."""
        shape = (len(self.channels),)
        vectors = {}
        for some in answers:
            reported = some.update.report.get("sparsity") if some.update else None
            for d, client in enumerate(some.clients):
                vector = None if reported is None else reported[d]
                if vector is None or vector.shape != shape or not vector.is_floating_point():
                    log.warning("client %d: no vector of %d channels; left out", client, *shape)
                elif not bool(((vector >= 0) & (vector <= 1)).all()):  # NaN is neither
                    log.warning("client %d: its vector holds no shares; left out", client)
                else:
                    vectors[client] = vector.float()
        return dict(sorted(vectors.items()))

    def _grouped(
        self, state: ClusteredState, round: int, vectors: dict[int, Tensor]
    ) -> ClusteredState:
        """Group the clients that train by their vectors; newcomers join the groups."""
        before = state.clusters
        everyone = vectors if before is None else dict(sorted((before.answered | vectors).items()))
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
        clusters = formed(members, grouping, state.base, before, round)
        rest = {d: v for d, v in everyone.items() if d not in members}
        return replace(state, clusters=clusters.joined_by(rest))


def federated_rounds(rounds: int) -> int:
    """Return how many of ``rounds`` come before the groups if nobody says: the paper's share."""
    numerator, denominator = FEDERATED_SHARE
    return max(1, rounds * numerator // denominator)


def _check_private(arguments: Mapping[str, Any], config: RunConfig) -> None:
    """Refuse settings under which one image would change the vector by more than the noise covers.

    A network that normalises by its batch is refused when ``PFA`` is made, before any round.
    """
    if arguments.get("random"):
        raise InputError("strategy-args: dp_epsilon: random groups ask for no vector to protect")
    if config.batch_norm == "local":
        raise InputError(
            "strategy-args: dp_epsilon: with batch-norm=local one image moves all others' "
            "activations and the noise would not cover it; use shared or reestimate"
        )
    if resolved_normalization(config.normalization, config.weights) == "data":
        raise InputError(
            f"strategy-args: dp_epsilon: normalization={config.normalization} scales by the mean "
            "and deviation of the clients' own images, so one image changes all vectors and the "
            "noise would not cover it; set normalization=unit, symmetric or imagenet"
        )
