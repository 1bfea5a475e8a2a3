"""How long all runs of a study still take: in closed form, and told while one is under way."""

import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from rich.console import Console

from fedadapt.simulations.estimate import Estimate
from fedadapt.simulations.progress import EVERY, FIRST_LINE, Progress
from fedadapt.simulations.studies.runs_left import RunsLeft


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def planned(folder: Path, *strategies: str) -> list:
    return [
        replace(tiny.config(), strategy=strategy, out=str(folder / str(place)))
        for place, strategy in enumerate(strategies)
    ]


def make(run) -> None:
    Path(run.out).mkdir()
    (Path(run.out) / "summary.json").write_text(json.dumps({}))


def test_a_run_lasts_as_long_as_those_of_its_strategy_and_a_new_one_as_all_so_far(tmp_path):
    runs = planned(tmp_path, "fedavg", "ditto", "fedavg", "ditto", "pfa")
    left = RunsLeft(runs)
    assert left.begin(runs[0]) == ""
    assert math.isnan(left.after(math.nan))  # nothing is known
    assert left.after(100.0) == 4 * 100  # but for the run under way
    left.made({"seconds": 60})
    assert left.begin(runs[1]) == " (about 4 min left)"  # four runs as long as the one
    left.made({"seconds": 240})
    # fedavg 60, ditto 240, and pfa as all so far: 150
    assert left.begin(runs[2]) == " (about 8 min left)"
    assert left.after(math.nan) == 240 + 150
    assert left.after(120.0) == 240 + (60 + 120 + 240) / 3  # the run under way is one of them
    assert (left.number, left.count) == (3, 5)


def test_runs_that_are_there_already_cost_nothing(tmp_path):
    runs = planned(tmp_path, "fedavg", "fedavg", "fedavg", "fedavg")
    make(runs[0])
    make(runs[2])
    left = RunsLeft(runs)
    assert left.begin(runs[0]) == ""
    assert left.after(90.0) == 2 * 90
    left.made({"seconds": 120})
    assert left.begin(runs[1]) == " (about 4 min left)"
    left.made({"seconds": 120})
    assert left.begin(runs[3]) == " (about 2 min left)"
    assert left.after(90.0) == 0


def test_less_than_a_minute_is_not_worth_a_word(tmp_path):
    runs = planned(tmp_path, "fedavg", "fedavg")
    left = RunsLeft(runs)
    left.begin(runs[0])
    left.made({"seconds": 59})
    assert left.begin(runs[1]) == ""


def test_a_run_of_a_study_tells_how_long_all_runs_take(tmp_path):
    clock, file = Clock(), io.StringIO()
    runs = planned(tmp_path, "fedavg", "fedavg", "fedavg")
    left = RunsLeft(runs, clock)
    left.begin(runs[0])
    with Progress(Console(file=file, width=80), clock, left) as progress:
        progress.expect(Estimate(training=100.0, alone=0.0, adaptation=0.0, evaluation=0.0))
        progress.start(0, 2)
        progress.round(1, 4)
        clock.now += FIRST_LINE
        progress.advance(1)
        clock.now += EVERY
        progress.done(1, 0.5)
    first, second = file.getvalue().splitlines()
    # This run takes 100 s, as both others; then its rounds take 35 s each.
    assert first.endswith("5 s passed, 2 min left, 5 min left of all runs")
    assert second.endswith("35 s passed, 35 s left, 3 min left of all runs")


def test_a_study_of_one_run_is_a_run(tmp_path):
    clock, file = Clock(), io.StringIO()
    runs = planned(tmp_path, "fedavg")
    left = RunsLeft(runs, clock)
    left.begin(runs[0])
    with Progress(Console(file=file, width=80), clock, left) as progress:
        progress.start(0, 2)
        clock.now += FIRST_LINE
        progress.done(1, 0.5)
    assert "of all runs" not in file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_the_runs_have_a_bar_with_the_time_since_the_study_began(tmp_path, width):
    clock, file = Clock(), io.StringIO()
    runs = planned(tmp_path, "fedavg", "fedavg", "fedavg")
    left = RunsLeft(runs, clock)
    left.begin(runs[0])
    left.made({"seconds": 100})
    clock.now += 100
    left.begin(runs[1])
    console = Console(file=io.StringIO(), force_terminal=True)
    with Progress(console, clock, left) as progress:
        progress.expect(Estimate(training=100.0, alone=0.0, adaptation=0.0, evaluation=0.0))
        progress.start(0, 2)
        progress.round(1, 4)
        Console(file=file, width=width).print(progress._bars.get_renderable())
    all_runs, rounds, clients = file.getvalue().splitlines()
    assert re.match(r"runs .* 1/3 +0:01:4\d 3 min left *$", all_runs)
    assert re.match(r"rounds .* 0/2 +0:00:0\d 2 min left *$", rounds)
    assert clients.startswith("round 1: clients ")
