"""TAPER, federated: a network for a task is mixed of bases by its description.

Chen et al. 2023, "Train-once-for-all personalization", sections 3.2 and 3.3. The paper's training
is not federated; what is federated here is ours.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedadapt.client.cohort import Cohort
from fedadapt.client.fit import fit
from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.messages import Answers, Sent, Update
from fedadapt.objectives import View, cross_entropy
from fedadapt.parameters import from_run, param
from fedadapt.random_streams import stream
from fedadapt.selectors import linear_head, nothing
from fedadapt.server.aggregation import StreamingMean
from fedadapt.server.clustering.grouping import group_clients, nearest
from fedadapt.strategies.base import LocalTraining, Metadata, Strategy
from fedadapt.strategies.clustered_models import until_quorum_fails
from fedadapt.strategies.clusters import below
from fedadapt.strategies.generated.mixtures import (
    MIXER,
    UNLIKELY,
    blocks_of,
    drawn_mixer,
    mixed,
    shares_of,
    warmed_up,
    with_classes,
)
from fedadapt.strategies.shared.fedavg import FedAvg
from fedadapt.strategies.shared_model import average
from fedadapt.weights import Weights, repeat

DESCRIBE = "query.describe_task"
TASK = "task"


@dataclass(frozen=True, eq=False)
class TaperState:
    """What the server knows."""

    generic: Weights  # the network for all, [...]
    mixer: Weights  # [...]
    clients: tuple[int, ...]  # that train
    bases: tuple[Weights, ...] = ()  # [...] each, once clients have described their tasks
    centroids: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    tasks: Mapping[int, Tensor] = field(default_factory=dict)  # descriptions by client, [C]
    warm: bool = False  # the mixer knows the groups


@dataclass(frozen=True, kw_only=True)
class Taper(Strategy[TaperState]):
    """Mixes each client's network of bases by its task's description. After Chen et al. 2023.

    The paper trains once, on the server's own data, and asks users for their task alone. Here
    clients train, in its three stages: FedAvg of a generic network; FedAvg of ``bases`` copies of
    it, one for each group of clients with similar tasks; then all bases and the mixer together,
    each client through its own mixture. A description is the share of each class in the client's
    training images: it is told to the server, which learns from it which classes a client has.

    Every block of the network is mixed by a softmax of its own. A personal model answers the
    classes of its client alone, by its head. A client that never trained is asked for its
    description too and gets a mixture like all others, without any training.

    Before the third stage the mixer learns on the server, from descriptions alone, which base was
    made for which group: without that it stays near equal shares. That warm-up, the groups, and a
    mixer without batch norm are ours. In the third stage down and up go all bases and the mixer.
    Batch norm is mixed like everything else, and its statistics stay as the second stage left them.
    """

    query_types: ClassVar[tuple[str, ...]] = (DESCRIBE,)
    client_gets = "later all bases and the mixer"
    client_reports = "its share of each class, later all bases and the mixer"
    personal_is = "mixed on the server"
    unseen_get = "a mixture by their own description"
    batch_norm_is = "mixed like other tensors"

    model: nn.Module = from_run()  # the architecture; its weights are never read
    training: LocalTraining = from_run(default_factory=LocalTraining)
    rounds: int | None = from_run(default=None)
    seed: int = from_run(default=0)
    newcomers: tuple[int, ...] = from_run(default=())  # asked for their task too
    bases: int = param(2, "networks that are mixed", at_least=1)
    blocks: int = param(4, "parts of the network with shares of their own", at_least=1)
    generic_rounds: int | None = param(
        None, "rounds of the generic network (default: half of all)", at_least=1
    )
    base_rounds: int | None = param(
        None, "rounds of the bases after that (default: a quarter of all)", at_least=1
    )
    hidden: int = param(32, "width of the mixer's three hidden layers", at_least=1)
    warm_up: int = param(150, "steps of the mixer on the server before the last stage", at_least=0)

    @classmethod
    def check(cls, arguments: Mapping[str, Any], config: RunConfig) -> None:
        """Refuse a run in which a stage would have no round."""
        before = _first_rounds(arguments, config.rounds)
        if before >= config.rounds:
            raise InputError(
                f"rounds: {config.rounds}; taper has {before} rounds before its last stage and "
                "needs one in it: give more rounds, or generic_rounds and base_rounds"
            )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head[1] is None:
            raise InputError("taper: the head needs a bias, by which it leaves out classes")

    @cached_property
    def head(self) -> tuple[str, Any]:
        """Names of the weight and the bias of the head."""
        return linear_head(self.model)

    @cached_property
    def num_classes(self) -> int:
        """The classes that a description is about."""
        return len(self.model.state_dict()[self.head[0]])

    @cached_property
    def block_of(self) -> dict[str, int]:
        """The block of each tensor of the network."""
        return blocks_of(self.model, self.blocks)

    @property
    def num_blocks(self) -> int:
        """No more than the network has layers."""
        return 1 + max(self.block_of.values())

    def begin(self, start: Weights, clients: Sequence[int]) -> TaperState:
        sizes = (self.num_classes, *[self.hidden] * 3, self.num_blocks * self.bases)
        mixer = drawn_mixer(stream(self.seed, "taper"), sizes, start[self.head[0]])
        return TaperState(start, mixer, tuple(sorted(clients)))

    def actions(self, state: TaperState, round: int) -> tuple[str, ...]:
        return (DESCRIBE, "train") if self._to_ask(state, round) else ("train",)

    def send(self, state: TaperState, action: str, round: int, clients: Sequence[int]) -> Sent:
        if action == DESCRIBE:
            clients = self._to_ask(state, round)
            return Sent(clients, {}, {"server-round": round})
        stage = self._stage(round)
        state = self._with_bases(state, stage)
        if stage == 1:
            weights = repeat(state.generic, len(clients))
        elif stage == 2:
            groups = [self._group(state, client) for client in clients]
            weights = {n: torch.stack([state.bases[g][n] for g in groups]) for n in state.generic}
        else:
            weights = repeat(self._all_of(self._ready(state)), len(clients))
        return Sent(tuple(clients), weights, {"server-round": round, "stage": stage})

    def expected(self, action: str, sent: Weights) -> Weights:
        if action == DESCRIBE:
            return {TASK: torch.zeros(self.num_classes)}
        trained = {n for n, _ in self.model.named_parameters()}
        mixing = any(n.startswith(MIXER) for n in sent)
        return {
            n: t
            for n, t in sent.items()
            if not mixing or n.startswith(MIXER) or n.partition("/")[2] in trained
        }

    def validation_errors(self, action: str, update: Update) -> Mapping[int, str]:
        if action != DESCRIBE:
            return {}
        totals = update.weights[TASK].clamp(min=0).sum(1)
        wrong = (update.weights[TASK] < 0).any(1) | ((totals - 1).abs() > 1e-3)
        return {d: "its description is no shares" for d in wrong.nonzero().flatten().tolist()}

    def answer(self, action: str, cohort: Cohort, received: Sent) -> Update:
        if action == DESCRIBE:
            return Update({TASK: self.describe_task(cohort)}, cohort.num_examples)
        if received.config["stage"] != 3:
            return self._average.train_shared(cohort, received.weights)
        return self._train_mixture(cohort, received.weights)

    def describe_task(self, cohort: Cohort) -> Tensor:
        """Return the share of each class in each client's training images, [D, C]."""
        counts = [
            torch.bincount(part.labels, minlength=self.num_classes) for part in cohort.part("train")
        ]
        shares = torch.stack(counts).float()
        return shares / shares.sum(1, keepdim=True)

    def mixture(self, weights: Weights, tasks: Tensor) -> Weights:
        """Return the networks [D, ...] of bases ``q/<name>`` and a mixer, for descriptions."""
        bases = [below(weights, str(q)) for q in range(self.bases)]
        shares = shares_of(
            {n: t for n, t in weights.items() if n.startswith(MIXER)}, tasks, self.num_blocks
        )
        return mixed(bases, shares, self.block_of)

    def merge(
        self, state: TaperState, action: str, round: int, answers: Iterable[Answers]
    ) -> TaperState:
        if action == DESCRIBE:
            return self._described(state, answers)
        stage = self._stage(round)
        state = self._with_bases(state, stage)
        if stage == 1:
            return replace(state, generic=average(state.generic, answers))
        if stage == 2:
            return self._grouped_average(state, answers)
        received = self._all_of(self._ready(state))
        after = average(received, answers)
        if after is received:  # nobody answered
            return state
        return replace(
            state,
            bases=tuple(below(after, str(q)) for q in range(self.bases)),
            mixer={n: t for n, t in after.items() if n.startswith(MIXER)},
            warm=True,
        )

    def models(self, state: TaperState, clients: Sequence[int]) -> Mapping[str, Weights]:
        base = repeat(state.generic, len(clients))
        if not state.bases or not state.tasks:
            return {"base": base, "personal": base}
        ready = self._ready(state)
        common = torch.stack([*ready.tasks.values()]).mean(0)
        tasks = torch.stack([ready.tasks.get(client, common) for client in clients])
        return {
            "base": base, "personal": self.mixture(repeat(self._all_of(ready), len(clients)), tasks)
        }  # fmt: skip

    def localise(self, cohort: Cohort, weights: Weights, model: str = "base") -> Weights:
        if model == "base":
            return weights
        return with_classes(weights, self.head, self.describe_task(cohort) > 0)

    def pack(self, state: TaperState) -> tuple[dict[str, Tensor], Metadata]:
        parts = {"generic": state.generic, "mixing": state.mixer}
        parts |= {f"base/{q}": base for q, base in enumerate(state.bases)}
        parts["tasks"] = {str(client): task for client, task in state.tasks.items()}
        tensors = {f"{part}/{n}": t for part, some in parts.items() for n, t in some.items()}
        return tensors | {"centroids": state.centroids}, {
            "clients": list(state.clients),
            "bases": len(state.bases),
            "warm": state.warm,
        }

    def unpack(self, tensors: dict[str, Tensor], metadata: Metadata) -> TaperState:
        packed: dict[str, Any] = dict(metadata)
        tasks = {int(client): task for client, task in below(tensors, "tasks").items()}
        return TaperState(
            generic=below(tensors, "generic"),
            mixer={n: t.clone() for n, t in below(tensors, "mixing").items()},
            clients=tuple(packed["clients"]),
            bases=tuple(below(tensors, f"base/{q}") for q in range(packed["bases"])),
            centroids=tensors["centroids"],
            tasks={client: task.clone() for client, task in sorted(tasks.items())},
            warm=packed["warm"],
        )

    @cached_property
    def _average(self) -> FedAvg:
        return FedAvg(model=self.model, training=self.training)

    def _stage(self, round: int) -> int:
        given = {"generic_rounds": self.generic_rounds, "base_rounds": self.base_rounds}
        rounds = self.rounds or 4
        generic = self.generic_rounds or max(1, rounds // 2)
        return 1 if round <= generic else 2 if round <= _first_rounds(given, rounds) else 3

    def _to_ask(self, state: TaperState, round: int) -> tuple[int, ...]:
        """Name the clients that have to describe their task, sampled or not."""
        if self._stage(round) == 1:
            return ()
        return tuple(sorted({*state.clients, *self.newcomers} - state.tasks.keys()))

    def _described(self, state: TaperState, answers: Iterable[Answers]) -> TaperState:
        """Return the state with descriptions; the first time with groups, and a base for each."""
        grouped = len(state.centroids) > 0
        answers = until_quorum_fails(answers) if grouped else answers
        told = {
            client: some.update.weights[TASK][d].double()
            for some in answers
            if some.update is not None
            for d, client in enumerate(some.clients)
        }
        tasks = dict(sorted({**state.tasks, **told}.items()))
        training = [task for client, task in tasks.items() if client not in self.newcomers]
        if grouped or not training:
            return replace(state, tasks=tasks)
        number = min(self.bases, len(training))
        grouping = group_clients(
            torch.stack(training), groups=number, method="exact", seed=self.seed
        )
        state = replace(state, tasks=tasks, centroids=grouping.centroids)
        return self._with_bases(state, 2)

    def _with_bases(self, state: TaperState, stage: int) -> TaperState:
        """Return the state with bases, from the second stage on: copies of the generic network."""
        if stage == 1 or state.bases:
            return state
        return replace(state, bases=(state.generic,) * self.bases)

    def _group(self, state: TaperState, client: int) -> int:
        """Return the base that a client trains in the second stage; without a task, the first."""
        if client not in state.tasks or not len(state.centroids):
            return 0
        return int(nearest(state.centroids, state.tasks[client].unsqueeze(0)))

    def _grouped_average(self, state: TaperState, answers: Iterable[Answers]) -> TaperState:
        means = [StreamingMean() for _ in state.bases]
        for some in answers:
            if some.update is None:
                continue
            for d, client in enumerate(some.clients):
                if client in state.tasks:
                    one = {n: t[d : d + 1] for n, t in some.update.weights.items()}
                    examples = some.update.num_examples[d : d + 1]
                    means[self._group(state, client)].add(one, examples)
        bases = [
            base if mean.empty else base | mean.result()
            for base, mean in zip(state.bases, means, strict=True)
        ]
        return replace(state, bases=tuple(bases))

    def _ready(self, state: TaperState) -> TaperState:
        """Return the state with a mixer that has been warmed up."""
        known = {client: task for client, task in state.tasks.items() if client in state.clients}
        if state.warm or not self.warm_up or not known:
            return state
        groups = torch.tensor([self._group(state, client) for client in known])
        tasks = torch.stack([*known.values()])
        mixer = warmed_up(state.mixer, tasks, groups, self.num_blocks, self.warm_up)
        return replace(state, mixer=mixer, warm=True)

    def _all_of(self, state: TaperState) -> Weights:
        """All bases and the mixer under one set of names."""
        every = {f"{q}/{n}": t for q, base in enumerate(state.bases) for n, t in base.items()}
        return every | state.mixer

    def _train_mixture(self, cohort: Cohort, received: Weights) -> Update:
        """Train all bases and the mixer through each client's mixture."""
        tasks = self.describe_task(cohort).to(received[f"{MIXER}0/weight"])
        parameters = {n for n, _ in self.model.named_parameters()}
        trained = {
            n: t
            for n, t in received.items()
            if n.startswith(MIXER) or n.partition("/")[2] in parameters
        }
        start = self.mixture(received, tasks)

        def through(moving: Weights, held: Weights, memory: Mapping[str, Weights]) -> Weights:
            return self.mixture(moving, memory[TASK][TASK])

        def objective(view: View) -> Tensor:
            present = view.memory[TASK][TASK].unsqueeze(1) > 0
            return cross_entropy(view.with_logits(view.logits.masked_fill(~present, UNLIKELY)))

        fitted = fit(
            cohort,
            start,
            self.training.optimizer,
            self.training.schedule,
            objective=objective,
            trainable=nothing,
            memory={TASK: {TASK: tasks}},
            extra=trained,
            through=through,
        )
        return Update(fitted.extra, cohort.num_examples, {"loss": fitted.loss})


def _first_rounds(arguments: Mapping[str, Any], rounds: int) -> int:
    """Return the rounds before the last stage."""
    generic = arguments.get("generic_rounds") or max(1, rounds // 2)
    bases: int = arguments.get("base_rounds") or max(1, rounds // 4)
    return int(generic) + bases
