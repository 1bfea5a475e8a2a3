"""``fedadapt.simulate`` and ``fedadapt.compare``: the command line's runs, as Python has them."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from click.shell_completion import ShellComplete

import fedadapt
from fedadapt.cli import main
from fedadapt.config import RunConfig, parse_arguments
from fedadapt.notebook import NotebookLine, in_notebook
from fedadapt.runs.words import arguments, options_of
from fedadapt.simulations.progress import Progress
from fedadapt.simulations.results.parquet import table_rows
from fedadapt.strategies.shared.ditto import Ditto

ROOT = Path(__file__).parents[1]
SMALL = {
    name.replace("-", "_"): value for name, value in tiny.SETTINGS.items() if name != "adapt-args"
} | {"adapt": ["none", "fine-tune"], "adapt_args": {"fine-tune": {"epochs": 2}}, "workers": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> fedadapt.Run:
    place = tmp_path_factory.mktemp("api")
    return fedadapt.simulate(**SMALL, unseen=0.34, out=place / "run", progress=False)


# What was asked for


def test_python_s_values_are_those_of_the_command_line(run):
    wanted = tiny.config(unseen=0.34, workers=1, out=str(run.path), adapt_args="fine-tune.epochs=2")
    assert run.config == wanted
    assert run.path.is_absolute()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"mu": 0.1, "b": True, "n": 3}, "mu=0.1 b=true n=3"),
        ({"kd": {"lr": 0.1, "epochs": 2}, "ewc.lam": 1}, "kd.lr=0.1 kd.epochs=2 ewc.lam=1"),
        ({"lr": np.float64(0.5), "k": np.int64(4)}, "lr=0.5 k=4"),
        ({}, ""),
    ],
)
def test_dictionaries_are_arguments(values, text):
    assert arguments(values, "strategy_args") == text


@pytest.mark.parametrize("word", ["two words", "true", "3", "it's", "a=b", "", 'q"q'])
def test_a_word_comes_back_as_the_word_that_it_is(word):
    assert parse_arguments(arguments({"x": word}, "a"), "a") == {"x": word}


def test_classes_stand_for_their_modules():
    found = options_of({"strategy": Ditto, "adapt": ["none", Ditto]}, "simulate")
    path = "fedadapt.strategies.shared.ditto:Ditto"
    assert found == {"strategy": path, "adapt": f"none,{path}"}


class Local_:
    pass


Local_.__module__ = "__main__"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lrr": 1}, "simulate: unknown setting 'lrr'; did you mean 'lr'?"),
        ({"local-epochs": 1}, "unknown setting 'local-epochs'; did you mean 'local_epochs'?"),
        ({"lr": -1}, "lr: -1.0 is out of range; it must be > 0"),
        ({"rounds": 2.5}, "rounds: expected int, got float 2.5"),
        ({"strategy": "fedagv"}, "did you mean 'fedavg'?"),
        ({"strategy": Local_}, "other processes cannot import it; write it to a file"),
        ({"strategy_args": {"mu": [1]}}, "strategy_args: mu: [1]; a value is a number"),
        ({"server_share": 0.5}, "server-share: fedavg does not use it"),
        ({"resume": "nowhere"}, "config.toml is not there; name the folder of a run"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(fedadapt.InputError, match=re.escape(message)) as refused:
        fedadapt.simulate(**settings)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_settings_of_each_run_are_none_of_a_comparison():
    with pytest.raises(fedadapt.InputError, match="compare: unknown setting 'seed'"):
        fedadapt.compare("fedavg", seed=3)
    with pytest.raises(
        fedadapt.InputError, match="metrics: unknown 'f2'; known: balanced-accuracy, f1"
    ):
        fedadapt.compare("fedavg", metrics=["f2"])


# What came of it


def test_the_summary_is_that_of_the_file(run):
    told = json.loads((run.path / "summary.json").read_text())
    assert run.headline == told
    assert list(run.summary.index) == list(told["accuracy"])
    for label, numbers in told["accuracy"].items():
        row = run.summary.loc[label].to_dict()
        assert {k: v for k, v in row.items() if v == v} == {
            k: v for k, v in numbers.items() if v is not None
        }


def test_clients_have_a_row_each_whose_mean_is_the_summary_s(run):
    assert list(run.clients.index) == list(range(6))
    assert run.clients["seen"].sum() == 4
    seen = run.clients[run.clients["seen"]]
    for label in ("local", "base", "base+fine-tune"):
        mean = run.summary.loc[label, "mean"]
        assert seen[label].mean() == pytest.approx(mean, abs=1e-6)
    assert list(run.clients.columns)[-3:] == list(run.summary.index)


def test_tables_have_every_row(run):
    for table, kind in (
        (run.communication, fedadapt.records.CommunicationEntry),
        (run.losses, fedadapt.records.RoundLoss),
        (run.evaluations, fedadapt.records.Evaluation),
    ):
        assert len(table) == sum(1 for _ in table_rows(run.path, kind))
    sent = run.communication.query("phase == 'training'").bytes_up.sum()
    assert sent == run.headline["bytes_up"]
    assert set(run.evaluations["round"]) == {0, 1, 2, 3}


def test_figures_models_and_the_page_are_at_hand(run):
    assert {"before-and-after", "convergence", "distribution"} <= run.figures.keys()
    assert all(type(figure).__name__ == "Figure" for figure in run.figures.values())
    assert run.load(client=2, adaptation="fine-tune").card.client == 2
    page = run._repr_html_()
    assert "base+fine-tune" in page
    assert "data:image/png;base64," in page
    assert run.report.is_file()
    assert fedadapt.Run(str(run.path)).headline == run.headline


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(fedadapt.InputError, match=r"summary\.json"):
        fedadapt.Run(tmp_path)


def test_a_run_that_was_cut_off_goes_on(tmp_path):
    tiny.run_interrupted(tmp_path / "run", round=2, local=False, adapt="none")
    again = fedadapt.simulate(resume=tmp_path / "run", progress=False)
    assert again.path == tmp_path / "run"
    assert again.headline["evaluated_round"] == 3


def test_a_comparison_has_its_table_and_its_runs(tmp_path):
    small = {**SMALL, "adapt": ["none"], "adapt_args": None, "rounds": 1}
    comparison = fedadapt.compare(
        ["fedavg", ("fedprox", {"mu": 0.5})],
        seeds=[1, 2],
        sweep={"local_epochs": [1, 2]},
        out=tmp_path / "all",
        progress=False,
        **{name: value for name, value in small.items() if name != "local_epochs"},
    )
    table = comparison.table
    base = table[table["label"] == "base"]
    assert base["strategy"].tolist() == ["fedavg", "fedavg", "fedprox (mu=0.5)", "fedprox (mu=0.5)"]
    assert sorted(base["local-epochs"]) == [1, 1, 2, 2]
    assert (base["seeds"] == 2).all()
    assert len(comparison.runs) == 8
    assert comparison.path == tmp_path / "all"
    of_first = [r for r in comparison.runs if "fedavg-local-epochs=1" in str(r.path)]
    means = [run.summary.loc["base", "mean"] for run in of_first]
    assert base["mean"].iloc[0] == pytest.approx(np.mean(means), abs=1e-6)
    assert "fedprox" in comparison._repr_html_()
    assert (tmp_path / "all" / "comparison.csv").read_text().count("fedprox") == 2
    assert set(comparison.evaluations["seed"]) == {1, 2}


# In a notebook


class ZMQInteractiveShell:
    """What IPython's shell is called in a kernel of Jupyter."""


@pytest.fixture
def cell(monkeypatch) -> list[tuple[str, dict]]:
    """A cell that keeps what is displayed in it, and what replaces that."""
    shown: list[tuple[str, dict]] = []
    handle = SimpleNamespace(update=lambda bundle, raw: shown.append(("update", bundle)))

    def display(bundle, raw, display_id):
        shown.append(("display", bundle))
        return handle

    ipython = SimpleNamespace(get_ipython=ZMQInteractiveShell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    return shown


def test_only_a_kernel_of_jupyter_is_a_notebook(monkeypatch, cell):
    assert in_notebook()
    terminal = SimpleNamespace(get_ipython=lambda: None)
    monkeypatch.setitem(sys.modules, "IPython", terminal)
    assert not in_notebook()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not in_notebook()


def test_a_line_replaces_the_one_before(cell):
    line = NotebookLine()
    line.show("a < b", 1, 4)
    line.show("done", 4, 4)
    assert [how for how, _ in cell] == ["display", "update"]
    html = '<progress max="4" value="1"></progress> a &lt; b'
    assert cell[0][1] == {"text/plain": "a < b", "text/html": html}


def test_a_run_in_a_notebook_shows_one_line_until_its_end(cell):
    from fedadapt.runs.console import console

    now = [0.0]
    with Progress(console(progress=True), clock=lambda: now[0]) as progress:
        progress.start(0, 3)
        for number in (1, 2, 3):
            progress.round(number, 10)
            now[0] += 1.0
            progress.done(number, 0.5)
    assert [how for how, _ in cell] == ["display", "update", "update", "update"]
    assert 'value="3"' in cell[-1][1]["text/html"]
    assert cell[-1][1]["text/plain"] == "3 of 3 rounds, 3 s"


def test_without_progress_nothing_is_shown(cell, capsys):
    from fedadapt.runs.console import console

    assert console(progress=False) is None
    with Progress(None) as progress:
        progress.start(0, 1)
        progress.done(1, 0.5)
    assert (cell, capsys.readouterr()) == ([], ("", ""))


# Names in the shell


def completed(*words: str) -> list[str]:
    *before, begun = words
    completion = ShellComplete(main, {}, "fedadapt", "_FEDADAPT_COMPLETE")
    return [item.value for item in completion.get_completions(before, begun)]


def test_the_shell_completes_names():
    assert {"fedprox", "fedproto"} <= {*completed("simulate", "--strategy", "fedpr")}
    assert completed("simulate", "--track", "tensorboard,ml") == ["tensorboard,mlflow"]
    assert "none,adabn" in completed("simulate", "--adapt", "none,ada")
    assert completed("strategies", "ditt") == ["ditto"]
    assert "digits-tasks" in completed("compare", "--benchmark", "digits-t")


# The README on a package index


def absolute_links():
    spec = importlib.util.spec_from_file_location("links", ROOT / ".ci" / "absolute_links.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.absolute


def test_links_of_the_readme_can_be_made_absolute():
    source = "https://forge.example/us/fedadapt/"
    text = "[a](docs/a.md#b) ![p](docs/p.png) [w](https://w.org) [h](#here)\n```\n[c](d)\n```\n"
    assert absolute_links()(text, source, "v1") == (
        f"[a]({source}blob/v1/docs/a.md#b) ![p]({source}raw/v1/docs/p.png) "
        "[w](https://w.org) [h](#here)\n```\n[c](d)\n```\n"
    )
    readme = absolute_links()((ROOT / "README.md").read_text("utf-8"), source, "v1")
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", readme, flags=re.M | re.S))
    assert len(links) > 30
    assert all(link.startswith(("https://", "#")) for link in links)


def test_settings_are_all_of_a_run_s():
    settings = dict(vars(RunConfig()))
    assert options_of(settings, "simulate") == settings
