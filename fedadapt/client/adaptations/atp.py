"""ATP: how far each tensor moves without labels, learnt by the training clients together.

Bao et al. 2023, "Adaptive test-time personalization for federated learning", algorithms 1 and 2.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.adaptations.query import Query
from fedadapt.client.cohort import Cohort, Part, Schedule
from fedadapt.client.fit import fit
from fedadapt.client.portions import batch_by_batch
from fedadapt.client.statistics.batch_norm import batch_norm_statistics
from fedadapt.client.step_rules import Oracle
from fedadapt.models.mode import evaluating
from fedadapt.models.norms import batch_norms
from fedadapt.objectives import Batch, Objective, cross_entropy, entropy
from fedadapt.parameters import param
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Atp(Adaptation):
    """Each tensor moves at a rate that the training clients learn together. Bao et al. 2023.

    A parameter moves against the gradient of the predictions' entropy, a running mean or variance
    towards that of the client's images, each by one step at its tensor's rate: no labels. The rates
    begin at 0. In each of ``rounds`` exchanges the training clients adapt at the rates so far, take
    the gradient of the labels' loss there, and step down that of their rates; the server averages.
    Where the federation did not answer, nothing moves.

    The rates suit shifts like those among the training clients, and no others. By default a round
    is one step on all of a client's adapt images. The paper's is one step a batch, each from the
    model received: ``form=batch`` adapts to one batch of the client's images at the end, and
    ``form=online`` takes the mean of what the model becomes on each (the paper adapts to test
    images, batch by batch, and predicts them). Clients are weighted by training examples where the
    paper's count alike, and variances are biased, as in ``adabn``.
    """

    needs_labels = False

    part: Part = param("adapt", "which of the client's images", choices=("train", "adapt"))
    form: str = param(
        "all",
        "a step: on all images together, or on a batch; then one batch (batch) or all (online)",
        choices=("all", "batch", "online"),
    )
    batch_size: int = param(
        20, "images in a batch; with form=all results do not depend on it", at_least=1
    )
    rounds: int = param(50, "exchanges in which the rates are learnt", at_least=1)
    lr: float = param(0.1, "learning rate of the rates", above=0)

    def query(self) -> Query:
        return Query(
            action="query.atp_rates",
            answer=lambda cohort, weights: self.learnt(cohort, weights, no_rates(cohort, weights)),
            expected=one_number_each,
            rounds=self.rounds,
            again=self.learnt,
            leaves="a number for each tensor: a step of its learning rate",
        )

    def learnt(self, cohort: Cohort, weights: Weights, rates: Weights) -> Weights:
        """Each client's rates after a round, [D]: one step, or one for each of its batches."""
        learnt = {name: rate.clone() for name, rate in rates.items()}
        for members, some in self._portions(cohort):
            own = {n: t[members] for n, t in weights.items()}
            stepped = self._stepped(some, own, {n: t[members] for n, t in learnt.items()})
            for name, rate in stepped.items():
                learnt[name][members] = rate
        return learnt

    def _stepped(self, cohort: Cohort, weights: Weights, rates: Weights) -> Weights:
        """Return rates + lr <s, g> / sqrt(numbers).

        g is the direction of each tensor, and s the gradient of the labels' loss at the weights
        moved by it: minus <s, g> is the gradient of that loss by the tensor's rate.
        """
        direction = self._directions(cohort, weights)
        slope = self._gradient(cohort, moved(weights, direction, rates), cross_entropy)

        def step(name: str) -> Tensor:
            g, s = direction[name].flatten(1), slope[name].flatten(1)
            return rates[name] + self.lr * (g * s).sum(1) / g.shape[1] ** 0.5

        return {name: step(name) for name in rates}

    def adapt(self, cohort: Cohort, weights: Weights, pooled: Weights | None = None) -> Weights:
        if pooled is None:
            return weights
        total = {n: torch.zeros_like(weights[n]) for n in sorted(moving(cohort.model))}
        batches = torch.zeros(len(cohort))
        for members, some in self._portions(cohort):
            own = {n: t[members] for n, t in weights.items()}
            for name, direction in self._directions(some, own).items():
                total[name][members] += direction
            batches[members] += 1
            if self.form == "batch":
                break
        mean = {n: t / batches.to(t).view(-1, *[1] * (t.dim() - 1)) for n, t in total.items()}
        return moved(weights, mean, pooled)

    def _portions(self, cohort: Cohort) -> Iterator[tuple[list[int], Cohort]]:
        """Yield the images of a step, with the positions of the clients that take it."""
        if self.form == "all":
            return iter([(list(range(len(cohort))), cohort)])
        return batch_by_batch(cohort, self._schedule())

    def moves(self, model: nn.Module) -> frozenset[str]:
        return moving(model)

    def _directions(self, cohort: Cohort, weights: Weights) -> Weights:
        """Minus these, each tensor moves: gradients of the entropy; running minus own statistics.

        Meanwhile every layer normalises by the running statistics.
        """
        own = batch_norm_statistics(cohort, weights, self._schedule(), mode=evaluating)
        towards = {n: weights[n] - t for n, t in own.items()}
        directions = self._gradient(cohort, weights, entropy) | towards
        moves = moving(cohort.model)
        return {n: directions[n] for n in weights if n in moves}

    def _gradient(self, cohort: Cohort, weights: Weights, objective: Objective) -> Weights:
        """The gradient of the mean over the client's images by what moves, in evaluation mode.

        A layer scale (x - m) / sqrt(v + eps) + shift has those by scale and shift; the ones by m
        and v follow from them, by the chain rule.
        """
        summed = fit(
            cohort, weights, _Summed(), self._schedule(), objective=objective, mode=evaluating
        ).state
        images = torch.tensor([len(examples) for examples in cohort.part(self.part)])
        mean = {n: t / images.to(t).view(-1, *[1] * (t.dim() - 1)) for n, t in summed.items()}
        for path, layer in batch_norms(cohort.model).items():
            if not _keeps_all(layer):
                continue
            scale, variance = weights[f"{path}.weight"], weights[f"{path}.running_var"] + layer.eps
            mean[f"{path}.running_mean"] = -scale / variance.sqrt() * mean[f"{path}.bias"]
            mean[f"{path}.running_var"] = -scale / (2 * variance) * mean[f"{path}.weight"]
        return mean

    def _schedule(self) -> Schedule:
        return Schedule(self.batch_size, 1, self.part, self.name)


class _Summed:
    """A step rule that moves nothing and adds up the gradients of all images."""

    def begin(self, params: Weights) -> Weights:
        return {n: torch.zeros_like(t) for n, t in params.items()}

    def step(self, oracle: Oracle, params: Weights, batch: Batch, state: Weights) -> Tensor:
        gradients, loss = oracle(params, batch)
        for name, total in state.items():
            total += gradients[name] * batch.labels.shape[1]
        return loss


def moving(model: nn.Module) -> frozenset[str]:
    """Name what has a rate: every parameter, and the statistics of affine batch norm."""
    layers = [path for path, layer in batch_norms(model).items() if _keeps_all(layer)]
    statistics = {f"{path}.{kind}" for path in layers for kind in ("running_mean", "running_var")}
    return frozenset(statistics | {n for n, _ in model.named_parameters()})


def no_rates(cohort: Cohort, weights: Weights) -> Weights:
    """Return rates of 0, [D]."""
    moves = moving(cohort.model)
    return {n: t.new_zeros(len(cohort)) for n, t in weights.items() if n in moves}


def one_number_each(model: nn.Module, sent: Weights) -> Weights:
    """Return what a client's rates look like: a number [] for each tensor that moves."""
    moves = moving(model)
    return {n: t.new_zeros(()) for n, t in sent.items() if n in moves}


def moved(weights: Weights, direction: Weights, rates: Mapping[str, Tensor]) -> Weights:
    """Return ``weights`` minus each tensor's rate times its direction; variances stay positive."""

    def new(name: str) -> Tensor:
        old = weights[name]
        rate = rates[name].to(old).view(-1, *[1] * (old.dim() - 1))
        after = old - rate * direction[name]
        return after.clamp(min=0) if name.endswith("running_var") else after

    return weights | {name: new(name) for name in direction}


def _keeps_all(layer: nn.Module) -> bool:
    """Whether a batch-norm layer has a scale, a shift and running statistics."""
    return getattr(layer, "affine", False) and getattr(layer, "running_mean", None) is not None
