"""Several runs on the same clients: which, where, and which of them are already there."""

import csv
import json
from pathlib import Path

import pytest
import tiny
import tomli_w
from rich.console import Console

from fedadapt.errors import InputError
from fedadapt.simulations import compare as comparing
from fedadapt.simulations import run
from fedadapt.simulations.assembly import assemble


def test_every_strategy_runs_with_every_seed(tmp_path):
    runs = comparing.plan(tiny.config(), "fedavg; fedavg mu=0.1 ;fedadam eta=1", "3, 1", tmp_path)
    assert [(r.strategy, r.strategy_args, r.seed) for r in runs] == [
        (name, arguments, seed)
        for name, arguments in (("fedavg", ""), ("fedavg", "mu=0.1"), ("fedadam", "eta=1"))
        for seed in (3, 1)
    ]
    assert len({r.out for r in runs}) == 6
    assert all(Path(r.out).parent == tmp_path for r in runs)


def test_compared_runs_differ_in_strategy_seed_and_folder_only(tmp_path):
    base = tiny.config(lr=0.01, benchmark="digits-domains")
    [run] = comparing.plan(base, "krum", "5", tmp_path)
    changed = {k for k, v in run.to_mapping().items() if v != base.to_mapping()[k]}
    assert changed == {"strategy", "seed", "out"}


@pytest.mark.parametrize("text", ["fedavg mu=1", "a.b:C x='y z' p=/q"])
def test_a_run_s_folder_is_one_name(tmp_path, text):
    [run] = comparing.plan(tiny.config(), text, "1", tmp_path)
    assert Path(run.out).parent == tmp_path
    assert " " not in Path(run.out).name


@pytest.mark.parametrize(
    ("strategies", "seeds", "line"),
    [
        ("", "1", "strategies: nothing given; separate strategies by ';'"),
        (" ; ", "1", "strategies: nothing given"),
        ("fedavg;fedavg", "1", "strategies: fedavg is given twice"),
        ("fedavg mu=1;fedavg  mu=1", "1", "strategies: fedavg-mu=1 is given twice"),
        ("fedavg", "", "seeds: ''; give whole numbers separated by commas"),
        ("fedavg", "1.5", "seeds: '1.5'; give whole numbers separated by commas"),
        ("fedavg", "1,1", "seeds: 1 is given twice"),
        ("fedavg", "1,-1", "seed: -1 is out of range"),
    ],
)
def test_malformed_lists_are_refused(tmp_path, strategies, seeds, line):
    with pytest.raises(InputError) as refused:
        comparing.plan(tiny.config(), strategies, seeds, tmp_path)
    assert str(refused.value).startswith(line)


def test_runs_go_into_the_folder_asked_for_or_one_named_after_the_benchmark():
    base = tiny.config(benchmark="folder:/data/x y")
    assert comparing.folder_of(base, Path("mine")) == Path("mine")
    assert comparing.folder_of(base, None) == Path("runs/compare-folder-data-x-y")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    tiny.without_pictures(monkeypatch)
    assemble.cache_clear()
    base = tiny.config(rounds=2, adapt="none")
    return comparing.plan(base, "fedavg;fedavgm", "1,2", tmp_path)


def test_a_cut_off_comparison_goes_on_where_it_was(runs, tmp_path, monkeypatch):
    """One run is finished, one cut off in its second round, two are not there."""
    quiet = Console(quiet=True)
    comparing.carry_out(runs[:1], tmp_path, quiet)
    first = (Path(runs[0].out) / "summary.json").stat().st_mtime_ns
    changes = {"rounds": 2, "adapt": "none", "seed": 2, "out": runs[1].out}
    tiny.run_interrupted(Path(runs[1].out), round=2, **changes)
    assert not (Path(runs[1].out) / "summary.json").exists()
    how = []
    simulate = run.simulate
    monkeypatch.setattr(
        run, "simulate",
        lambda *a, resume, **k: (how.append(resume), simulate(*a, resume=resume, **k))[1],
    )  # fmt: skip
    table, files = comparing.carry_out(runs, tmp_path, quiet)
    assert how == [True, False, False]
    assert (Path(runs[0].out) / "summary.json").stat().st_mtime_ns == first
    assert [(line.strategy, line.num_seeds) for line in table.lines] == [
        ("no federation", 2),
        ("fedavg", 2),
        ("fedavgm", 2),
    ]
    [table_csv] = [f for f in files if f.suffix == ".csv"]
    rows = list(csv.DictReader(table_csv.read_text().splitlines()))
    assert len(rows) == 3
    for row in rows:
        means = [
            json.loads((Path(r.out) / "summary.json").read_text())["accuracy"][row["label"]]["mean"]
            for r in runs
            if row["strategy"] in (r.strategy, "no federation")
        ]
        assert float(row["mean"]) == pytest.approx(sum(means) / len(means), abs=1e-6)


def test_a_folder_cut_off_before_its_first_checkpoint_is_begun_anew(runs, tmp_path):
    place = Path(runs[0].out)
    place.mkdir(parents=True)
    (place / "config.toml").write_text(tomli_w.dumps(runs[0].to_mapping()))
    comparing.carry_out(runs[:1], tmp_path, Console(quiet=True))
    assert (place / "summary.json").exists()


def test_a_folder_with_other_settings_is_refused_by_their_names(runs, tmp_path):
    quiet = Console(quiet=True)
    comparing.carry_out(runs[:1], tmp_path, quiet)
    others = comparing.plan(tiny.config(rounds=3, adapt="none", lr=0.1), "fedavg", "1", tmp_path)
    with pytest.raises(InputError) as refused:
        comparing.carry_out(others, tmp_path, quiet)
    assert "holds a run with other settings (rounds, lr); name another --out" in str(refused.value)
