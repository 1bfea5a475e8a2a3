"""Local training as a pure function of weights, for one client or for a stacked cohort of them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_map

from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.models.mode import evaluating, training
from fedadapt.objectives import Batch, Objective, View, cross_entropy
from fedadapt.selectors import Selector, everything
from fedadapt.weights import Weights

Mode = Callable[[nn.Module], AbstractContextManager[nn.Module]]


@dataclass(frozen=True)
class Sgd:
    """g <- g + weight_decay w;  v <- momentum v + g;  w <- w - learning_rate v."""

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def begin(self, params: Weights) -> Weights:
        return {n: torch.zeros_like(w) for n, w in params.items()} if self.momentum else {}

    @torch.no_grad()
    def update(self, params: Weights, grads: Weights, velocity: Weights) -> None:
        """One step: ``params`` and ``velocity`` move in place."""
        moving, change = list(params.values()), [grads[n] for n in params]
        if self.weight_decay:
            change = list(torch._foreach_add(change, moving, alpha=self.weight_decay))
        if self.momentum:
            states = [velocity[n] for n in params]
            if states and states[0].is_cuda:  # few calls
                torch._foreach_mul_(states, self.momentum)
                torch._foreach_add_(states, change)
            else:  # one pass over memory
                for v, g in zip(states, change, strict=True):
                    torch.add(g, v, alpha=self.momentum, out=v)
            change = states
        torch._foreach_add_(moving, change, alpha=-self.learning_rate)


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
    """Train each client of the cohort from ``start``: the only training loop there is.

    Args:
        start: Stacked weights, each [D, ...]. Not modified.
        trainable: Which parameters move. The others are held; batch-norm statistics follow the
            data in any case, in the layers that ``mode`` puts into training.
        memory: Stacked references handed to the objective, each tensor [D, ...].
        velocity: Of an earlier call, to go on where it stopped; None: from rest. Not modified.

    """
    memory = memory or {}
    names = trainable(cohort.model) & {n for n, _ in cohort.model.named_parameters()}
    if velocity is None:
        velocity = optimizer.begin({n: t for n, t in start.items() if n in names})
    loop = _Loop(optimizer, schedule, objective, names, mode)
    if cohort.stacked:
        return loop.run(cohort, start, memory, velocity)
    alone = [
        loop.run(cohort.only(d), _slice(start, d), _slice(memory, d), _slice(velocity, d))
        for d in range(len(cohort))
    ]
    return Fitted(
        _cat([a.weights for a in alone]),
        torch.cat([a.loss for a in alone]),
        _cat([a.velocity for a in alone]),
    )


class _Loop(NamedTuple):
    """One call of ``fit``, for any number of clients."""

    optimizer: Sgd
    schedule: Schedule
    objective: Objective
    names: frozenset[str]  # of what moves
    mode: Mode

    def run(
        self,
        cohort: Cohort,
        start: Weights,
        memory: Mapping[str, Weights],
        velocity: Weights,
    ) -> Fitted:
        # Ours from here on: written in place.
        weights = {n: _own(t, cohort) for n, t in start.items()}
        velocity = {n: _own(t, cohort) for n, t in velocity.items()}
        total = torch.zeros(2, len(cohort), dtype=torch.float64)  # loss sum, examples
        draws = _draws(cohort, self.schedule)
        with self.mode(cohort.model), _as_global(draws if len(cohort) == 1 else []):
            for groups in cohort.steps(self.schedule):
                for members, batch in groups:
                    count = batch.labels.shape[1]
                    if len(members) == len(cohort):
                        loss = self._step(cohort, weights, velocity, memory, batch, draws)
                        total[0] += loss.double().cpu() * count
                        total[1] += count
                    else:
                        w, v, m = _take((weights, velocity, memory), members)
                        own = [draws[d] for d in members] if draws else []
                        loss = self._step(cohort, w, v, m, batch, own)
                        _put((weights, velocity), members, (w, v))
                        total[0, members] += loss.double().cpu() * count
                        total[1, members] += count
        return Fitted(weights, total[0] / total[1], velocity)

    def _step(
        self,
        cohort: Cohort,
        weights: Weights,
        velocity: Weights,
        memory: Mapping[str, Weights],
        batch: Batch,
        draws: list[torch.Generator],
    ) -> Tensor:
        """One step of every client, in place; their losses [D]."""
        held = {n: t for n, t in weights.items() if n not in self.names}
        moving = {n: t.detach().requires_grad_() for n, t in weights.items() if n in self.names}

        def forward(others: Weights, inputs: Tensor) -> Tensor:
            with evaluating(cohort.model), torch.no_grad():
                return cohort.logits(held | others, inputs)

        with torch.enable_grad():
            logits = cohort.logits(held | moving, batch.inputs, draws or None)
            loss = self.objective(View(logits, moving, batch, memory, forward))
            if not moving:
                return loss.detach()
            found = torch.autograd.grad(
                loss.sum(), list(moving.values()), allow_unused=True, materialize_grads=True
            )
        self.optimizer.update(moving, dict(zip(moving, found, strict=True)), velocity)
        return loss.detach()


def _own(tensor: Tensor, cohort: Cohort) -> Tensor:
    """A copy; filters that the model itself computes with channels last, as its images are."""
    if cohort.stacked or cohort.network is not None or tensor.dim() != 5:
        return tensor.detach().clone(memory_format=torch.contiguous_format)
    return tensor[0].detach().clone(memory_format=torch.channels_last).unsqueeze(0)


def _draws(cohort: Cohort, schedule: Schedule) -> list[torch.Generator]:
    """What each client's dropout draws from, on the computing device; [] without dropout."""
    if not any(isinstance(m, _DropoutNd) for m in cohort.model.modules()):
        return []
    where = cohort.splits[0].train.labels.device
    purpose = f"{schedule.purpose}/dropout"
    seeds = [int(cohort.generator(d, purpose).integers(2**62)) for d in range(len(cohort))]
    return [torch.Generator(where).manual_seed(seed) for seed in seeds]


@contextmanager
def _as_global(draws: list[torch.Generator]) -> Iterator[None]:
    """An ordinary network draws from the global generator: lend it the client's, if there is one.

    It is put back as it was.
    """
    if not draws:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(draws[0].initial_seed())
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
