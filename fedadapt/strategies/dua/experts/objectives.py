"""What each method starts a task from, minimises and remembers: the only place where they differ.

The first task is the same for all of them, cross-entropy on a fresh head.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch

from fedadapt.objectives import (
    L2Transfer,
    Mas,
    Objective,
    OneHead,
    WithoutForgetting,
    cross_entropy,
)
from fedadapt.strategies.dua.experts.expert import Expert, TaskHead, slices
from fedadapt.strategies.dua.experts.settings import ExpertTraining
from fedadapt.weights import Weights


class Plan(NamedTuple):
    """How one task is trained."""

    head: Weights  # to start with
    heads: tuple[TaskHead, ...]  # in it
    objective: Objective
    memory: Mapping[str, Weights]  # for the objective; without a client axis


def plan(
    training: ExpertTraining,
    number: int,
    heads: tuple[TaskHead, ...],
    fresh: Weights,
    previous: Expert | None,
) -> Plan:
    """The plan for task ``number`` (from 1), whose ``fresh`` head has the logits of ``heads``."""
    free = Plan(fresh, heads, cross_entropy, {})
    if previous is None:
        return free
    match training.method:
        case "imm" if number >= training.l2_from_task:
            held = fresh if training.l2_head else {}
            memory = {"anchor": previous.body | held}
            return free._replace(objective=L2Transfer(training.l2_lambda), memory=memory)
        case "ewc":
            return _elastic(training.ewc_lambda, free, previous)
        case "mas":
            return _elastic(training.mas_lambda, free, previous)
        case "lwf":
            return _without_forgetting(training, free, previous)
        case _:
            return free


def _elastic(lam: float, free: Plan, previous: Expert) -> Plan:
    """EWC too is written without a half here (DUA's code), so both are MAS's formula.

    The only anchor is the previous model, the importances are those of all tasks before.
    """
    memory = {"anchor": previous.body, "importance": previous.importance}
    return free._replace(objective=Mas(lam), memory=memory)


def _without_forgetting(training: ExpertTraining, free: Plan, previous: Expert) -> Plan:
    """All heads are in the network and go on learning; the old ones from the previous model."""
    heads = (*previous.heads, *free.heads)
    old = tuple(slices(previous.heads).values())
    new = OneHead(old[-1][1], slices(heads)[free.heads[-1].task][1])
    return Plan(
        {n: torch.cat([t, free.head[n]]) for n, t in previous.head.items()},
        heads,
        WithoutForgetting(training.lwf_lambda, training.lwf_temperature, old, new),
        {"teacher": previous.weights},
    )
