"""Local training as a pure function of weights, for one device or for a stacked cohort of them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_map

from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.models.mode import evaluating, training
from fedadapt.objectives import Batch, Objective, View, cross_entropy
from fedadapt.selectors import Selector, everything
from fedadapt.weights import Weights

Mode = Callable[[nn.Module], AbstractContextManager[nn.Module]]
Step = Callable[..., tuple[Weights, Weights, Weights, Tensor]]


@dataclass(frozen=True)
class Sgd:
    """g <- g + weight_decay w;  v <- momentum v + g;  w <- w - learning_rate v."""

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def begin(self, params: Weights) -> Weights:
        return {n: torch.zeros_like(w) for n, w in params.items()} if self.momentum else {}

    def update(self, params: Weights, grads: Weights, velocity: Weights) -> tuple[Weights, Weights]:
        if self.weight_decay:
            grads = {n: g + self.weight_decay * params[n] for n, g in grads.items()}
        if self.momentum:
            grads = velocity = {n: self.momentum * velocity[n] + grads[n] for n in params}
        return {n: w - self.learning_rate * grads[n] for n, w in params.items()}, velocity


class Fitted(NamedTuple):
    weights: Weights  # [D, ...]
    loss: Tensor  # [D], float64: the objective, averaged over every example gone through
    velocity: Weights  # [D, ...], of what moved; {} without momentum


def fit(
    cohort: Cohort,
    start: Weights,
    optimizer: Sgd,
    schedule: Schedule,
    *,
    objective: Objective = cross_entropy,
    trainable: Selector = everything,
    memory: Mapping[str, Weights] | None = None,
    mode: Mode = training,
    velocity: Weights | None = None,
) -> Fitted:
    """Train each device of the cohort from ``start``: the only training loop there is.

    Args:
        start: Stacked weights, each [D, ...]. Not modified.
        trainable: Which parameters move. The others are held; batch-norm statistics follow the
            data in any case, in the layers that ``mode`` puts into training.
        memory: Stacked references handed to the objective, each tensor [D, ...].
        velocity: Of an earlier call, to go on where it stopped; None: from rest. Not modified.

    """
    arguments = (optimizer, schedule, objective, trainable, mode)
    memory = memory or {}
    if cohort.stacked:
        over = partial(vmap, randomness="different")
        return _fit(cohort, start, memory, velocity, *arguments, over=over)
    alone = [
        _fit(
            cohort.only(d),
            _slice(start, d),
            _slice(memory, d),
            None if velocity is None else _slice(velocity, d),
            *arguments,
            over=_squeezed,
        )
        for d in range(len(cohort))
    ]
    return Fitted(
        _cat([a.weights for a in alone]),
        torch.cat([a.loss for a in alone]),
        _cat([a.velocity for a in alone]),
    )


def _fit(
    cohort: Cohort,
    start: Weights,
    memory: Mapping[str, Weights],
    velocity: Weights | None,
    optimizer: Sgd,
    schedule: Schedule,
    objective: Objective,
    trainable: Selector,
    mode: Mode,
    *,
    over: Callable[[Step], Step],
) -> Fitted:
    names = trainable(cohort.model) & {n for n, _ in cohort.model.named_parameters()}
    moving = {n: _own(t, cohort) for n, t in start.items() if n in names}
    held = {n: _own(t, cohort) for n, t in start.items() if n not in names}
    if velocity is None:
        velocity = optimizer.begin(moving)
    else:  # ours from here on: rows are written in place
        velocity = {n: _own(t, cohort) for n, t in velocity.items()}
    step = over(partial(_step, cohort, objective, optimizer))
    total = torch.zeros(2, len(cohort), dtype=torch.float64)  # loss sum, examples
    with mode(cohort.model), _own_randomness(cohort, schedule):
        for groups in cohort.steps(schedule):
            for members, batch in groups:
                state = (moving, held, velocity)
                part = state if len(members) == len(cohort) else _take(state, members)
                given = memory if len(members) == len(cohort) else _take(memory, members)
                *after, loss = step(*part, given, batch)
                if len(members) == len(cohort):
                    moving, held, velocity = after
                else:
                    _put(state, members, after)
                count = batch.labels.shape[1]
                total[0, members] += loss.double().cpu() * count
                total[1, members] += count
    after_all = held | moving
    return Fitted({n: after_all[n] for n in start}, total[0] / total[1], velocity)


def _step(
    cohort: Cohort,
    objective: Objective,
    optimizer: Sgd,
    moving: Weights,
    held: Weights,
    velocity: Weights,
    memory: Mapping[str, Weights],
    batch: Batch,
) -> tuple[Weights, Weights, Weights, Tensor]:
    """One step of one device: nothing here knows whether it runs alone or stacked."""

    def forward(weights: Weights, inputs: Tensor) -> Tensor:
        with evaluating(cohort.model):
            return cohort.forward(held | weights, inputs)

    def loss(moving: Weights) -> tuple[Tensor, Weights]:
        # Batch norm updates its statistics in place: on copies, which are handed back.
        held_after = {n: t.clone() for n, t in held.items()}
        logits = cohort.forward(held_after | moving, batch.inputs)
        return objective(View(logits, moving, batch, memory, forward)), held_after

    grads, (value, held_after) = grad_and_value(loss, has_aux=True)(moving)
    moved, velocity = optimizer.update(moving, grads, velocity)
    return moved, held_after, velocity, value.detach()


def _own(tensor: Tensor, cohort: Cohort) -> Tensor:
    """A copy; filters of a device computed alone channels last, as its images are."""
    if cohort.stacked or tensor.dim() != 5:
        return tensor.clone()
    return tensor[0].clone(memory_format=torch.channels_last).unsqueeze(0)


def _squeezed(step: Step) -> Step:
    """Run ``step`` on the only row of its arguments, without the price of ``vmap``."""

    def run(*stacked: Any) -> tuple[Weights, Weights, Weights, Tensor]:
        result = step(*tree_map(lambda t: t[0], stacked))
        return tree_map(lambda t: t.unsqueeze(0), result)

    return run


def _own_randomness(cohort: Cohort, schedule: Schedule) -> AbstractContextManager[None]:
    """Dropout draws from the global generator: seed it for a device alone, then put it back."""
    if len(cohort) != 1 or not any(isinstance(m, _DropoutNd) for m in cohort.model.modules()):
        return nullcontext()
    return _seeded(int(cohort.generator(0, f"{schedule.purpose}/dropout").integers(2**62)))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _slice(tree: Any, index: int) -> Any:
    return tree_map(lambda t: t[index : index + 1], tree)


def _take(tree: Any, members: list[int]) -> Any:
    return tree_map(lambda t: t[members], tree)


def _put(state: Any, members: list[int], part: Any) -> None:
    """Write the members' rows back: ``state`` holds tensors of our own, so in place."""
    for whole, rows in zip(state, part, strict=True):
        for n, t in rows.items():
            whole[n][members] = t


def _cat(models: list[Weights]) -> Weights:
    return {n: torch.cat([m[n] for m in models]) for n in models[0]}
