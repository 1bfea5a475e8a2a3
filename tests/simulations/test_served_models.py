"""Whole runs in which each client chooses among its models."""

import json
from collections import Counter

import pytest
import tiny

from fedadapt import load
from fedadapt.errors import InputError
from fedadapt.records import HELD_OUT, LOCAL, SERVED, Confidence
from fedadapt.simulations.results.parquet import read_evaluations, table_rows
from fedadapt.simulations.results.serving import chosen_models, served_rows

CHANGES = {
    "model": tiny.NORM_MLP,
    "strategy": "ditto",
    "adapt": "none,adabn,fine-tune",
    "adapt_args": "fine-tune.epochs=2 fine-tune.part=adapt",
    "rounds": 2,
    "unseen": 0.34,
}


def test_every_client_is_served_what_its_held_out_images_say(tmp_path):
    summary = tiny.run(tmp_path, serve="best-on-adapt", **CHANGES)
    rows = read_evaluations(tmp_path)
    served = [row for row in rows if row.model == SERVED]
    assert [row.client for row in served] == list(range(6))
    assert {row.round for row in rows if row.split == HELD_OUT} == {2}
    others = [row for row in rows if row.model != SERVED]
    assert list(served_rows(others, 2)) == served
    words = chosen_models(others, 2).values()
    assert summary["served"] == Counter("+".join(w).removesuffix("+none") for w in words)
    assert sum(summary["served"].values()) == 6
    assert list(summary["accuracy"])[-1] == SERVED  # the label that pictures show
    assert SERVED in summary["accuracy_unseen"]
    assert (tmp_path / "report.html").stat().st_size > 0
    assert json.loads((tmp_path / "summary.json").read_text())["served"] == summary["served"]


def test_nothing_else_of_a_run_depends_on_the_choice(tmp_path):
    tiny.run(tmp_path / "all", **CHANGES)
    tiny.run(tmp_path / "best", serve="best-on-adapt", **CHANGES)
    rows = read_evaluations(tmp_path / "best")
    kept = [row for row in rows if row.split != HELD_OUT and row.model != SERVED]
    assert kept == read_evaluations(tmp_path / "all")


def test_a_resumed_run_chooses_the_same(tmp_path):
    wanted = tiny.run(tmp_path, serve="best-on-adapt", **CHANGES)
    again = tiny.run(tmp_path, resume=True, serve="best-on-adapt", **CHANGES)
    assert again["served"] == wanted["served"]
    rows = [row for row in read_evaluations(tmp_path) if row.model == SERVED]
    assert len(rows) == 6


def test_the_model_that_a_client_chose_is_the_one_it_loads(tmp_path):
    tiny.run(tmp_path, serve="best-on-adapt", save_models="all", **CHANGES)
    wanted = chosen_models(read_evaluations(tmp_path), 2)
    assert len({*wanted.values()}) > 1
    for client, (model, adaptation) in wanted.items():
        for asked in (None, "served"):
            card = load(tmp_path, client, model=asked).card
            whose = client if (model, adaptation) != ("base", "none") else None
            assert (card.client, card.model, card.adaptation) == (whose, model, adaptation)


def test_where_no_client_chose_there_is_no_served_model(tmp_path):
    tiny.run(tmp_path, save_models="all", **CHANGES)
    assert load(tmp_path, 0).card.model == "personal"
    with pytest.raises(InputError, match="no client chose a model there; a run with --serve"):
        load(tmp_path, 0, model="served")


def test_confidences_are_of_every_test_image_and_move_nothing(tmp_path):
    summary = tiny.run(tmp_path / "with", serve="best-on-adapt", confidence=True, **CHANGES)
    tiny.run(tmp_path / "without", serve="best-on-adapt", **CHANGES)
    rows = read_evaluations(tmp_path / "with")
    assert rows == read_evaluations(tmp_path / "without")
    found = list(table_rows(tmp_path / "with", Confidence))
    tests = {
        (r.client, r.label): r
        for r in rows
        if r.split == "test" and r.round == 2 and r.model not in (SERVED, LOCAL)
    }
    assert {(c.client, c.label) for c in found} == tests.keys()
    for c in found:
        test = tests[c.client, c.label]
        assert len(c.right) == len(c.raw) == len(c.calibrated) == test.num_examples
        assert sum(c.right) / len(c.right) == pytest.approx(test.accuracy)
        assert all(1 / 10 <= p <= 1 for p in (*c.raw, *c.calibrated))
    labels = [label for label in summary["accuracy"] if label != LOCAL]
    assert list(summary["confidence"]) == labels
    report = (tmp_path / "with" / "report.html").read_text()
    assert "calibration error" in report
    assert "calibration error" not in (tmp_path / "without" / "report.html").read_text()
    assert not (tmp_path / "without" / "confidences.parquet").exists()
