"""The benchmarks measure what they say: the same work, the right clock, the right ratios."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import clock, fair_comparison, growth, process, ratios, speed
from benchmarks.clock import Clock, Enough
from benchmarks.engines import bare, ours
from benchmarks.process import Found
from benchmarks.works import BATCH, WORKS, Clients, network, parsed, word
from fedadapt.messages import Sent
from fedadapt.parameters import arguments_for
from fedadapt.strategies.registry import STRATEGIES
from fedadapt.strategies.registry import find as find_strategy
from fedadapt.weights import repeat


def small(name, clients=4, **changes):
    return replace(WORKS[name], clients=clients, **changes)


class Rounds(Clock):
    """So many rounds, whatever they take."""

    def __init__(self, count):
        super().__init__(0.0)
        self.left = count

    def tick(self, model=None):
        self.left -= 1
        if self.left < 0:
            raise Enough


# The clock


@pytest.fixture
def _a_second_a_look(monkeypatch):
    seconds = iter(range(1000))
    monkeypatch.setattr(clock.time, "perf_counter", lambda: float(next(seconds)))


@pytest.mark.usefixtures("_a_second_a_look")
@pytest.mark.parametrize(("given", "rounds"), [(3.0, 3), (0.1, 1)])
def test_the_first_round_does_not_count_and_the_last_is_the_one_that_fills_the_time(given, rounds):
    measuring = Clock(given)
    for _ in range(rounds + 1):  # with the first
        measuring.tick()
    with pytest.raises(Enough):
        measuring.tick()
    assert measuring.rounds == [1.0] * rounds


# The work


@pytest.mark.parametrize("name", WORKS)
def test_every_client_has_images_of_its_own_and_the_same_each_time(name):
    work = small(name)
    clients, again = Clients(work), Clients(work)
    for d in range(work.clients):
        mine = clients.split(d).train
        assert mine.inputs.shape == (work.examples, *work.shape)
        assert torch.equal(mine.inputs, again.split(d).train.inputs)
        assert len(mine.inputs.unique(dim=0)) == work.examples
    assert not torch.equal(clients.split(0).train.inputs, clients.split(1).train.inputs)


def test_a_benchmark_task_survives_being_written_as_a_word():
    assert parsed("W1") == WORKS["W1"]
    assert parsed(word(small("W3", 7))) == small("W3", 7)


def test_w1_is_the_network_of_the_specification():
    shapes = [tuple(p.shape) for p in network(WORKS["W1"]).parameters() if p.dim() > 1]
    assert shapes == [(100, 64), (100, 100), (10, 100)]


# The engines do the same work


def test_the_bare_loop_and_fedadapt_train_alike():
    """One full batch a client leaves no order of images to differ in: equal up to rounding."""
    work = small("W1", examples=BATCH)
    made = ours.assembly(work, workers=1)
    start = {n: t.detach() for n, t in made.model.state_dict().items()}
    everyone = tuple(range(work.clients))
    update = made.worker.answer("train", 1, Sent(everyone, repeat(start, work.clients), {}))
    loop = bare.Loop(work, channels_last=False, bf16=False)
    total = torch.zeros_like(loop.flat())
    loop.compute(loop.flat(), range(work.clients), total)
    for found, n in zip(loop.parts(total / (work.clients * BATCH)), start, strict=True):
        torch.testing.assert_close(found, update.weights[n].mean(0), rtol=1e-4, atol=1e-6)
        assert not torch.equal(found, start[n])


def test_the_bare_loop_sums_alike_however_its_clients_are_divided():
    loop = bare.Loop(small("W1", 5, examples=BATCH), channels_last=False, bf16=False)
    start, (whole, odd, even) = loop.flat(), torch.zeros(3, len(loop.flat()))
    for clients, total in ((range(5), whole), (range(1, 5, 2), odd), (range(0, 5, 2), even)):
        loop.compute(start, clients, total)
    torch.testing.assert_close(odd + even, whole)


@pytest.mark.parametrize("name", ["sparsity", "mas"])
def test_the_bare_loop_and_fedadapt_answer_queries_alike(name):
    work = small(name, 2, examples=10)
    made = ours.assembly(work, workers=1)
    start = {n: t.detach() for n, t in made.model.state_dict().items()}
    action = ours.SPARSITY if work.kind == "sparsity" else ours.IMPORTANCE
    report = made.worker.answer(action, 1, Sent((0, 1), repeat(start, 2), {})).report
    loop = bare.Loop(work, channels_last=False, bf16=False)
    for d in range(2):
        if work.kind == "sparsity":
            torch.testing.assert_close(loop.sparsity(d), report["sparsity"][d])
        else:
            for n, found in loop.importance(d).items():
                torch.testing.assert_close(found, report[n][d], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", WORKS)
def test_every_benchmark_task_runs_to_its_end(name):
    work = small(name, 2, examples=2)
    assert "at a time" in ours.run(work, Rounds(2), workers=1)
    loop = bare.Loop(work, channels_last=True, bf16=False)
    loop.compute(loop.flat(), range(2), torch.zeros_like(loop.flat()))
    assert 0 <= loop.evaluate(loop.flat(), range(2)) <= 4


# What is made of it


def test_a_process_is_read_whatever_else_it_says():
    line = 'MEASURED {"seconds": [1.0, 2.0], "note": "stacked-kernels"}'
    assert process._read(f"warning\n{line}\nbye\n") == Found([1.0, 2.0], "stacked-kernels")
    assert process._read("Traceback\nKeyError: 3\n") == Found([], "KeyError: 3")
    assert not process._read("").seconds


def test_the_best_bare_loop_is_in_the_same_arithmetic():
    rates = {"bare-1": [5.0], "bare": [9.0, 1.0, 8.0], "bare-bf16": [20.0], "ours": [7.6]}
    assert ratios.best_bare(rates, "ours") == "bare"
    assert ratios.best_bare(rates, "ours-bf16") == "bare-bf16"
    assert ratios.ratio(rates, "ours", "bare") == pytest.approx(0.95)
    assert ratios.ratio(rates, "ours", "flower") is None


@pytest.mark.parametrize(("speed_of_ours", "met"), [(30.0, True), (29.9, False)])
def test_a_verdict_is_by_the_medians(speed_of_ours, met):
    rates = {"flower": [0.5, 1.0, 9.0], "ours": [1.0, speed_of_ours, 99.0]}
    [verdict] = ratios.verdicts("W1", rates)
    assert (verdict.beside, verdict.required, verdict.met) == ("flower", 30.0, met)


def test_engines_take_turns_and_all_is_written_down(monkeypatch, tmp_path, capsys):
    asked = []

    def measured(engine, work, seconds, **how):
        asked.append(engine)
        return Found([2.0, 4.0, 3.0], "a note") if engine != "bare" else Found([], "no luck")

    monkeypatch.setattr(speed, "measured", measured)
    monkeypatch.setattr(speed, "python_with_pfl", lambda given: "")
    states = tmp_path / "all.json"
    words = ["--work", "W1:30", "--engines", "flower,pfl,bare,ours", "--json", str(states)]
    speed.main([*words, "--repeats", "2"])
    assert asked == ["flower", "bare", "ours", "flower", "ours"]
    shown = capsys.readouterr().out
    assert "no luck" in shown
    assert "not installed" in shown
    assert "required 30: NOT met" in shown
    found = json.loads(states.read_text())["works"]["W1:30"]
    assert found["ours"]["clients per second"] == [10.0, 10.0]
    assert found["bare"]["clients per second"] == []


def test_a_benchmark_task_is_run_by_the_engines_that_support_it():
    assert not {"flower", "bare-cl"} & set(speed.engines_for(WORKS["mas"]))
    assert speed.engines_for(WORKS["mas"], ["flower", "ours-ray"]) == ["ours-ray"]
    assert "bare-cl" not in speed.engines_for(WORKS["W1"])
    assert "ours-bf16" in speed.engines_for(WORKS["W2"])
    assert "ours-bf16" not in speed.engines_for(WORKS["W3"])


@pytest.mark.parametrize(
    "words", [["--work", "W9"], ["--work", "W1:many"], ["--engines", "theirs"]]
)
def test_a_wrong_word_is_refused_with_those_there_are(words, capsys):
    with pytest.raises(SystemExit):
        speed.main(words)
    assert words[1] in capsys.readouterr().err


def test_growth_is_shown_for_every_number_of_clients(monkeypatch, capsys):
    def measured(engine, work, seconds, watch):
        return Found([parsed(work).clients / 100], engine)

    monkeypatch.setattr(growth, "measured", measured)
    growth.main(["--clients", "10", "3000"])
    shown = capsys.readouterr().out
    assert "3,000" in shown
    assert "30.000" in shown


# The fair comparison


def test_every_strategy_of_ours_that_learns_no_tasks_is_compared():
    ours = {n for n, path in STRATEGIES.ours.items() if path.startswith("fedadapt.")}
    compared = {n for n in ours if not find_strategy(n).learns_tasks}
    assert compared - set(fair_comparison.KNOBS) <= fair_comparison.LEFT_OUT.keys()
    assert not fair_comparison.KNOBS.keys() & fair_comparison.LEFT_OUT.keys()


@pytest.mark.parametrize("name", fair_comparison.KNOBS)
def test_a_strategy_s_parameter_is_one_and_takes_its_values(name):
    knob, values = fair_comparison.KNOBS[name]
    for value in values:
        assert arguments_for(find_strategy(name), {knob: value}, "arguments", name)


def test_every_strategy_gets_the_same_number_of_trials():
    rates = [0.01, 0.03, 0.1]
    counts = {n: len(set(fair_comparison.trials(n, rates, 1))) for n in fair_comparison.KNOBS}
    assert set(counts.values()) == {9}


def test_a_setting_has_the_type_of_its_default():
    words = "clients=20 lr=0.1 curves=true model=cnn"
    found = {k: fair_comparison._typed(k, v) for k, v in fair_comparison.parse_words(words)}
    assert found == {"clients": 20, "lr": 0.1, "curves": True, "model": "cnn"}
    assert [type(value) for value in found.values()] == [int, float, bool, str]
