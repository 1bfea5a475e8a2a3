"""Time left in closed form, and the lines that a run prints where there is no terminal."""

import io
import math

import pytest
from rich.console import Console

from fedadapt.simulations.estimate import Estimate
from fedadapt.simulations.progress import EVERY, FIRST_LINE, Progress
from fedadapt.simulations.time_left import TimeLeft

ESTIMATE = Estimate(training=100.0, alone=30.0, adaptation=20.0, evaluation=10.0)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_nothing_is_known_before_the_first_round_without_an_estimate(clock):
    left = TimeLeft(10, clock)
    assert math.isnan(left.seconds)
    assert str(left) == ""


def test_before_the_first_round_it_is_the_estimate_less_what_has_passed(clock):
    left = TimeLeft(10, clock)
    clock.now += 7  # that measuring took
    left.expect(ESTIMATE)
    clock.now += 15
    assert left.seconds == 160 - 15
    clock.now += 1000
    assert left.seconds == 0


def test_rounds_are_taken_to_last_as_long_as_those_so_far(clock):
    left = TimeLeft(10, clock)
    for _ in range(4):
        clock.now += 3
        left.round_done()
    assert left.seconds == 6 * 3
    clock.now += 1
    assert left.seconds == 6 * 3 - 1


def test_what_comes_after_the_rounds_is_slower_by_as_much_as_they_were(clock):
    left = TimeLeft(10, clock)
    left.expect(ESTIMATE)
    for _ in range(10):
        clock.now += 20  # 10 were expected
        left.round_done()
    assert left.seconds == 2 * (30 + 20 + 10)
    assert str(left) == "2 min left"


def test_a_resumed_run_counts_only_the_rounds_that_are_left(clock):
    progress = Progress(clock=clock)
    progress.start(6, 10)
    clock.now += 5
    progress.done(7, 0.1)
    assert progress._left.seconds == 3 * 5


def lines_of(clock, width: int = 80) -> tuple[Progress, io.StringIO]:
    file = io.StringIO()
    return Progress(Console(file=file, width=width), clock), file


def test_off_a_terminal_there_is_a_line_every_so_often(clock):
    progress, file = lines_of(clock)
    with progress:
        progress.expect(ESTIMATE)
        progress.start(0, 10)
        progress.round(1, 20)
        progress.advance(5)
        assert file.getvalue() == ""
        clock.now += FIRST_LINE
        progress.advance(5)
        progress.advance(5)  # the same second: nothing to say
        assert file.getvalue().splitlines() == [
            "0 of 10 rounds, round 1: clients 10 of 20, 5 s passed, 3 min left"
        ]
        progress.advance(5)
        clock.now += EVERY
        progress.done(1, 0.5)
    second = file.getvalue().splitlines()[1]
    assert second == "1 of 10 rounds, loss 0.5000, 35 s passed, 9 min left"


def test_lines_are_whole_however_narrow_the_console_says_it_is(clock):
    progress, file = lines_of(clock, width=20)
    with progress:
        progress.start(0, 10)
        progress.phase("writing tables and pictures", 3)
        clock.now += FIRST_LINE
        progress.advance(1)
    assert file.getvalue() == ("0 of 10 rounds, writing tables and pictures 1 of 3, 5 s passed\n")


def test_without_a_console_nothing_is_printed(clock, capsys):
    progress = Progress(clock=clock)
    with progress:
        progress.start(0, 2)
        clock.now += 100
        progress.done(1, 0.5)
    assert capsys.readouterr() == ("", "")
