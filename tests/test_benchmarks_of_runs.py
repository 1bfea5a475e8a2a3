"""What is measured on finished runs is what the runs themselves measured."""

import sys
from pathlib import Path

import pytest
import tiny
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import after_training, long_tail, report_page
from benchmarks.report_page import Opened
from fedadapt.errors import InputError
from fedadapt.selectors import linear_head
from fedadapt.simulations.report.page.data import page_data
from fedadapt.simulations.results.accuracies import last_accuracies
from fedadapt.simulations.results.parquet import read_evaluations
from fedadapt.simulations.results.run_folder import RunFolder
from fedadapt.weights import repeat

ADAPT = "none,atp,adabn+fine-tune"
ARGUMENTS = "atp.rounds=2 fine-tune.epochs=2 fine-tune.shots=2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "run"
    tiny.run(
        path, model=tiny.NORM_MLP, rounds=2, unseen=0.34, adapt=ADAPT, adapt_args=ARGUMENTS,
        global_test="base", local=False, strategy="fedloge", imbalance="long-tail:0.2",
    )  # fmt: skip
    return path


def test_adaptations_have_the_accuracies_of_the_run(folder):
    words = ("none", "atp rounds=2", "adabn+fine-tune fine-tune.epochs=2 fine-tune.shots=2")
    found = after_training.accuracies(folder, [after_training.adaptation(w) for w in words])
    rows = [
        r for r in read_evaluations(folder)
        if not r.seen and r.round == 2 and r.split == "test" and r.model == "base"
    ]  # fmt: skip
    for name, accuracy in zip(ADAPT.split(","), found, strict=True):
        own = [r.accuracy for r in rows if r.adaptation == name]
        assert len(own) == 2
        assert accuracy == pytest.approx(sum(own) / 2, abs=1e-6)
    assert len(set(found)) > 1


def test_the_served_model_has_the_run_s_accuracy_and_the_averaged_one_is_what_was_averaged(folder):
    found = long_tail.accuracies(folder)
    [everywhere] = [
        r for r in read_evaluations(folder)
        if r.client < 0 and r.split == "global" and r.round == 2
    ]  # fmt: skip
    assert found["served"].all == pytest.approx(everywhere.accuracy, abs=1e-6)
    assembly, made = long_tail.models(folder)
    strategy = assembly.worker.strategy
    again = strategy.base_model({n: t[0] for n, t in repeat(made["averaged"], 1).items()})
    assert all(torch.equal(t, made["served"][n]) for n, t in again.items())
    changed = [n for n, t in made["averaged"].items() if not torch.equal(t, made["served"][n])]
    assert changed == [linear_head(assembly.model)[0]]


def test_classes_by_how_frequent_they_are_by_hand():
    """Shares .4, .3, .2, .06 and .04, which add up to .4, .7, .9, .96 and 1."""
    parts = long_tail.thirds(torch.tensor([6, 40, 4, 30, 20]))
    assert {name: classes.tolist() for name, classes in parts.items()} == {
        "head": [1, 3], "middle": [4], "tail": [0, 2],
    }  # fmt: skip
    labels = torch.tensor([1, 1, 3, 4, 0, 2, 2, 2])
    right = torch.tensor([1, 0, 1, 1, 0, 1, 1, 0]).bool()
    by_part = long_tail.by_part(right, labels, parts)
    assert by_part == pytest.approx((5 / 8, 2 / 3, 1.0, 1 / 2))


def test_a_run_without_a_single_model_is_refused(tmp_path):
    tiny.run(tmp_path / "run", rounds=1, strategy="fedamp", adapt="none", local=False)
    for refused in (lambda p: after_training.accuracies(p, []), long_tail.accuracies):
        with pytest.raises(InputError, match="fedamp has no single model on its server"):
            refused(tmp_path / "run")


def test_the_page_that_is_opened_holds_all_that_a_page_can_hold(tmp_path, monkeypatch, capsys):
    made = report_page.make(tmp_path / "run", clients=20, rounds=4)
    data = page_data(RunFolder.read(made), last_accuracies(read_evaluations(made)), {})
    assert set(data["labels"]) == set(report_page.MODELS)
    assert len(data["clients"]["client"]) == 20
    assert {curve["label"] for curve in data["history"]} == set(report_page.EVERY_ROUND)
    assert data["history_rounds"] == [0, 1, 2, 3, 4]
    assert len(data["losses"]) == 4
    assert {message["action"] for message in data["messages"]} == {"train", "evaluate"}
    assert all(len(images) == 4 * report_page.CLASSES for images in data["images_by_class"])
    monkeypatch.setattr(report_page, "opened", lambda page, times: [Opened(0.1, 0.05)] * times)
    report_page.main(["--clients", "20", "--rounds", "4"])
    assert "holds" in capsys.readouterr().out
    monkeypatch.setattr(report_page, "SLOWEST", 0.04)
    with pytest.raises(SystemExit):
        report_page.main(["--clients", "20", "--rounds", "4"])
