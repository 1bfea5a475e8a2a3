"""How long a run will take is said before it begins, and changes nothing of it."""

import logging

import pytest
import tiny
import torch

from fedadapt.simulations import estimate as estimates
from fedadapt.simulations import run as runs
from fedadapt.simulations.assembly import assemble
from fedadapt.simulations.estimate import Estimate, announcement, duration, estimate


@pytest.fixture
def steps(monkeypatch):
    """Every measured pass takes a second: what is left is counting."""

    def second(call) -> float:
        call()
        return 1.0

    monkeypatch.setattr(estimates, "_fastest", second)


def estimated(workers: int = 1, rounds: int | None = None, **changes) -> Estimate:
    config = tiny.config(execution="sequential", **changes)
    left = config.rounds if rounds is None else rounds
    return estimate(assemble(config), rounds=left, workers=workers)


def test_steps_of_training_alone_and_adaptation_are_counted(steps):
    found = estimated(rounds=3)  # 6 clients, 36 training images: 2 batches of at most 32
    assert found.training == 3 * 6 * 1 * 2
    assert found.alone == 6 * 3 * 2
    # Two epochs of fine-tuning: the first batch, and three that only add their share.
    assert found.adaptation == 6 * (1 + 3 * estimates.LEAST)
    assert found.total == sum(found)


def test_workers_share_the_work_and_fewer_rounds_take_less(steps):
    alone, two = estimated(), estimated(workers=2)
    assert two.total == pytest.approx(alone.total / 2)
    assert estimated(rounds=1).training == alone.training / 3
    assert estimated(fraction=0.5).training == alone.training / 2


def test_without_the_row_of_training_alone_it_costs_nothing(steps):
    assert estimated(local=False).alone == 0


def test_it_costs_the_run_no_random_number_and_no_thread():
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    estimated(model=tiny.NORM_MLP, adapt="none,adabn,adabn-s,fine-tune,kd,ewc")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_a_long_run_is_announced_in_one_line_and_a_short_one_is_not(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING, "fedadapt")
    assembly = assemble(tiny.config())
    runs.announce(assembly, "processes", 0)
    assert caplog.messages == []
    monkeypatch.setattr(runs, "estimate", lambda *_, **__: Estimate(7200.0, 3600.0, 600.0, 0.5))
    runs.announce(assembly, "processes", 0)
    [line] = caplog.messages
    assert line.startswith("this will take about 3.2 h on ")
    assert "training 2.0 h" in line
    assert "local adaptations 10 min" in line
    assert "\n" not in line
    runs.announce(assembly, "flower", 0)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("seconds", "told"), [(4.4, "4 s"), (89, "89 s"), (600, "10 min"), (36_000, "10.0 h")]
)
def test_durations_are_as_exact_as_an_estimate(seconds, told):
    assert duration(seconds) == told
    assert told in announcement(Estimate(seconds, 0, 0, 0), 1)
