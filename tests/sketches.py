"""Published methods in the few lines each takes: what ``fit`` and its neighbours must express.

Each has a client's round, ``answer(cohort, received)``, and the model a client is served,
``personal(cohort, weights)``. They are the shortest forms for tests, with plain averages on the
server, and no strategies.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from toys import cohort, initial

from fedadapt.client.candidates import best_of, join_models, pick, split_models
from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.client.fit import Sgd, fit
from fedadapt.messages import Update
from fedadapt.objectives import Proximal, View, cross_entropy
from fedadapt.weights import Weights, repeat, row


def times(a: Tensor, t: Tensor) -> Tensor:
    """Multiply each client's t [D, ...] by its own number a [D]."""
    return a.reshape(-1, *[1] * (t.dim() - 1)) * t


def only(weights: Weights, prefix: str) -> Weights:
    return {n: t for n, t in weights.items() if n.startswith(prefix)}


def parameters(model: nn.Module) -> list[str]:
    return [n for n, _ in model.named_parameters()]


@dataclass(frozen=True)
class Method:
    sgd: Sgd
    schedule: Schedule

    def start(self, weights: Weights) -> Weights:
        """What the server has before the first round, [...]."""
        return weights

    def merge(self, update: Update, received: Weights) -> Weights:
        """The mean weighted by examples, [...]."""
        share = update.num_examples / update.num_examples.sum()
        return {
            n: times(share, t.double()).sum(0) if t.is_floating_point() else t[0]
            for n, t in update.weights.items()
        }

    def personal(self, cohort: Cohort, weights: Weights) -> Weights:
        return weights


@dataclass(frozen=True)
class Ditto(Method):
    """F(v) + (lam/2) ||v - w||^2 beside FedAvg on w."""

    lam: float = 1.0

    def answer(self, cohort, w):
        v = cohort.state("v", w)
        v = fit(
            cohort, v, self.sgd, self.schedule, objective=Proximal(self.lam), memory={"anchor": w}
        )
        shared = fit(cohort, w, self.sgd, self.schedule)
        return Update(shared.weights, cohort.num_examples).keeping(v=v.weights)

    def personal(self, cohort, w):
        return cohort.state("v", w)


@dataclass(frozen=True)
class FedRod(Method):
    """A shared head by balanced softmax, and a personal one on top that moves nothing else."""

    def objective(self, view: View) -> Tensor:
        balanced = view.logits + view.memory["prior"]["log"].unsqueeze(1)
        z, w, b = view.features.detach(), view.params["hp.weight"], view.params["hp.bias"]
        both = view.logits.detach() + torch.einsum("dbf,dcf->dbc", z, w) + b.unsqueeze(1)
        return cross_entropy(view.with_logits(balanced)) + cross_entropy(view.with_logits(both))

    def answer(self, cohort, w):
        counts = torch.stack([torch.bincount(s.train.labels, minlength=3) for s in cohort.splits])
        fitted = fit(
            cohort, w, self.sgd, self.schedule, objective=self.objective, extra=self.hp(cohort, w),
            memory={"prior": {"log": counts.double().clamp(min=0.5).log()}},
        )  # fmt: skip
        return Update(fitted.weights, cohort.num_examples).keeping(hp=fitted.extra)

    def hp(self, cohort, w):
        zero = {f"hp.{n}": torch.zeros_like(w[f"head.{n}"]) for n in ("weight", "bias")}
        return cohort.state("hp", zero)

    def personal(self, cohort, w):
        hp = self.hp(cohort, w)
        return w | {f"head.{n}": w[f"head.{n}"] + hp[f"hp.{n}"] for n in ("weight", "bias")}


@dataclass(frozen=True)
class Ifca(Method):
    """K models down; each client trains the one of least loss on its images."""

    starts: tuple[Weights, ...] = ()  # [...] each

    def start(self, weights):
        return join_models(self.starts or [weights])

    def answer(self, cohort, w):
        models = split_models(w)
        choice = best_of(cohort, models, "train")
        fitted = fit(cohort, pick(models, choice), self.sgd, self.schedule)
        return Update(fitted.weights, cohort.num_examples, report={"choice": choice})

    def merge(self, update, received):
        models = split_models(received)
        for k, model in enumerate(models):
            rows = (update.report["choice"] == k).nonzero().flatten()
            if len(rows):
                some = Update(
                    {n: t[rows] for n, t in update.weights.items()}, update.num_examples[rows]
                )
                models[k] = super().merge(some, model)
        return join_models(models)

    def personal(self, cohort, w):
        models = split_models(w)
        return pick(models, best_of(cohort, models, "adapt"))


@dataclass(frozen=True)
class Outcome:
    """What some rounds left behind."""

    base: Weights  # [...]
    personal: Weights  # [D, ...]
    states: tuple[dict[str, Weights], ...]  # one a client


def rounds(method: Method, members: Cohort, weights: Weights, number: int = 2) -> Outcome:
    """So many rounds of all the cohort's clients, from ``weights`` [...]."""
    base, states = method.start(weights), ({},) * len(members)
    for round in range(1, number + 1):
        current = replace(members, round=round, states=states)
        received = repeat(base, len(members))
        update = method.answer(current, received)
        base = method.merge(update, base)
        states = tuple(
            {part: row(w, d) for part, w in update.states.items()} for d in range(len(members))
        )
    last = replace(members, round=number + 1, states=states)
    return Outcome(base, method.personal(last, repeat(base, len(members))), states)


def everywhere(method: Method, make: Callable[[], nn.Module], splits: Sequence, executions):
    """What two rounds leave behind, by execution."""
    return {
        execution: rounds(method, cohort(make(), splits, execution), initial(make()))
        for execution in executions
    }
