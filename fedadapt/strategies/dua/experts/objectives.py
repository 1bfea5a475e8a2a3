"""The objective of each method on a task, its start and its memory: all in which methods differ.

The first task is the same for all methods: cross-entropy with a fresh head.
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

    head: Weights  # at the start
    heads: tuple[TaskHead, ...]  # the tasks in ``head``
    objective: Objective
    memory: Mapping[str, Weights]  # for the objective; without a client axis


def plan(
    training: ExpertTraining,
    number: int,
    heads: tuple[TaskHead, ...],
    fresh: Weights,
    previous: Expert | None,
) -> Plan:
    """Return the plan for task ``number`` (from 1); ``fresh`` is its head, for ``heads``."""
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
    """Return the plan of EWC and MAS: both use MAS's formula, without a half, as in DUA's code.

    The anchor is the previous model; the importances are the sums over all earlier tasks.
    """
    memory = {"anchor": previous.body, "importance": previous.importance}
    return free._replace(objective=Mas(lam), memory=memory)


def _without_forgetting(training: ExpertTraining, free: Plan, previous: Expert) -> Plan:
    """Return the plan of LwF: old heads stay in the network and are trained further."""
    heads = (*previous.heads, *free.heads)
    old = tuple(slices(previous.heads).values())
    new = OneHead(old[-1][1], slices(heads)[free.heads[-1].task][1])
    return Plan(
        {n: torch.cat([t, free.head[n]]) for n, t in previous.head.items()},
        heads,
        WithoutForgetting(training.lwf_lambda, training.lwf_temperature, old, new),
        {"teacher": previous.weights},
    )
