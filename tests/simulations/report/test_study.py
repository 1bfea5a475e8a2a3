"""The page of a comparison: what is on it are the numbers of its runs."""

import json
import re

import made_study
import numpy as np
import pytest
from click.testing import CliRunner
from made_study import CLIENTS, METHODS, accuracy
from made_up import evaluation
from pages import Page, finish

from fedadapt.cli import main
from fedadapt.simulations.report.study import page as study_page
from fedadapt.simulations.report.study.look import PALETTE, colours
from fedadapt.simulations.report.study.page import write_study
from fedadapt.simulations.report.study.study import Entry, Grid, Shown, Study
from fedadapt.simulations.studies.made_runs import read_run
from fedadapt.simulations.studies.study_of_runs import study_of_runs
from fedadapt.simulations.studies.table import table_of


def study(folder, settings=(0.01,)):
    runs = [read_run(path) for path in made_study.make(folder, settings)]
    return study_of_runs(table_of(runs), runs, folder)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    found = study(folder)
    write_study(folder, found)
    return folder, found, Page((folder / "report.html").read_text("utf-8"))


def of(data, title):
    [entry] = [entry for entry in data["entries"] if entry["title"] == title]
    return entry


def test_accuracies_gains_and_curves_are_those_of_the_runs(compared):
    _, _, page = compared
    data = json.loads(page.scripts[0])
    assert data["clients"] == [list(range(CLIENTS))]
    for method in METHODS:
        entry = of(data, f"{method} · base+fine-tune")
        expected = np.array([
            [accuracy(method, 0.01, seed, c, "base+fine-tune", 3) for c in range(CLIENTS)]
            for seed in (1, 2)
        ])  # fmt: skip
        alone = np.array([accuracy(method, 0.01, 1, c, "local", 3) for c in range(CLIENTS)])
        np.testing.assert_allclose(np.array(entry["accuracy"]) / 1e4, expected.mean(0), atol=1e-4)
        np.testing.assert_allclose(entry["by_seed"], expected.mean(1), atol=1e-6)
        gains = (expected - alone).mean(0)
        np.testing.assert_allclose(np.array(entry["gain"]) / 1e4, gains, atol=1e-4)
        assert entry["curves"] == []  # it was evaluated once
        base = of(data, f"{method} · base")
        assert [curve["seed"] for curve in base["curves"]] == ["1", "2"]
        for curve in base["curves"]:
            seed = int(curve["seed"])
            means = [np.mean([accuracy(method, 0.01, seed, c, "base", r) for c in range(CLIENTS)])
                     for r in (1, 2, 3)]  # fmt: skip
            assert curve["steps"] == [1, 2, 3]
            np.testing.assert_allclose(curve["values"], means, atol=1e-4)


def test_the_cost_is_what_travelled_both_ways(compared):
    folder, _, page = compared
    summary = json.loads((folder / "ditto-0.01-1" / "summary.json").read_text("utf-8"))
    entry = of(json.loads(page.scripts[0]), "ditto · base")
    assert entry["megabytes"] == pytest.approx((summary["bytes_up"] + summary["bytes_down"]) / 1e6)
    assert entry["seconds"] == pytest.approx(summary["client_seconds"])


def test_rows_link_to_the_pages_of_their_runs_and_to_nothing_else(compared):
    folder, _, page = compared
    links = [value for name, value in page.attributes if name == "href"]
    assert links
    assert all((folder / link).read_text() == "of a run" for link in links)
    assert not [value for name, value in page.attributes if name == "src"]
    assert not any(words in script for script in page.scripts for words in ("fetch(", "eval("))


def test_text_of_a_study_stays_text(tmp_path):
    evil = "</script><script>alert(1)</script>&\"'"
    entries = tuple(
        Entry(name=evil + str(i), label=evil, cells=(Shown(evil),), by_seed=(0.5,),
              accuracy={0: 0.5, 1: 0.5 + i / 10}, gain={0: 0.1}, settings=(evil,), published=0.4)
        for i in range(2)
    )  # fmt: skip
    found = Study(what=evil, title=evil, line=evil, notes=(evil,), settings=(evil,),
                  columns=(evil,), entries=entries, reference=evil, axes=(evil,),
                  grids=(Grid(evil, (evil,), [(evil,)], (evil,)),))  # fmt: skip
    page = Page(write_study(tmp_path, found).read_text("utf-8"))
    assert page.tags.count("script") == len(page.scripts) == 3
    assert "<" not in page.scripts[0]
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_settings_that_differ_are_the_axes_of_a_sweep(tmp_path):
    found = study(tmp_path, (0.01, 0.1))
    assert found.what == "Sweep"
    assert found.axes == ("lr",)
    [tuned] = [e for e in found.entries if e.title == "ditto 0.1 · base"]
    assert tuned.point == {"lr": 0.1}
    assert tuned.series == "ditto"
    assert found.populations == ("",)  # a learning rate changes no client's images


def test_arguments_of_a_strategy_that_differ_are_an_axis_of_its_own(tmp_path):
    runs = [read_run(path) for path in made_study.make(tmp_path)]
    for run, lam in zip(runs[:2], ("lam=0.1 each=2", "lam=1.0 each=2"), strict=True):
        run.summary["strategy_args"] = lam
    found = study_of_runs(table_of(runs), runs, tmp_path)
    assert found.axes == ("ditto.lam",)
    dittos = [entry for entry in found.entries if entry.name.startswith("ditto")]
    assert {(e.series, e.point["ditto.lam"]) for e in dittos} == {
        ("ditto each=2", 0.1), ("ditto each=2", 1.0)}  # fmt: skip


def test_rows_of_other_clients_are_not_ranked_together(compared, tmp_path):
    _, found, _ = compared
    ranked = found.ranks(0)
    assert found.entries[ranked.methods[0]].title == "ditto · base+fine-tune"
    runs = [read_run(path) for path in made_study.make(tmp_path)]
    runs[0].summary["manifest"] = "another"
    assert study_of_runs(table_of(runs), runs, tmp_path).ranks(0) is None


def test_curves_are_over_the_clients_of_the_training(tmp_path):
    """Planted: an unseen client that is always right, and a row on the way of an adaptation."""
    rows = [evaluation(c, 0.5, round=r) for r in (1, 2) for c in (0, 1)]
    rows += [evaluation(9, 1.0, round=r, seen=False) for r in (1, 2)]
    rows += [evaluation(0, 0.9, round=2, epoch=3), evaluation(-1, 1.0, round=2)]
    runs = [read_run(finish(tmp_path, rows, rounds=2, clients=3))]
    [entry] = study_of_runs(table_of(runs), runs, tmp_path).entries
    [curve] = entry.curves
    assert (curve.steps, curve.values) == ((1, 2), (0.5, 0.5))


def test_runs_that_differ_in_who_has_which_images_are_of_different_clients(tmp_path):
    runs = []
    for name, examples in (("a", 50), ("b", 100)):
        for strategy in ("fedavg", "ditto"):
            folder = tmp_path / f"{name}-{strategy}"
            folder.mkdir()
            rows = made_study.rows(strategy, 0.01, 1)
            runs.append(read_run(finish(folder, rows, strategy=strategy, examples=examples)))
    found = study_of_runs(table_of(runs), runs, tmp_path)
    assert found.populations == ("examples 50", "examples 100")
    of = {entry.settings: entry.population for entry in found.entries}
    assert of == {("50",): 0, ("100",): 1}
    assert {found.ranks(place).num_clients for place in (0, 1)} == {CLIENTS}


def test_many_clients_are_thinned_and_means_are_over_all(tmp_path, monkeypatch, compared):
    monkeypatch.setattr(study_page, "VALUES", CLIENTS)
    _, found, whole = compared
    text = write_study(tmp_path, found).read_text("utf-8")
    data = json.loads(Page(text).scripts[0])
    [clients] = data["clients"]
    every = len(found.entries)
    assert clients == list(range(0, CLIENTS, every))
    assert len(of(data, "ditto · base")["gain"]) == len(clients)
    assert f"One of {every} clients is drawn" in text
    assert data["entries"][1]["by_seed"] == json.loads(whole.scripts[0])["entries"][1]["by_seed"]


def test_a_method_has_a_colour_and_neighbours_have_others():
    entries = [Entry(name=name, label=label) for name in "abc" for label in ("base", "personal")]
    found = colours([*entries, Entry(name="no federation", label="local")])
    assert found[::2][:3] == list(PALETTE[:3])
    assert found[0] == found[1]
    assert found[-1] not in PALETTE


def test_report_of_a_folder_of_runs_writes_page_and_figures(compared):
    folder, _, page = compared
    result = CliRunner().invoke(main, ["report", str(folder), "--figures"])
    assert result.exit_code == 0, result.output
    assert Page((folder / "report.html").read_text("utf-8")).scripts == page.scripts
    names = {path.name for path in (folder / "figures").iterdir()}
    kinds = ("curves", "cost-bytes", "cost-seconds", "gains", "ranks")
    assert names == {f"{name}.{kind}" for name in kinds for kind in ("svg", "pdf")}
    svg = (folder / "figures" / "ranks.svg").read_text("utf-8")
    assert re.search(r"critical difference \d\.\d\d", svg)


def test_the_folder_of_a_reproduction_is_one_line(tmp_path):
    (tmp_path / "reproduction.json").write_text("{}")
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "the same `fedadapt reproduce`" in result.output
