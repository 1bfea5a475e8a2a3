"""Small tasks to learn one after another, and what learning them comes to in plain torch."""

import copy
from itertools import accumulate

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from toys import SHAPE, as_they_are, dense, initial

from fedadapt.datasets.benchmark import Examples
from fedadapt.datasets.task_incremental.benchmark import Task
from fedadapt.strategies.dua.experts.train_task import fresh_head
from fedadapt.strategies.dua.experts.training import ExpertTraining, train_experts
from fedadapt.weights import Weights

SEED = 3


def task(number: int, num_classes: int = 2, train: int = 24, validation: int = 12) -> Task:
    """Classes whose means are drawn anew for each task, float64."""
    random = np.random.default_rng(number)
    means = random.normal(0, 1, (num_classes, *SHAPE))

    def draw(count: int) -> Examples:
        labels = np.arange(count) % num_classes
        inputs = means[labels] + random.normal(0, 0.7, (count, *SHAPE))
        return Examples(torch.from_numpy(inputs), torch.from_numpy(labels))

    classes = tuple(f"{number}{letter}" for letter in "abcd"[:num_classes])
    return Task(f"task {number}", classes, draw(train), draw(validation))


TASKS = [task(1), task(2, 3), task(3)]
LAMBDAS = {"imm": "l2_lambda", "ewc": "ewc_lambda", "mas": "mas_lambda", "lwf": "lwf_lambda"}
STRENGTHS = {"imm": 0.3, "ewc": 2.0, "mas": 0.4, "lwf": 0.7, "fine-tune": 0.0}


def network(make=dense, seed: int = 0) -> nn.Module:
    """A toy network with weights drawn in float64."""
    made = make().double()
    made.load_state_dict(initial(make(), seed))
    return made


def whole(method: str = "imm", **changes) -> ExpertTraining:
    """All images in one step, so that their order does not show."""
    given = {"epochs": 4, "batch_size": 100, "lr": 0.05, "momentum": 0.6, "augment_from": None}
    return ExpertTraining(method=method, **given | changes)


def training(method, **changes):
    """Every method's strength is another number, so that the wrong one would show."""
    strengths = {field: STRENGTHS[name] for name, field in LAMBDAS.items()}
    return whole(method, **strengths, **changes)


def experts(training: ExpertTraining, tasks=TASKS, make=dense, **changes):
    return train_experts(
        network(make), tasks, training, **{"scaling": as_they_are, "seed": SEED, **changes}
    )


def in_plain_torch(method: str, lam: float, temperature: float = 2.0, *, tasks=TASKS, make=dense,
                   epochs=4, lr=0.05, momentum=0.6) -> list[Weights]:  # fmt: skip
    """The best model after each task, as a list of state dicts: every formula written out."""
    model = network(make)
    anchor, omega, teacher, found = None, {}, None, []
    widths = [len(t.classes) for t in tasks]
    for number, task in enumerate(tasks, start=1):
        fresh = fresh_head(model, widths[number - 1], SEED, number)
        first = sum(widths[: number - 1]) if method == "lwf" else 0
        if first:
            fresh = {n: torch.cat([model.state_dict()[n], t]) for n, t in fresh.items()}
        model.head = nn.Linear(model.head.in_features, len(fresh["head.bias"])).double()
        model.load_state_dict(model.state_dict() | fresh)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
        best, best_state = -1.0, None
        for _ in range(epochs):
            model.train()
            logits = model(task.train.inputs)
            loss = F.cross_entropy(logits[:, first:], task.train.labels)
            body = {n: p for n, p in model.named_parameters() if n.startswith("body")}
            if anchor and method == "imm":
                loss = loss + lam * sum(((p - anchor[n]) ** 2).sum() for n, p in body.items())
            if anchor and method in ("ewc", "mas"):
                pulls = [(omega[n] * (p - anchor[n]) ** 2).sum() for n, p in body.items()]
                loss = loss + lam * sum(pulls)
            if teacher and method == "lwf":
                with torch.no_grad():
                    wanted = teacher(task.train.inputs) / temperature
                for last, width in list(zip(accumulate(widths), widths, strict=True))[: number - 1]:
                    own = slice(last - width, last)
                    log_p = (logits[:, own] / temperature).log_softmax(1)
                    loss = loss - lam * (wanted[:, own].softmax(1) * log_p).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            model.eval()
            guess = model(task.validation.inputs)[:, first:].argmax(1)
            accuracy = (guess == task.validation.labels).double().mean().item()
            if accuracy > best:
                best, best_state = accuracy, copy.deepcopy(model.state_dict())
        model.load_state_dict(best_state)
        found.append(best_state)
        anchor, teacher = best_state, copy.deepcopy(model).eval()
        for n, t in omega_of(teacher, task, method).items():
            omega[n] = omega.get(n, 0) + t
    return found


def omega_of(model: nn.Module, task: Task, method: str) -> Weights:
    """Mean over training images of the gradient's magnitude, image by image, in evaluation mode."""
    names = [n for n, _ in model.named_parameters() if n.startswith("body")]
    total = {n: torch.zeros_like(model.get_parameter(n)) for n in names}
    for x, y in zip(task.train.inputs, task.train.labels, strict=True):
        logits = model(x[None])
        value = (logits**2).sum() if method == "mas" else F.cross_entropy(logits, y[None])
        grads = torch.autograd.grad(value, [model.get_parameter(n) for n in names])
        for n, g in zip(names, grads, strict=True):
            total[n] += (g.abs() if method == "mas" else g**2) / len(task.train)
    return total
