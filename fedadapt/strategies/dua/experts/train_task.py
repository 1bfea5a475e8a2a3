"""Train one task, epoch by epoch with ``fit``, and keep the best epoch on validation images."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.client.evaluation import evaluate
from fedadapt.client.fit import Sgd, fit
from fedadapt.datasets.task_incremental.benchmark import Task
from fedadapt.errors import DivergedError, InputError
from fedadapt.models.norms import batch_norms
from fedadapt.random_streams import stream
from fedadapt.selectors import head, head_of
from fedadapt.strategies.dua.experts.augmentation import Augmented
from fedadapt.strategies.dua.experts.data import ImageScaling, body_of, placed
from fedadapt.strategies.dua.experts.early_stopping import EarlyStopping
from fedadapt.strategies.dua.experts.expert import Expert, slices
from fedadapt.strategies.dua.experts.importance import accumulated
from fedadapt.strategies.dua.experts.objectives import Plan
from fedadapt.strategies.dua.experts.settings import ExpertTraining
from fedadapt.weights import Weights, repeat, row


class Epoch(NamedTuple):
    """Progress after an epoch."""

    task: str
    number: int  # of the task, from 1
    epoch: int  # from 1
    lr: float  # of this epoch
    loss: float  # the objective, mean over the training images
    accuracy: float  # on the validation images, in [0, 1]


def learn(
    network: nn.Module,
    cohort: Cohort,
    task: Task,
    wanted: Plan,
    training: ExpertTraining,
    last: Expert | None,
    progress: Callable[[Epoch], None] | None,
) -> Expert:
    """Train one task until early stopping ends it; return the expert of the best epoch."""
    [split], [number] = cohort.splits, cohort.clients
    compute = split.train.labels.device
    body = last.body if last else body_of(network)
    if training.reset_norms:
        body = body | _new_norms(network, body)
    state = repeat(placed(body | wanted.head, compute), 1)
    memory = {name: repeat(placed(w, compute), 1) for name, w in wanted.memory.items()}
    own = slice(*slices(wanted.heads)[task.name]) if last else slice(None)
    momentum, best = None, state
    early_stopping = EarlyStopping(
        training.lr, training.decay_after, training.decay, training.stop_after
    )
    for epoch in range(1, training.epochs + 1):
        fitted = fit(
            replace(cohort, round=epoch, scaling=_views(cohort, training, epoch)),
            state,
            Sgd(early_stopping.lr, training.momentum),
            Schedule(training.batch_size, purpose="expert"),
            objective=wanted.objective,
            memory=memory,
            state=momentum,
        )
        state, momentum = fitted.weights, fitted.state
        answering = state | {n: state[n][:, own] for n in wanted.head}
        [score] = evaluate(cohort, answering, [split.adapt])
        reached = Epoch(
            task.name, number, epoch, early_stopping.lr, fitted.loss.item(), score.accuracy
        )
        if not math.isfinite(reached.loss + score.loss):
            raise DivergedError(
                f"experts: task {task.name!r}: the model became non-finite in epoch {epoch}; "
                "lower lr or the method's lambda"
            )
        if progress:
            progress(reached)
        early_stopping = early_stopping.after(score.accuracy)
        if early_stopping.bad == 0:
            best = state
        if early_stopping.is_over:
            break
    best_weights = placed(row(best, 0), "cpu")
    return Expert(
        name=task.name,
        body={n: t for n, t in best_weights.items() if n not in wanted.head},
        head={n: best_weights[n] for n in wanted.head},
        heads=wanted.heads,
        accuracy=early_stopping.best,
        epochs=epoch,
        importance=accumulated(network, cohort, best, own, training, last),
        key="",
    )


def fresh_head(network: nn.Module, num_classes: int, seed: int, number: int) -> Weights:
    """Return a linear head with PyTorch's default weights, drawn from (seed, task number)."""
    layer = _linear_head(network)
    with torch.random.fork_rng(devices=[]):
        draw = stream(seed, "expert head", number).integers(2**62)
        torch.default_generator.manual_seed(int(draw))
        new = nn.Linear(layer.in_features, num_classes, layer.bias is not None)
    drawn = {n: t.detach().to(layer.weight.dtype) for n, t in new.named_parameters()}
    return {name: drawn[name.rpartition(".")[2]] for name in sorted(head(network))}


def _views(cohort: Cohort, training: ExpertTraining, epoch: int) -> ImageScaling:
    """Return the scaling of the training images in this epoch, with augmentation if set."""
    size = min(cohort.splits[0].train.inputs.shape[-2:])
    if training.augment_from is None or size < training.augment_from:
        return cohort.scaling
    return Augmented(cohort.scaling, stream(cohort.seed, "expert views", cohort.clients[0], epoch))


def _linear_head(network: nn.Module) -> nn.Linear:
    layer = head_of(network)
    if not isinstance(layer, nn.Linear):
        raise InputError(
            f"experts: the network's head is a {type(layer).__name__}; a head a task needs an "
            "nn.Linear"
        )
    return layer


def _new_norms(network: nn.Module, body: Weights) -> Weights:
    """Return initial batch-norm tensors: scale 1, shift 0, mean 0, variance 1, no batch seen."""
    ones = ("weight", "running_var")
    return {
        f"{path}.{n}": torch.full_like(body[f"{path}.{n}"], int(n in ones))
        for path, layer in batch_norms(network).items()
        for n in layer.state_dict()
    }
