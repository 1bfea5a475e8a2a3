"""What both ways of training TAPER have in common: bases, a mixer, and a network for a task.

Chen et al. 2023, "Train-once-for-all personalization", sections 3.2 and 3.3.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from fedadapt.client.class_selection import UNLIKELY
from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.client.fit import Fitted, StepRule, fit
from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.messages import Answers
from fedadapt.objectives import View, cross_entropy
from fedadapt.parameters import from_run, param
from fedadapt.random_streams import stream
from fedadapt.selectors import linear_head, nothing
from fedadapt.strategies.base import LocalTraining, Metadata, Strategy
from fedadapt.strategies.clusters import below
from fedadapt.strategies.generated.mixtures import (
    MIXER,
    blocks_of,
    drawn_mixer,
    mixed,
    shares_of,
)
from fedadapt.weights import Weights

TASK = "task"  # in messages and memories: descriptions

Stage = Literal["generic", "bases", "mixture"]


@dataclass(frozen=True, eq=False)
class MixtureState:
    """What the server knows."""

    generic: Weights  # the network for all, [...]
    mixer: Weights  # [...]
    clients: tuple[int, ...]  # that train, ascending
    bases: tuple[Weights, ...] = ()  # [...] each, from the second stage on
    tasks: Mapping[int, Tensor] = field(default_factory=dict)  # by client, [C + G], float64
    warm: bool = False  # the mixer knows which base is for which tasks
    centroids: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    """Of the groups of clients that bases are trained by; none where the server trains them."""


@dataclass(frozen=True, kw_only=True)
class TaskMixtures(Strategy[MixtureState]):
    """Networks mixed of bases, block by block, by shares that a mixer makes of a description.

    Training has the paper's three stages: a generic network, bases that begin as copies of it, and
    all bases together with the mixer. A subclass says who trains them, and what a description is.
    """

    model: nn.Module = from_run()  # the architecture; its weights are never read
    training: LocalTraining = from_run(default_factory=LocalTraining)
    rounds: int | None = from_run(default=None)
    seed: int = from_run(default=0)
    newcomers: tuple[int, ...] = from_run(default=())  # asked for their task too
    blocks: int = param(4, "parts of the network with shares of their own", at_least=1)
    generic_rounds: int | None = param(
        None, "rounds of the generic network (default: half of all)", at_least=1
    )
    base_rounds: int | None = param(
        None, "rounds of the bases after that (default: a quarter of all)", at_least=1
    )
    hidden: int = param(32, "width of the mixer's three hidden layers", at_least=1)

    @classmethod
    def check(cls, arguments: Mapping[str, Any], config: RunConfig) -> None:
        """Refuse a run in which a stage would have no round."""
        before = _first_rounds(arguments, config.rounds)
        if before >= config.rounds:
            raise InputError(
                f"rounds: {config.rounds}; {config.strategy} has {before} rounds before its last "
                "stage and needs one in it: give more rounds, or generic_rounds and base_rounds"
            )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head[1] is None:
            raise InputError("taper: the head needs a bias, by which it leaves out classes")

    @property
    @abstractmethod
    def num_bases(self) -> int:
        """How many networks are mixed."""

    @property
    def num_domains(self) -> int:
        """How many domains descriptions tell apart; 0 where they tell none."""
        return 0

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

    @cached_property
    def parameters(self) -> frozenset[str]:
        """Names of the network's tensors that are trained."""
        return frozenset(n for n, _ in self.model.named_parameters())

    @final
    def begin(self, start: Weights, clients: Sequence[int]) -> MixtureState:
        inputs = self.num_classes + self.num_domains
        sizes = (inputs, *[self.hidden] * 3, self.num_blocks * self.num_bases)
        mixer = drawn_mixer(stream(self.seed, "taper"), sizes, start[self.head[0]])
        return MixtureState(start, mixer, tuple(sorted(clients)))

    @final
    def stage(self, round: int) -> Stage:
        """Name the stage of round 1, 2, ..."""
        given = {"generic_rounds": self.generic_rounds, "base_rounds": self.base_rounds}
        rounds = self.rounds or 4
        if round <= (self.generic_rounds or max(1, rounds // 2)):
            return "generic"
        return "bases" if round <= _first_rounds(given, rounds) else "mixture"

    @final
    def undescribed(self, state: MixtureState) -> tuple[int, ...]:
        """Name the clients that the server has no description of, sampled or not."""
        return tuple(sorted({*state.clients, *self.newcomers} - state.tasks.keys()))

    @final
    def with_tasks(
        self,
        state: MixtureState,
        answers: Iterable[Answers],
        as_task: Callable[[Tensor], Tensor] = Tensor.clone,
    ) -> MixtureState:
        """Return the state with the descriptions that clients sent as ``TASK``.

        Args:
            as_task: Makes a description [C + G] of what one client sent.

        """
        told = {
            client: as_task(some.update.weights[TASK][d]).double()
            for some in answers
            if some.update is not None
            for d, client in enumerate(some.clients)
        }
        return replace(state, tasks=dict(sorted({**state.tasks, **told}.items())))

    @final
    def with_bases(self, state: MixtureState, stage: Stage) -> MixtureState:
        """Return the state with bases, from the second stage on: copies of the generic network."""
        if stage == "generic" or state.bases:
            return state
        return replace(state, bases=(state.generic,) * self.num_bases)

    @final
    def all_of(self, state: MixtureState) -> Weights:
        """Return all bases and the mixer under one set of names, [...]."""
        every = {f"{q}/{n}": t for q, base in enumerate(state.bases) for n, t in base.items()}
        return every | state.mixer

    @final
    def parted(self, state: MixtureState, weights: Weights) -> MixtureState:
        """Return the state with bases and mixer taken out of ``all_of``'s names."""
        return replace(
            state,
            bases=tuple(below(weights, str(q)) for q in range(len(state.bases))),
            mixer={n: t for n, t in weights.items() if n.startswith(MIXER)},
            warm=True,
        )

    @final
    def mixture(self, weights: Weights, tasks: Tensor) -> Weights:
        """Return the networks [D, ...] of ``all_of`` [D, ...] for descriptions [D, C + G]."""
        bases = [below(weights, str(q)) for q in range(self.num_bases)]
        mixer = {n: t for n, t in weights.items() if n.startswith(MIXER)}
        return mixed(bases, shares_of(mixer, tasks, self.num_blocks), self.block_of)

    @final
    def tasks_of(self, state: MixtureState, clients: Sequence[int]) -> Tensor:
        """Return the descriptions [D, C + G]; the mean one of a client that told none."""
        common = torch.stack([*state.tasks.values()]).mean(0)
        return torch.stack([state.tasks.get(client, common) for client in clients])

    @final
    def fit_mixture(
        self,
        cohort: Cohort,
        given: Weights,
        tasks: Tensor,
        rule: StepRule,
        schedule: Schedule,
        state: Weights | None = None,
    ) -> Fitted:
        """Train all bases and the mixer through each client's mixture, on its classes alone.

        Running statistics of batch norm stay as they are.

        Args:
            given: ``all_of``, each tensor [D, ...].
            tasks: Descriptions, [D, C + G].
            state: The step rule's, of an earlier call; None: from rest.

        Returns:
            What was trained as ``extra``.

        """
        trained = {n: t for n, t in given.items() if self.is_trained(n)}

        def through(moving: Weights, _: Weights, memory: Mapping[str, Weights]) -> Weights:
            return self.mixture(moving, memory[TASK][TASK])

        def objective(view: View) -> Tensor:
            present = view.memory[TASK][TASK][:, None, : self.num_classes] > 0
            return cross_entropy(view.with_logits(view.logits.masked_fill(~present, UNLIKELY)))

        return fit(
            cohort,
            self.mixture(given, tasks),
            rule,
            schedule,
            objective=objective,
            trainable=nothing,
            memory={TASK: {TASK: tasks}},
            extra=trained,
            through=through,
            state=state,
        )

    @final
    def is_trained(self, name: str) -> bool:
        """Whether a tensor of ``all_of`` is trained in the last stage."""
        return name.startswith(MIXER) or name.partition("/")[2] in self.parameters

    @final
    def pack(self, state: MixtureState) -> tuple[dict[str, Tensor], Metadata]:
        parts = {"generic": state.generic, "mixing": state.mixer}
        parts |= {f"base/{q}": base for q, base in enumerate(state.bases)}
        parts["tasks"] = {str(client): task for client, task in state.tasks.items()}
        tensors = {f"{part}/{n}": t for part, some in parts.items() for n, t in some.items()}
        return tensors | {"centroids": state.centroids}, {
            "clients": list(state.clients),
            "bases": len(state.bases),
            "warm": state.warm,
        }

    @final
    def unpack(self, tensors: dict[str, Tensor], metadata: Metadata) -> MixtureState:
        packed: dict[str, Any] = dict(metadata)
        tasks = {int(client): task for client, task in below(tensors, "tasks").items()}
        return MixtureState(
            generic=below(tensors, "generic"),
            mixer={n: t.clone() for n, t in below(tensors, "mixing").items()},
            clients=tuple(packed["clients"]),
            bases=tuple(below(tensors, f"base/{q}") for q in range(packed["bases"])),
            centroids=tensors["centroids"],
            tasks={client: task.clone() for client, task in sorted(tasks.items())},
            warm=packed["warm"],
        )


def _first_rounds(arguments: Mapping[str, Any], rounds: int) -> int:
    """Return the rounds before the last stage."""
    generic = arguments.get("generic_rounds") or max(1, rounds // 2)
    bases: int = arguments.get("base_rounds") or max(1, rounds // 4)
    return int(generic) + bases
