"""DUA: experts of the server, merged for each user by what matters on that user's images.

De Lange et al. 2020, "Unsupervised model personalization while preserving privacy and scalability:
an open problem". The server has learnt its tasks one after another and never sees a user's images
(``experts/training.py``). In round t every client is asked how much each parameter of expert t
matters on its images of task t (psi, sec. 3.2); the server merges the experts by that (chi, eqs 1
and 2): RACL. Merged by importances on the server's own images they are one model for all: IMM.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from fedadapt.client.cohort import Cohort
from fedadapt.client.statistics.importance import importances
from fedadapt.messages import Answers, Sent, Update
from fedadapt.parameters import from_run, param
from fedadapt.selectors import head
from fedadapt.server.mode_merge import ZeroImportance, mode_merge, mode_merges
from fedadapt.strategies.base import Metadata, ServerSide, Strategy
from fedadapt.strategies.dua.compression import Code
from fedadapt.strategies.dua.experts.expert import Expert, head_for, task_model
from fedadapt.strategies.dua.importance_store import ImportanceStore, InMemoryImportances
from fedadapt.strategies.dua.on_client import added, merged_there
from fedadapt.strategies.dua.request import ImportanceRequest
from fedadapt.strategies.dua.sparse_upload import SHARED, Difference
from fedadapt.weights import Weights, num_bytes, repeat, row, stack

IMPORTANCE = "query.importance"
IMPORTANCES_AT_ONCE = 2**24  # bytes of clients' importances that are merged together


@dataclass(frozen=True)
class DuaState:
    """What the server knows beside its experts: how far it is."""

    learnt: int  # tasks
    clients: tuple[int, ...]  # ascending


@dataclass(frozen=True, kw_only=True, eq=False)
class MergedExperts(Strategy[DuaState]):
    """Experts of the server, one a task: a round is a task, and clients never train.

    Clients are served a model for each task so far: one trunk, and the head of the task. ``base``
    is the same for all: the experts merged by ``server_importances`` (mode-IMM); where there are
    none, the trunk after the newest task (EWC, MAS, LwF, joint training), or with ``separate`` each
    task's own expert. ``personal``, where there is an ``importance_request``, is RACL's merge. A
    client that has not answered for every task so far has the base.

    A subclass names its ``method`` of training, and by which importance experts are merged. A
    client needs ``model`` and the parameters; ``prepare`` adds what only the server has.
    """

    query_types: ClassVar[tuple[str, ...]] = (IMPORTANCE,)
    leaves: ClassVar[Mapping[str, str]] = {
        "train": "nothing: clients do not train",
        IMPORTANCE: "how much each parameter of an expert matters; with merge_on=client nothing",
    }
    unseen_get: ClassVar[str] = "what all get: no client trains"
    batch_norm_is: ClassVar[str] = "the experts'"
    learns_tasks: ClassVar[bool] = True
    samples_clients: ClassVar[bool] = False
    method: ClassVar[str]  # ``ExpertTraining.method``
    merged_by: ClassVar[str] = ""  # importance by which experts are merged: mas, fisher; "": none
    separate: ClassVar[bool] = False  # each task is answered by its own expert
    personal: ClassVar[bool] = False  # merged by each user's importances, not the server's alone

    model: nn.Module = from_run()  # the architecture, for its head; its weights are never read
    preset: str = param(
        "paper", "choices of the paper, or of its released code", choices=("paper", "released")
    )
    epochs: int | None = param(None, "epochs an expert trains at most", at_least=1)
    batch_size: int | None = param(None, "images in a training step", at_least=1)
    lr: float | None = param(None, "learning rate of the experts", above=0)
    momentum: float | None = param(None, "its momentum", at_least=0, below=1)
    l2_lambda: float | None = param(None, "strength of IMM's L2-transfer", at_least=0)
    ewc_lambda: float | None = param(None, "strength of EWC", at_least=0)
    mas_lambda: float | None = param(None, "strength of MAS", at_least=0)
    lwf_lambda: float | None = param(None, "strength of LwF", at_least=0)
    expert_folder: str = param("", "folder that keeps experts for other runs (default: the run's)")
    draw: int = param(1, "which of the users' draws of images, 1 to 5", at_least=1, at_most=5)

    tasks: tuple[str, ...] = ()  # in the order in which they are learnt
    experts: tuple[Expert, ...] = ()  # one a task, or one for all (joint training)
    server_importances: tuple[Weights, ...] = ()  # Omega of each expert on the server's images
    importance_store: ImportanceStore = field(default_factory=InMemoryImportances)

    @property
    def importance_request(self) -> ImportanceRequest | None:
        """What users are asked for; None: nothing is asked, and nothing is personal."""
        return None

    @property
    def zero_importance(self) -> ZeroImportance:
        """What a parameter is that matters to no expert."""
        return "mean" if self.preset == "paper" else "zero"

    @property
    def training(self) -> dict[str, Any]:
        """The changes to the preset's training of experts that were given."""
        names = ("epochs", "batch_size", "lr", "momentum")
        lambdas = ("l2_lambda", "ewc_lambda", "mas_lambda", "lwf_lambda")
        given = {name: getattr(self, name) for name in names + lambdas}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def measure(self) -> dict[str, Any]:
        """How importances are measured; ``docs/dua.md`` has the presets.

        The released code draws the labels of its Fisher, and takes means over batches first.
        """
        if self.preset == "paper":
            return {"kind": self.merged_by}
        fisher = {"kind": "true-fisher", "floor": 1e-8}
        kind = {"kind": "mas"} if self.merged_by == "mas" else fisher
        return {**kind, "granularity": "batch", "batch_size": 20}

    def prepare(self, server: ServerSide) -> Self:
        """Train the experts that are not there yet, and measure the server's importances."""
        from fedadapt.strategies.dua.prepare import prepared

        return prepared(self, server)

    def begin(self, start: Weights, clients: Sequence[int]) -> DuaState:
        return DuaState(0, tuple(sorted(clients)))

    def actions(self, state: DuaState, round: int) -> tuple[str, ...]:
        return (IMPORTANCE,) if self.importance_request else ()

    def send(self, state: DuaState, action: str, round: int, clients: Sequence[int]) -> Sent:
        assert self.importance_request is not None
        task = round - 1
        weights = task_model(self.experts, self.tasks[task], task) | self._shared(task)
        config = {"server-round": round, "task": task, **self.importance_request.to_config()}
        return Sent(tuple(clients), repeat(weights, len(clients)), config)

    def answer(self, action: str, cohort: Cohort, received: Sent) -> Update:
        importance_request = ImportanceRequest.from_config(received.config)
        expert = {n: t for n, t in received.weights.items() if not n.startswith(SHARED)}
        measured = importances(
            cohort,
            expert,
            kind=importance_request.kind,
            granularity=importance_request.granularity,
            batch_size=importance_request.batch_size,
            floor=importance_request.floor,
            exclude=self._head,
        )
        # How many images there are is not asked, so it is not told.
        alike = torch.ones(len(cohort), dtype=torch.float64)
        if importance_request.stays:
            task = int(received.config["task"])  # type: ignore[arg-type]
            return Update({}, alike, states=added(cohort, expert, measured, task=task))
        return Update(importance_request.code(row(received.weights, 0)).encode(measured), alike)

    def expected(self, action: str, sent: Weights) -> Weights:
        assert self.importance_request is not None
        if self.importance_request.stays:
            return {}
        names = {n for n, _ in self.model.named_parameters()} - self._head
        zeros = {n: torch.zeros_like(t).unsqueeze(0) for n, t in sent.items() if n in names}
        return row(self.importance_request.code(sent).encode(zeros), 0)

    def validation_errors(self, action: str, update: Update) -> Mapping[int, str]:
        """An importance is not negative; an upload that cannot be decoded is none either."""
        if action != IMPORTANCE or self.importance_request is None or self.importance_request.stays:
            return {}
        return self._code(0).validation_errors(update.weights)  # one task's are as another's

    def merge(
        self, state: DuaState, action: str, round: int, answers: Iterable[Answers]
    ) -> DuaState:
        assert self.importance_request is not None
        for some in answers:
            if some.update is None or self.importance_request.stays:
                continue
            decoded = self._code(round - 1).decode(some.update.weights)
            for d, client in enumerate(some.clients):
                self.importance_store.put(
                    (round - 1, client), {n: t[d] for n, t in decoded.items()}
                )
        return state

    def end(self, state: DuaState, round: int) -> DuaState:
        return replace(state, learnt=round)

    def models(self, state: DuaState, clients: Sequence[int]) -> Mapping[str, Weights]:
        """The models for the newest task."""
        if not state.learnt:
            return {"base": repeat(self._answering(self.experts[0].body, 0, 1), len(clients))}
        *_, (_, models) = self.models_by_task(state, clients)
        return models

    def models_by_task(
        self, state: DuaState, clients: Sequence[int]
    ) -> Iterator[tuple[int, Mapping[str, Weights]]]:
        learnt, count = state.learnt, len(clients)
        personal = self._personal(learnt, clients) if self.importance_request and learnt else None
        for task in range(learnt):
            base = self._answering(self._trunk(learnt, task), task, learnt)
            models = {"base": repeat(base, count)}
            if personal is not None:
                own = {n: repeat({n: t}, count)[n] for n, t in base.items() if n in self._head}
                models["personal"] = personal | own
            yield task, models

    def localise(self, cohort: Cohort, weights: Weights, model: str = "base") -> Weights:
        if (
            model == "personal"
            and self.importance_request is not None
            and self.importance_request.stays
        ):
            return merged_there(cohort, weights)
        return weights

    def pack(self, state: DuaState) -> tuple[dict[str, Tensor], Metadata]:
        return self.importance_store.pack(), {
            "learnt": state.learnt,
            "clients": list(state.clients),
        }

    def unpack(self, tensors: dict[str, Tensor], metadata: Metadata) -> DuaState:
        self.importance_store.unpack(tensors)
        return DuaState(int(metadata["learnt"]), tuple(metadata["clients"]))  # type: ignore[call-overload, arg-type]

    @cached_property
    def _head(self) -> frozenset[str]:
        return head(self.model)

    def _shared(self, task: int) -> Weights:
        """What goes down with an expert where only differences come back."""
        if self.importance_request is None or self.importance_request.upload != "difference":
            return {}
        return Difference.sent_down(self.server_importances[task])

    def _code(self, task: int) -> Code:
        assert self.importance_request is not None
        if task not in self._codes:
            self._codes[task] = self.importance_request.code(self._shared(task))
        return self._codes[task]

    @cached_property
    def _codes(self) -> dict[int, Code]:
        """How answers of a task travel."""
        return {}

    @cached_property
    def _merged(self) -> dict[int, Weights]:
        """Trunks that are merged by the server's own importances, by the number of experts."""
        return {}

    def _trunk(self, learnt: int, task: int) -> Weights:
        """Of the base, after so many tasks."""
        if self.separate:
            return self.experts[task].body
        if not self.server_importances:
            return self.experts[min(learnt, len(self.experts)) - 1].body
        if learnt not in self._merged:
            bodies = [expert.body for expert in self.experts[:learnt]]
            self._merged[learnt] = mode_merge(
                bodies, self.server_importances[:learnt], zero_importance=self.zero_importance
            )
        return self._merged[learnt]

    def _answering(self, trunk: Weights, task: int, learnt: int) -> Weights:
        """With the head that answers a task: a whole network."""
        after = min(learnt, len(self.experts)) - 1
        return trunk | head_for(self.experts, self.tasks[task], after)

    def _personal(self, learnt: int, clients: Sequence[int]) -> Weights:
        """Each client's trunk, [D, ...]; importances are at hand for a few clients at a time."""
        own = repeat(self._trunk(learnt, learnt - 1), len(clients))
        if self.importance_request is None or self.importance_request.stays:
            return own
        own = {n: t.clone(memory_format=torch.contiguous_format) for n, t in own.items()}
        bodies = [expert.body for expert in self.experts[:learnt]]
        size = max(1, IMPORTANCES_AT_ONCE // max(1, learnt * num_bytes(bodies[0])))
        for first in range(0, len(clients), size):
            known: dict[int, list[Weights]] = {}  # by position, of each task
            for d, client in enumerate(clients[first : first + size], start=first):
                told = [self.importance_store.get((task, client)) for task in range(learnt)]
                if all(omega is not None for omega in told):
                    known[d] = [omega for omega in told if omega is not None]
            if known:
                of_tasks = [stack(omegas) for omegas in zip(*known.values(), strict=True)]
                merged = mode_merges(bodies, of_tasks, zero_importance=self.zero_importance)
                for n, t in merged.items():
                    own[n][[*known]] = t
        return own
