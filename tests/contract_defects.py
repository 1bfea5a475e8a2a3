"""Strategies, adaptations and networks that are wrong on purpose, each in one way.

Strategies accept the network without batch normalisation only, so that all rules take a second.
"""

import multiprocessing
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.errors import InputError
from fedadapt.models.network import Network
from fedadapt.models.norms import has_batch_norm
from fedadapt.parameters import param
from fedadapt.selectors import head
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.testing.toys import SEEN
from fedadapt.weights import repeat

# Strategies


@dataclass(frozen=True, kw_only=True)
class Right(SharedModel):
    """FedAvg, from which the others differ; it breaks no rule."""

    def __post_init__(self):
        super().__post_init__()
        if has_batch_norm(self.model):
            raise InputError("right: it takes networks without batch normalisation")

    def train(self, cohort, shared):
        return self.train_shared(cohort, shared)


@dataclass(frozen=True, kw_only=True)
class ForgetsItsState(Right):
    """A server with momentum, of which checkpoints hold nothing."""

    def begin(self, start, clients):
        return {"model": dict(start), "step": {n: torch.zeros_like(t) for n, t in start.items()}}

    def send(self, state, action, round, clients):
        return super().send(state["model"], action, round, clients)

    def merge(self, state, action, round, answers):
        mean = super().merge(state["model"], action, round, answers)
        if all(mean[n] is t for n, t in state["model"].items()):
            return state
        step = {n: 0.5 * state["step"][n] + t - state["model"][n] for n, t in mean.items()}
        return {"model": {n: t + step[n] for n, t in state["model"].items()}, "step": step}

    def models(self, state, clients):
        return {"base": repeat(state["model"], len(clients))}

    def pack(self, state):
        return state["model"], {}

    def unpack(self, tensors, metadata):
        return self.begin(tensors, ())


@dataclass(frozen=True, kw_only=True)
class MeansOverTheCohort(Right):
    """A client's weights move towards the mean of whoever is computed beside it."""

    def train(self, cohort, shared):
        update = self.train_shared(cohort, shared)
        mixed = {n: (t + t.mean(0, keepdim=True)) / 2 for n, t in update.weights.items()}
        return replace(update, weights=mixed)


@dataclass(frozen=True, kw_only=True)
class OtherwiseInAProcess(Right):
    """Computes something else in a worker process."""

    def train(self, cohort, shared):
        update = self.train_shared(cohort, shared)
        if multiprocessing.parent_process() is None:
            return update
        return replace(update, weights={n: t + 1e-9 for n, t in update.weights.items()})


@dataclass(frozen=True, kw_only=True)
class ExpectsLess(Right):
    """Says that the head's bias is not answered."""

    def expected(self, action, sent):
        return {n: t for n, t in sent.items() if n != "head.bias"}


@dataclass(frozen=True, kw_only=True)
class LastClientWins(Right):
    """The last answer is the next model."""

    def merge(self, state, action, round, answers):
        for some in answers:
            if some.update is not None:
                state = {n: t[-1].clone() for n, t in some.update.weights.items()}
        return state


@dataclass(frozen=True, kw_only=True)
class BeginsAgainWithoutAnswers(Right):
    """Without answers the model is zero."""

    def merge(self, state, action, round, answers):
        merged = super().merge(state, action, round, answers)
        return {n: torch.zeros_like(t) for n, t in state.items()} if merged is state else merged


@dataclass(frozen=True, kw_only=True)
class WritesIntoAnswers(Right):
    """Clears answers once they are used."""

    def merge(self, state, action, round, answers):
        answers = list(answers)
        merged = super().merge(state, action, round, iter(answers))
        for some in answers:
            for tensor in some.update.weights.values() if some.update else ():
                tensor.zero_()
        return merged


@dataclass(frozen=True, kw_only=True)
class WritesIntoReceivedWeights(Right):
    """Trains, and then changes the model that was received, which others share."""

    def train(self, cohort, shared):
        update = self.train_shared(cohort, shared)
        if len(cohort) == 1:
            shared["head.bias"] += 1e-3
        return update


@dataclass(frozen=True, kw_only=True)
class MovesTheGlobalGenerator(Right):
    """Draws from torch's global generator, and does not even use it."""

    def train(self, cohort, shared):
        torch.rand(3)
        return self.train_shared(cohort, shared)


@dataclass(frozen=True, kw_only=True)
class UsesTheGlobalGenerator(Right):
    """Noise that nobody can draw again."""

    def train(self, cohort, shared):
        update = self.train_shared(cohort, shared)
        noisy = {n: t + 1e-3 * float(np.random.rand()) for n, t in update.weights.items()}  # noqa: NPY002
        return replace(update, weights=noisy)


@dataclass(frozen=True, kw_only=True)
class NothingForStrangers(Right):
    """A client that never trained gets no numbers."""

    def localise(self, cohort, weights, model="base"):
        known = torch.tensor([client in SEEN for client in cohort.clients])
        return {
            n: torch.where(known.view(-1, *[1] * (t.dim() - 1)), t, t.new_tensor(float("nan")))
            for n, t in weights.items()
        }


@dataclass(frozen=True, kw_only=True)
class CannotTravel(Right):
    """Sends a setting that no message can hold."""

    def send(self, state, action, round, clients):
        sent = super().send(state, action, round, clients)
        return sent._replace(config={**sent.config, "who": {"clients": list(clients)}})


@dataclass(frozen=True, kw_only=True)
class LosesThePersonalModel(Right):
    """Keeps the personal model under a name that nothing reads."""

    personal = "on client"

    def train(self, cohort, shared):
        update = self.train_shared(cohort, shared)
        return update.keeping(persnal=update.weights)


@dataclass(frozen=True, kw_only=True)
class AllOrNone(Right):
    """Goes by the first client's state whether the cohort has one."""

    def train(self, cohort, shared):
        known = bool(cohort.states) and "seen" in cohort.states[0]
        update = self.train_shared(cohort, shared)
        scaled = {n: t * (0.99 if known else 1.0) for n, t in update.weights.items()}
        return replace(update, weights=scaled).keeping(seen={"yes": torch.ones(len(cohort), 1)})


@dataclass(frozen=True, kw_only=True)
class SaysNothing(Right):
    """Has a parameter without help."""

    lam: float = param(0.1, "", at_least=0)


@dataclass(frozen=True, kw_only=True)
class ChecksNothing(Right):
    """Has a parameter whose range nobody looks at."""

    lam: float = param(0.1, "strength of the pull", at_least=0)

    def __post_init__(self):
        if has_batch_norm(self.model):
            raise InputError("right: it takes networks without batch normalisation")


# Adaptations


@dataclass(frozen=True, kw_only=True)
class RightAdaptation(Adaptation):
    """Moves the head's bias by the mean of the client's adapt images."""

    factor: float = param(0.1, "of the mean of the images", at_least=0)
    needs_labels = False

    def adapt(self, cohort, weights, pooled=None):
        means = torch.stack([e.inputs.mean() for e in cohort.part("adapt")])
        return weights | {"head.bias": weights["head.bias"] + self.factor * means[:, None]}

    def moves(self, model):
        return head(model)


@dataclass(frozen=True, kw_only=True)
class AdaptationWithoutHelp(RightAdaptation):
    """Has a parameter without help."""

    more: float = param(0.1, "", at_least=0)


@dataclass(frozen=True, kw_only=True)
class DropsAName(RightAdaptation):
    """Returns less than it got."""

    def adapt(self, cohort, weights, pooled=None):
        adapted = super().adapt(cohort, weights, pooled)
        return {n: t for n, t in adapted.items() if n != "head.weight"}


@dataclass(frozen=True, kw_only=True)
class WritesInPlace(RightAdaptation):
    """Changes the model received."""

    def adapt(self, cohort, weights, pooled=None):
        adapted = super().adapt(cohort, weights, pooled)
        weights["head.weight"].add_(1e-3)
        return adapted


@dataclass(frozen=True, kw_only=True)
class MeansOverClients(RightAdaptation):
    """Uses the images of all clients that are computed together."""

    def adapt(self, cohort, weights, pooled=None):
        mean = torch.cat([e.inputs for e in cohort.part("adapt")]).mean()
        return weights | {"head.bias": weights["head.bias"] + mean}


@dataclass(frozen=True, kw_only=True)
class MovesMore(RightAdaptation):
    """Says that it moves the head, and moves everything."""

    def adapt(self, cohort, weights, pooled=None):
        adapted = super().adapt(cohort, weights, pooled)
        return {n: t * 1.01 if t.is_floating_point() else t for n, t in adapted.items()}


@dataclass(frozen=True, kw_only=True)
class NeedsTwoImages(RightAdaptation):
    """The standard deviation of a single image is NaN."""

    def adapt(self, cohort, weights, pooled=None):
        spread = torch.stack([e.inputs.flatten(1).mean(1).var() for e in cohort.part("adapt")])
        return weights | {"head.bias": weights["head.bias"] + spread[:, None]}


@dataclass(frozen=True, kw_only=True)
class DrawsAnew(RightAdaptation):
    """Another result each time."""

    def adapt(self, cohort, weights, pooled=None):
        return weights | {"head.bias": weights["head.bias"] + torch.rand(())}


@dataclass(frozen=True, kw_only=True)
class StopsTooEarly(RightAdaptation):
    """Its last stage is not its result."""

    def stages(self, cohort, weights, pooled=None):
        yield 0, weights


@dataclass(frozen=True, kw_only=True)
class LooksAtTheTest(RightAdaptation):
    """Uses what it is tested on."""

    def adapt(self, cohort, weights, pooled=None):
        means = torch.stack([split.test.inputs.mean() for split in cohort.splits])
        return weights | {"head.bias": weights["head.bias"] + means[:, None]}


@dataclass(frozen=True, kw_only=True)
class ReadsLabels(RightAdaptation):
    """Says that it needs no labels, and uses the first one."""

    def adapt(self, cohort, weights, pooled=None):
        first = torch.stack([e.labels[0] for e in cohort.part("adapt")])
        return weights | {"head.bias": weights["head.bias"] + first[:, None]}


# Networks


def right_network(image_shape, num_classes):
    """Breaks no rule."""
    return Network(nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh()), 5, num_classes)


class _Swapped(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.last = nn.Linear(5, num_classes)
        self.first = nn.Linear(64, 5)

    def forward(self, x):
        return self.last(self.first(x.flatten(1)))


def head_is_another_layer(image_shape, num_classes):
    return _Swapped(num_classes)


def tied(image_shape, num_classes):
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, num_classes)
    )
    model[3].weight = model[2].weight
    return model


class _Squeezing(Network):
    def forward(self, images):
        return super().forward(images).squeeze(0)


def one_image_loses_its_axis(image_shape, num_classes):
    return _Squeezing(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), 5, num_classes)


def unseeded(image_shape, num_classes):
    model = right_network(image_shape, num_classes)
    nn.init.constant_(model.head.bias, float(np.random.rand()))  # noqa: NPY002
    return model


class _Counting(Network):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, images):
        self.calls += 1
        return super().forward(images)


def counts_in_evaluation(image_shape, num_classes):
    return _Counting(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), 5, num_classes)


class _Hidden(Network):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.scale = 1 + torch.rand(()).item()

    def forward(self, images):
        return super().forward(images) * self.scale


def hides_a_number(image_shape, num_classes):
    return _Hidden(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), 5, num_classes)


class _Branching(Network):
    def forward(self, images):
        logits = super().forward(images)
        return logits if images.device.type == "meta" or images.sum() > 0 else -logits


def branches_on_values(image_shape, num_classes):
    return _Branching(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), 5, num_classes)
