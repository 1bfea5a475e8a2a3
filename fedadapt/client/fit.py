"""Local training as a pure function of weights, for one client or for a stacked cohort of them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_map

from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.client.stacking.sink import Sink
from fedadapt.client.step_rules import Sgd, StepRule, add_scaled
from fedadapt.errors import InputError
from fedadapt.models.mode import Mode, evaluating, training
from fedadapt.objectives import Batch, Objective, Outputs, View, cross_entropy, derivative_of
from fedadapt.selectors import Selector, everything
from fedadapt.weights import Weights

__all__ = ["Fitted", "Sgd", "StepRule", "Through", "fit"]

Through = Callable[[Weights, Weights, Mapping[str, Weights]], Weights]
"""(trained, held, memory) -> network tensors, each [D, ...]; differentiable, row by row."""


class Fitted(NamedTuple):
    weights: Weights  # [D, ...], of the network; what ``through`` makes is not put into them
    loss: Tensor  # [D], float64: the objective, averaged over every example gone through
    state: Weights  # [D, ...], of the step rule: Sgd's velocity, {} without momentum
    extra: Weights  # [D, ...], what was trained beside the network


def fit(
    cohort: Cohort,
    start: Weights,
    rule: StepRule,
    schedule: Schedule,
    *,
    objective: Objective = cross_entropy,
    trainable: Selector = everything,
    memory: Mapping[str, Weights] | None = None,
    extra: Weights | None = None,
    through: Through | None = None,
    mode: Mode = training,
    state: Weights | None = None,
) -> Fitted:
    """Train each client of the cohort from ``start``: the only training loop there is.

    Each argument does one thing, and all of them go together. A step computes the network's tensors
    as ``start``'s, moved so far, and over them those that ``through`` makes.

    Args:
        start: Stacked weights, each [D, ...]. Not modified.
        rule: How a step moves what is trained: ``Sgd``, or any other ``StepRule``.
        objective: What is minimised; it sees a ``View``.
        trainable: Which parameters move. The others are held; batch-norm statistics follow the
            data in any case, in the layers that ``mode`` puts into training.
        memory: Stacked references handed to the objective and ``through``, each tensor [D, ...].
        extra: What is trained beside the network, each [D, ...], with names that the network does
            not have. Not modified.
        through: A differentiable map from what is trained (parameters and extras), what is held and
            the memory to network tensors. Its result takes the place of those tensors in each
            forward pass, and gradients flow through it. Row d of the result may depend on row d of
            the arguments alone.
        mode: How the network's layers behave meanwhile.
        state: The step rule's, of an earlier call, to go on where it stopped; None: from rest. Not
            modified.

    Raises:
        InputError: An extra has a name of the network's, or ``through`` makes a name it has not.

    """
    memory, extra = memory or {}, extra or {}
    common = sorted(extra.keys() & start.keys())
    if common:
        raise InputError(f"fit: extra {common[0]!r} is a tensor of the network; name it otherwise")
    names = trainable(cohort.model) & {n for n, _ in cohort.model.named_parameters()}
    if state is None:
        state = rule.begin({n: t for n, t in start.items() if n in names} | extra)
    loop = _Loop(rule, schedule, objective, through, names, mode)
    if cohort.stacked:
        return loop.run(cohort, start, extra, state, memory)
    alone = [
        loop.run(cohort.only(d), *(_slice(tree, d) for tree in (start, extra, state, memory)))
        for d in range(len(cohort))
    ]
    return Fitted(
        _cat([a.weights for a in alone]),
        torch.cat([a.loss for a in alone]),
        _cat([a.state for a in alone]),
        _cat([a.extra for a in alone]),
    )


class _Loop(NamedTuple):
    """One call of ``fit``, for any number of clients."""

    rule: StepRule
    schedule: Schedule
    objective: Objective
    through: Through | None
    names: frozenset[str]  # of the network's tensors that move
    mode: Mode

    def run(
        self,
        cohort: Cohort,
        start: Weights,
        extra: Weights,
        state: Weights,
        memory: Mapping[str, Weights],
    ) -> Fitted:
        # Ours from here on: written in place.
        weights, extra, state = (
            {n: _own(t, cohort) for n, t in tensors.items()} for tensors in (start, extra, state)
        )
        total = torch.zeros(2, len(cohort), dtype=torch.float64)  # loss sum, examples
        draws = _draws(cohort, self.schedule)
        with self.mode(cohort.model), _as_global(draws if len(cohort) == 1 else []):
            for groups in cohort.steps(self.schedule):
                for members, batch in groups:
                    count = batch.labels.shape[1]
                    if len(members) == len(cohort):
                        rows = _Rows(cohort, weights, extra, memory, draws)
                        loss = self._step(rows, state, batch)
                        total[0] += loss.double().cpu() * count
                        total[1] += count
                    else:
                        w, e, s, m = _take((weights, extra, state, memory), members)
                        own = [draws[d] for d in members] if draws else []
                        loss = self._step(_Rows(cohort, w, e, m, own), s, batch)
                        _put((weights, extra, state), members, (w, e, s))
                        total[0, members] += loss.double().cpu() * count
                        total[1, members] += count
        return Fitted(weights, total[0] / total[1], state, extra)

    def _step(self, rows: "_Rows", state: Weights, batch: Batch) -> Tensor:
        """One step of every client, in place; their losses [D]."""
        moving = {n: t for n, t in rows.weights.items() if n in self.names} | rows.extra
        return self.rule.step(_Oracle(self, rows), moving, batch, state)


@dataclass(frozen=True)
class _Oracle:
    """Gradients of the loop's objective, for some clients in the middle of their training."""

    loop: _Loop
    rows: "_Rows"

    def __call__(self, params: Weights, batch: Batch) -> tuple[Weights, Tensor]:
        """The objective's gradient by ``params``, at ``params``; the values [D]."""
        trained = {n: t.detach().requires_grad_() for n, t in params.items()}
        with torch.enable_grad():
            loss = self.loop.objective(self.rows.view(trained, self.loop.through, batch))
            if not trained:
                return {}, loss.detach()
            gradients = torch.autograd.grad(
                loss.sum(), list(trained.values()), allow_unused=True, materialize_grads=True
            )
        return dict(zip(trained, gradients, strict=True)), loss.detach()

    def add(
        self, params: Weights, batch: Batch, into: Weights, keep: float, scale: float
    ) -> Tensor:
        """Make ``into`` ``keep`` x ``into`` + ``scale`` x the gradient; the values [D]."""
        cohort, by_hand = self.rows.cohort, derivative_of(self.loop.objective)
        tail = cohort.tail
        if tail is None or by_hand is None or self.loop.through is not None or self.rows.extra:
            grads, loss = self(params, batch)
            add_scaled(grads, into, keep, scale)
            return loss
        beside = [of_params(params, self.rows.memory) for of_params in by_hand.of_params]
        weights = self.rows.weights | params
        moving = [n for n in params if n in into and n not in tail.names]
        lower = {n: params[n].detach().requires_grad_() for n in moving}
        sinks = {n: Sink(into[n], keep, scale) for n in lower}
        with torch.set_grad_enabled(bool(lower)):
            x = cohort.below_tail(weights | lower, batch.inputs, self.rows.draws or None, sinks)
        loss, slope = tail.add_gradient(
            weights, x.detach(), batch.labels, by_hand.of_logits, into, keep, scale, x.requires_grad
        )
        grads = {} if slope is None else _gradients(x, lower, slope)
        left = [n for n, sink in sinks.items() if not sink.filled]
        if left:
            grads |= {n: torch.zeros_like(into[n]) for n in left if n not in grads}
            add_scaled(grads, {n: into[n] for n in left}, keep, scale)
        for value, slopes, factor in beside:
            loss = loss + value
            add_scaled(slopes, {n: into[n] for n in slopes}, 1.0, scale * factor)
        return loss


def _gradients(x: Tensor, params: Weights, slope: Tensor) -> Weights:
    """Of what has the gradient ``slope`` by ``x``, those that autograd finds."""
    found = torch.autograd.grad(x, list(params.values()), slope, allow_unused=True)
    return {n: g for n, g in zip(params, found, strict=True) if g is not None}


class _Rows(NamedTuple):
    """Some clients of a cohort in the middle of their training; every tensor has their rows."""

    cohort: Cohort
    weights: Weights  # of the network
    extra: Weights
    memory: Mapping[str, Weights]
    draws: list[torch.Generator]  # one a client, for dropout; [] without

    def view(self, trained: Weights, through: Through | None, batch: Batch) -> View:
        """What the objective sees with ``trained`` in the place of the weights' own tensors."""
        cohort = self.cohort
        held = {n: t for n, t in self.weights.items() if n not in trained}
        network = held | {n: t for n, t in trained.items() if n in self.weights}
        if through is not None:
            network |= self._known("through", through(trained, held, self.memory))

        @cache
        def outputs() -> Outputs:
            return cohort.outputs(network, batch.inputs, self.draws or None)

        def apply(weights: Weights, mode: Mode | None = None) -> Tensor:
            given = network | self._known("apply", weights)
            if mode is None:
                return cohort.logits(given, batch.inputs, self.draws or None)
            buffers = {n for n, _ in cohort.model.named_buffers()}
            given |= {n: t.clone() for n, t in given.items() if n in buffers}
            with mode(cohort.model):
                return cohort.logits(given, batch.inputs, self.draws or None)

        def forward(others: Weights, inputs: Tensor) -> Tensor:
            with evaluating(cohort.model), torch.no_grad():
                return cohort.logits(held | others, inputs)

        return View(trained, batch, self.memory, outputs, apply, forward)

    def _known(self, what: str, made: Weights) -> Weights:
        unknown = sorted(made.keys() - self.weights.keys())
        if unknown:
            raise InputError(f"fit: {what} makes {unknown[0]!r}; the network has no such tensor")
        return made


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
