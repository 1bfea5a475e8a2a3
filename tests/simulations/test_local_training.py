"""What settings make of local training: the optimiser, its learning rate over rounds, views."""

import math

import pytest
import tiny
import torch

from fedadapt.client.augmentation import Augmentation
from fedadapt.client.step_rules import Adam, Sgd
from fedadapt.errors import InputError
from fedadapt.lr_schedule import CONSTANT, LrSchedule, is_schedule
from fedadapt.simulations.alone import TrainingAlone
from fedadapt.simulations.assembly import local_training
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.base import LocalTraining, at_round
from fedadapt.strategies.shared.fedavg import FedAvg


@pytest.mark.parametrize(
    ("text", "factors"),
    [
        ("constant", [1, 1, 1, 1]),
        ("cosine", [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        ("step:2:0.1", [1, 1, 0.1, 0.1]),
        ("step:1:0.5", [1, 0.5, 0.25, 0.125]),
    ],
)
def test_the_factor_of_each_of_four_rounds(text, factors):
    assert is_schedule(text)
    assert [LrSchedule.of(text).at(done, 4) for done in range(4)] == pytest.approx(factors)


@pytest.mark.parametrize(
    "text", ["", "linear", "step", "step:2", "step:0:0.1", "step:2:0", "step:2:2"]
)
def test_other_schedules_are_refused(text):
    assert not is_schedule(text)
    with pytest.raises(InputError, match="it must be constant, cosine, or step"):
        tiny.config(lr_schedule=text)


def test_training_is_what_the_settings_say():
    training = local_training(
        tiny.config(lr=0.2, momentum=0.9, weight_decay=0.1, lr_schedule="step:2:0.5", rounds=4)
    )
    assert training.optimizer == Sgd(0.2, 0.9, 0.1)
    rates = [training.after(done).optimizer.learning_rate for done in range(4)]
    assert rates == pytest.approx([0.2, 0.2, 0.1, 0.1])
    assert training.after(3).optimizer.momentum == 0.9
    adam = local_training(tiny.config(optimizer="adam", augmentation="crop+flip", weight_decay=0.1))
    assert adam.optimizer == Adam(0.05, weight_decay=0.1)
    assert adam.schedule.augmentation == Augmentation(crop=True, flip=True)
    assert local_training(tiny.config()).lr_schedule == CONSTANT
    assert local_training(tiny.config()).schedule.augmentation is None


def test_all_that_a_strategy_makes_of_the_learning_rate_follows_the_schedule():
    """A round's strategy is that of a run with this round's learning rate."""
    training = LocalTraining(optimizer=Sgd(0.4), lr_schedule=LrSchedule.of("cosine"), rounds=4)
    strategy = FedAvg(training=training, model=torch.nn.Linear(2, 2))
    rates = [at_round(strategy, r).training.optimizer.learning_rate for r in (0, 1, 2, 3, 4)]
    assert rates == pytest.approx([0.4 * f for f in (1, 1, 0.8535533906, 0.5, 0.1464466094)])
    assert at_round(strategy, 1) is strategy


def test_clients_train_with_the_round_s_rate_and_alone_with_the_same_way_down(
    tmp_path, monkeypatch
):
    rates, alone = {}, []
    answer, train = Worker.answer, TrainingAlone.train

    def noting(self, action, round, sent, states=()):
        found = answer(self, action, round, sent, states)
        rates[round] = self.strategy_at(round).training.optimizer.learning_rate
        return found

    def noting_alone(self, cohort, start=None):
        length = self.training.epochs
        total = -(-self.epochs // length)
        alone.append([self.training.after(k, total).optimizer.learning_rate for k in range(total)])
        return train(self, cohort, start)

    monkeypatch.setattr(Worker, "answer", noting)
    monkeypatch.setattr(TrainingAlone, "train", noting_alone)
    tiny.without_pictures(monkeypatch)
    tiny.run(tmp_path, lr=0.4, lr_schedule="step:1:0.5", rounds=3, adapt="none", workers=1)
    assert rates == pytest.approx({1: 0.4, 2: 0.2, 3: 0.1})
    assert alone[0] == pytest.approx([0.4, 0.2, 0.1])


def numbers(folder, **changes):
    tiny.run(folder, rounds=2, adapt="none", **changes)
    return tiny.base(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adam", "lr": 0.01},
        {"augmentation": "crop+flip"},
        {"lr_schedule": "cosine"},
    ],
)
def test_runs_with_them_differ_and_are_the_same_when_resumed_and_in_processes(
    tmp_path, monkeypatch, changes
):
    tiny.without_pictures(monkeypatch)
    plain = numbers(tmp_path / "plain", workers=1, local=False)
    whole = numbers(tmp_path / "whole", workers=1, local=False, **changes)
    assert not tiny.same_bits(plain, whole)
    side_by_side = numbers(tmp_path / "processes", workers=2, local=False, **changes)
    assert tiny.same_bits(side_by_side, whole)
    how = {"rounds": 2, "adapt": "none", "workers": 1, "local": False, **changes}
    tiny.run_interrupted(tmp_path / "cut", round=2, **how)
    tiny.run(tmp_path / "cut", resume=True, **how)
    assert tiny.same_bits(tiny.base(tmp_path / "cut"), whole)


def test_a_cosine_does_not_go_on_with_more_rounds(tmp_path, monkeypatch):
    tiny.without_pictures(monkeypatch)
    how = {"adapt": "none", "workers": 1, "local": False, "lr_schedule": "cosine"}
    tiny.run(tmp_path, rounds=1, **how)
    with pytest.raises(InputError, match="rounds was 1, is 2; a cosine runs over the rounds"):
        tiny.run(tmp_path, rounds=2, resume=True, **how)
