"""Settings: what was published, and what is refused in one line."""

import pytest
import torch
from lessons import TASKS, experts, whole
from toys import as_they_are, plain

from fedadapt.datasets.benchmark import Examples
from fedadapt.errors import DivergedError, InputError
from fedadapt.models.network import Network
from fedadapt.strategies.dua.experts.training import (
    ExpertTraining,
    train_experts,
)


def test_both_presets_hold_what_was_published():
    paper, released = ExpertTraining.paper(), ExpertTraining.released()
    names = ("epochs", "stop_after", "l2_lambda", "l2_from_task", "l2_head", "reset_norms",
             "augment_from", "granularity")  # fmt: skip
    assert [getattr(paper, n) for n in names] == [30, 10, 0.001, 2, False, False, 128, "sample"]
    assert [getattr(released, n) for n in names] == [50, 11, 1.0, 3, True, True, None, "batch"]
    for preset in (paper, released):
        assert (preset.lr, preset.momentum, preset.batch_size) == (1e-3, 0.9, 30)
        assert (preset.ewc_lambda, preset.mas_lambda, preset.lwf_lambda) == (400.0, 1.0, 1.0)
        assert (preset.lwf_temperature, preset.decay_after, preset.decay) == (2.0, 5, 0.1)
    assert ExpertTraining.released("ewc", epochs=10).epochs == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "emc"}, "method: unknown 'emc'; did you mean 'ewc'"),
        ({"granularity": "image"}, "granularity: unknown 'image'"),
        ({"epochs": 0}, "epochs: 0 is out of range"),
        ({"lr": float("nan")}, "lr: nan is not a finite number"),
        ({"momentum": 1.0}, "momentum: 1.0 is out of range; it must be >= 0 and < 1"),
        ({"ewc_lambda": -1.0}, "ewc-lambda: -1.0 is out of range; it must be >= 0"),
    ],
)
def test_settings_that_make_no_sense_are_one_clear_line(changes, message):
    with pytest.raises(InputError, match=f"experts: {message}"):
        ExpertTraining.paper(**changes)


def test_tasks_that_cannot_be_learnt_are_refused():
    def learn(tasks, method="imm", **more):
        return experts(whole(method), tasks, **more)

    empty = Examples(torch.zeros(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(InputError, match="experts: 0 tasks"):
        learn([])
    with pytest.raises(InputError, match="two tasks are called 'task 1'"):
        learn([TASKS[0], TASKS[0]])
    with pytest.raises(InputError, match="task 'task 1': validation: 0 images"):
        learn([TASKS[0]._replace(validation=empty)])
    with pytest.raises(InputError, match="task 'task 2': train: labels 0 to 2; 2 classes have"):
        learn([TASKS[1]._replace(classes=("a", "b"))])
    with pytest.raises(InputError, match="joint training learns all tasks at once"):
        learn([TASKS[1]], "joint", previous=learn(TASKS[:1]))
    odd = Network(torch.nn.Flatten(), 16, 2).double()
    odd.head = torch.nn.Conv2d(1, 2, 1)
    with pytest.raises(InputError, match="head is a Conv2d"):
        train_experts(odd, TASKS, whole(), scaling=as_they_are, seed=0)


def test_a_model_that_diverges_is_named():
    with pytest.raises(DivergedError, match="task 'task 2': the model became non-finite in epoch"):
        experts(whole(l2_lambda=1e200, epochs=9), make=plain)
