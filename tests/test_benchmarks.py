"""The benchmarks measure what they say: the same work, the right clock, the right ratios."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import clock, growth, process, ratios, speed  # noqa: E402
from benchmarks.clock import Clock, Enough  # noqa: E402
from benchmarks.engines import bare, ours  # noqa: E402
from benchmarks.works import BATCH, WORKS, Devices, network, parsed, word  # noqa: E402


def small(name: str, devices: int = 4, **changes):
    return replace(WORKS[name], devices=devices, **changes)


@pytest.fixture
def a_step_a_second(monkeypatch):
    seconds = iter(range(1000))
    monkeypatch.setattr(clock.time, "perf_counter", lambda: float(next(seconds)))


@pytest.mark.usefixtures("a_step_a_second")
def test_a_clock_leaves_out_the_first_round_and_stops_when_its_time_is_over():
    measuring = Clock(3.0)
    with pytest.raises(Enough):
        for _ in range(100):
            measuring.tick()
    assert measuring.rounds == [1.0, 1.0, 1.0]
    assert measuring.median == 1.0


@pytest.mark.usefixtures("a_step_a_second")
def test_a_slow_engine_is_measured_for_one_round():
    measuring = Clock(0.1)
    measuring.tick()
    measuring.tick()
    with pytest.raises(Enough):
        measuring.tick()
    assert len(measuring.rounds) == 1


@pytest.mark.parametrize("name", WORKS)
def test_every_device_has_images_of_its_own_and_the_same_each_time(name):
    work = small(name)
    devices, again = Devices(work), Devices(work)
    for d in range(work.devices):
        mine = devices.split(d).train
        assert mine.inputs.shape == (work.examples, *work.shape)
        assert torch.equal(mine.inputs, again.split(d).train.inputs)
    assert not torch.equal(devices.split(0).train.inputs, devices.split(1).train.inputs)


def test_a_device_has_no_digit_twice():
    rows = Devices(small("W1"))._rows
    assert all(len(set(row)) == len(row) for row in rows.tolist())


def test_a_work_goes_through_a_word():
    assert parsed("W1") == WORKS["W1"]
    assert parsed(word(small("W3", 7))) == small("W3", 7)


def test_w1_is_the_network_of_the_specification():
    assert [tuple(p.shape) for p in network(WORKS["W1"]).parameters()][::2] == [
        (100, 64), (100, 100), (10, 100)
    ]  # fmt: skip


class Rounds(Clock):
    """So many rounds, whatever they take."""

    def __init__(self, count: int) -> None:
        super().__init__(0.0)
        self.left = count

    def tick(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Enough


class Same(Rounds):
    """Hands out the model of the first round, too."""


def test_the_bare_loop_and_fedadapt_train_alike(monkeypatch):
    """One full batch a device leaves no order of images to differ in: equal up to rounding."""
    work = small("W1", examples=BATCH)
    trained = {}
    merge = ours.Worker.answer

    def answer(self, action, round, sent, kept=()):
        update = merge(self, action, round, sent, kept)
        trained.setdefault("ours", update.weights)
        return update

    monkeypatch.setattr(ours.Asked, "answer", answer)
    ours.run(work, Rounds(1), workers=1)
    loop = bare.Loop(work, channels_last=False, bf16=False)
    start, total = loop.flat(), torch.zeros_like(loop.flat())
    loop.compute(start, range(work.devices), total)
    mean = loop.parts(total / (work.devices * work.examples))
    found = [t.mean(0) for t in trained["ours"].values()]
    for a, b in zip(mean, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_bare_loop_changes_the_model_from_round_to_round(monkeypatch):
    seen = []
    compute = bare.Loop.compute
    monkeypatch.setattr(
        bare.Loop, "compute", lambda self, shared, *rest: compute(self, shared, *rest)
    )
    bare.run(small("W1"), Noting(seen, 2), processes=2)
    assert len(seen) == 3


class Noting(Rounds):
    def __init__(self, seen: list[int], count: int) -> None:
        super().__init__(count)
        self.seen = seen

    def tick(self) -> None:
        self.seen.append(self.left)
        super().tick()
