"""DUA's table 1, derived from the strategies in the code without training."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.adaptations.registry import build
from fedadapt.client.statistics.measures import MEASURES, Kind
from fedadapt.config import parse_arguments
from fedadapt.models.networks.mlp import mlp
from fedadapt.parameters import arguments_for
from fedadapt.reproductions.dua.plan import METHODS, Experiment
from fedadapt.reproductions.dua.published import TABLE_1
from fedadapt.reproductions.table import Grid
from fedadapt.strategies.dua.strategy import IMPORTANCE, DuaState, MergedExperts
from fedadapt.strategies.registry import STRATEGIES, find
from fedadapt.weights import num_bytes

ON_TOP = {"+ AdaBN": "adabn", "+ AdaBN-S": "adabn-s"}
STAYS = "MAS-RACL, merged on the client"


class Trainings(NamedTuple):
    """The number of networks trained, wholly or in part, for N tasks and L users."""

    once: int = 0
    each_task: int = 0
    each_task_and_user: int = 0

    def of(self, tasks: int, users: int) -> int:
        return self.once + tasks * (self.each_task + users * self.each_task_and_user)

    def __str__(self) -> str:
        terms = zip(self, ("", "N", "N L"), strict=True)
        words = [(f"{n} {unit}" if n > 1 else unit) or str(n) for n, unit in terms if n]
        return " + ".join(words) or "0"


class Traits(NamedTuple):
    """A row of table 1. psi: the server merges for each user; phi: each user adapts its model."""

    psi: bool
    phi: bool
    needs_labels: bool  # whether labels of the user's images are needed
    leaves: str  # what leaves the client, beside its scores in a simulation
    server: Trainings
    users: Trainings

    @property
    def adaptive(self) -> str:
        return ", ".join(w for w, has in (("psi", self.psi), ("phi", self.phi)) if has) or "-"


def traits(strategy: str, adaptation: str = "none", arguments: str = "") -> Traits:
    """Return what a run of ``strategy`` with one local adaptation needs from a user."""
    parsed = parse_arguments(arguments, "strategy-args")
    cls = method_class(strategy)
    method = cls(model=mlp((1, 4, 4), 2), **arguments_for(cls, parsed, "strategy-args", strategy))
    asked = method.importance_request
    local = build(adaptation, {}, "adapt")
    return Traits(
        psi=asked is not None,
        phi=adaptation != "none",
        needs_labels=local.needs_labels or (asked is not None and reads_labels(asked.kind)),
        leaves=_leaves(method),
        server=Trainings(once=1) if method.method == "joint" else Trainings(each_task=1),
        users=Trainings(each_task_and_user=int(trains(local))),
    )


def reads_labels(kind: Kind) -> bool:
    """Whether an importance depends on labels, found by changing them."""
    logits, levels = torch.tensor([[0.0, 1.0]]), torch.tensor([0.5])
    score = MEASURES[kind].score
    one, other = (score(logits, torch.tensor([label]), levels) for label in (0, 1))
    return not torch.equal(one, other)


def trains(local: Adaptation) -> bool:
    """Whether a local adaptation trains parameters with gradients."""
    return hasattr(local, "epochs")


def method_class(strategy: str) -> type[MergedExperts]:
    """Return the class of a strategy for task-incremental benchmarks."""
    return find(strategy)


def _leaves(strategy: MergedExperts) -> str:
    """Return what the server expects a client with this network to send, and its size."""
    network = strategy.model
    if IMPORTANCE not in strategy.actions(DuaState(0, (0,)), 1):
        return "nothing"
    weights = network.state_dict()
    sent = num_bytes(strategy.expected(IMPORTANCE, weights))
    if not sent:
        return "nothing"
    trunk = sum(p.numel() for n, p in network.named_parameters() if not n.startswith("head."))
    what = {"mas": "of F", "fisher": "of the loss"}[strategy.merged_by]
    return f"importances (gradients {what}), {sent / trunk:.2g} bytes a parameter and task"


def table(experiment: Experiment) -> Grid:
    """Return table 1, with the paper's entries beside ours."""
    preset = f"preset={experiment.preset}"
    methods = dict(_rows(preset))
    tasks, users = len(experiment.tasks), experiment.base.clients
    lines: list[tuple[str, ...]] = []
    for name, needs in methods.items():
        total = needs.server.of(tasks, users) + needs.users.of(tasks, users)
        lines.append(
            (
                name,
                needs.adaptive,
                "yes" if needs.needs_labels else "no",
                needs.leaves,
                str(needs.server),
                str(needs.users),
                str(total),
                TABLE_1.get(name, "N trainings" if name in METHODS else "-"),
            )
        )
    heads = (
        "method", "user-adaptive", "users' labels", "leaves the client", "trainings: server",
        "users", f"N = {tasks}, L = {users}", "the paper",
    )  # fmt: skip
    notes = (
        "N tasks, L users; psi: experts are merged for the user, phi: the model is adapted there. "
        "Images and labels stay on the client.",
        "The paper counts no training for AdaBN-S, which trains scale and shift for some epochs, "
        "and has Task Experts trained where all images are.",
    )
    title = f"Table 1: what each method asks, preset {experiment.preset}"
    return Grid(title, heads, lines, notes)


def _rows(preset: str) -> Iterator[tuple[str, Traits]]:
    for name, (strategy, model) in METHODS.items():
        variant = (
            strategy
            if model == "personal" or not method_class(strategy).personal
            else _shared(strategy)
        )
        local = "fine-tune" if method_class(variant).separate else "none"
        yield name, traits(variant, local, preset)
        if name == "MAS-RACL":
            yield STAYS, traits(variant, local, f"{preset} merge_on=client")
    for name, local in ON_TOP.items():
        yield name, traits("sequential", local, preset)


def _shared(strategy: str) -> str:
    """Return the strategy that makes only the base model of ``strategy``."""
    wanted = method_class(strategy)
    return next(
        name
        for name, cls in learning_tasks()
        if not cls.personal and (cls.method, cls.merged_by) == (wanted.method, wanted.merged_by)
    )


def learning_tasks() -> Iterator[tuple[str, type[MergedExperts]]]:
    """Return the names of our strategies for task-incremental benchmarks."""
    for name in STRATEGIES.ours:
        cls = find(name)
        if issubclass(cls, MergedExperts):
            yield name, cls
