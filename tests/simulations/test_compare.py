"""Several runs on the same clients: which, where, and which of them are already there."""

import csv
import json
from pathlib import Path

import pytest
import tiny
import tomli_w
from click.testing import CliRunner
from rich.console import Console

from fedadapt import results
from fedadapt.cli import main
from fedadapt.errors import InputError
from fedadapt.records import Evaluation
from fedadapt.simulations import compare as comparing
from fedadapt.simulations import run
from fedadapt.simulations.alone import TrainingAlone
from fedadapt.simulations.assembly import assemble
from fedadapt.simulations.results.parquet import table_rows
from fedadapt.simulations.studies.space import parse_space


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


def test_a_sweep_is_every_combination_and_arguments_are_those_of_their_strategy(tmp_path):
    axes = parse_space("lr=0.01,0.1; ditto.lam=1,2; fine-tune.epochs=3", "sweep")
    runs = comparing.plan(tiny.config(adapt_args=""), "fedavg; ditto", "1", tmp_path, axes)
    assert [(r.strategy, r.strategy_args, r.lr, r.adapt_args) for r in runs] == [
        ("fedavg", "", 0.01, "fine-tune.epochs=3"), ("fedavg", "", 0.1, "fine-tune.epochs=3"),
        ("ditto", "lam=1", 0.01, "fine-tune.epochs=3"),
        ("ditto", "lam=2", 0.01, "fine-tune.epochs=3"),
        ("ditto", "lam=1", 0.1, "fine-tune.epochs=3"),
        ("ditto", "lam=2", 0.1, "fine-tune.epochs=3"),
    ]  # fmt: skip
    assert len({r.out for r in runs}) == 6
    with pytest.raises(InputError, match="sweep: lr is a range; list its values"):
        comparing.plan(tiny.config(), "fedavg", "1", tmp_path, parse_space("lr=0.1..1", "sweep"))


def test_local_is_trained_once_for_the_same_clients_seed_and_settings(tmp_path, monkeypatch):
    """Its rows are the same as in a run by hand, and so are all others."""
    tiny.without_pictures(monkeypatch)
    base = tiny.config(rounds=2, adapt="none", workers=1)
    runs = comparing.plan(
        base, "fedavg; ditto", "1,2", tmp_path, parse_space("lr=0.1,0.2", "sweep")
    )
    trained = []
    train = TrainingAlone.train

    def counting(self, cohort, start=None):
        trained.append((self.training.optimizer.learning_rate, cohort.seed))
        return train(self, cohort, start)

    monkeypatch.setattr(TrainingAlone, "train", counting)
    comparing.carry_out(runs, tmp_path, Console(quiet=True))
    assert set(trained) == {(lr, seed) for lr in (0.1, 0.2) for seed in (1, 2)}
    once = len(trained)
    by_hand = tmp_path / "by-hand"
    tiny.run(by_hand, rounds=2, adapt="none", workers=1, strategy="ditto", lr=0.2, seed=2)
    assert len(trained) == once * 5 // 4
    [copied] = [r.out for r in runs if (r.strategy, r.lr, r.seed) == ("ditto", 0.2, 2)]
    assert same_rows(Path(copied), by_hand)


def same_rows(one, other):
    tables = (sorted(map(repr, table_rows(folder, Evaluation))) for folder in (one, other))
    return next(tables) == next(tables)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"strategy": "ditto"}, True),
        ({"adapt": "none", "curves": True, "workers": 3}, True),
        ({"lr": 0.3}, False),
        ({"rounds": 9}, False),
        ({"examples": 50}, False),
        ({"augmentation": "flip"}, False),
        ({"local": False}, False),
    ],
)
def test_training_alone_is_known_from_runs_that_do_not_differ_in_it(changes, same):
    assert comparing.same_alone(tiny.config(), tiny.config(**changes)) is same


def test_results_of_other_clients_are_not_taken_over(tmp_path, monkeypatch):
    tiny.without_pictures(monkeypatch)
    summary = tiny.run(tmp_path, rounds=1, adapt="none")
    assert run.known_alone(tmp_path, summary["manifest"])
    assert run.known_alone(tmp_path, "0" * 64) == ()


def test_folders_given_by_name_are_one_table_with_the_settings_that_differ(tmp_path, monkeypatch):
    """Runs made by hand, with other learning rates; and pandas has their rows."""
    tiny.without_pictures(monkeypatch)
    for lr in (0.02, 0.2):
        tiny.run(tmp_path / f"by-hand-{lr}", rounds=1, adapt="none,fine-tune", lr=lr,
                 adapt_args="fine-tune.epochs=1")  # fmt: skip
    folders = [str(tmp_path / f"by-hand-{lr}") for lr in (0.02, 0.2)]
    out = tmp_path / "table"
    how = {"env": {"COLUMNS": "200"}}
    made = CliRunner().invoke(
        main, ["compare", *folders, "--out", str(out), "--metrics", "f1,auc"], **how
    )
    assert made.exit_code == 0, made.output
    rows = list(csv.DictReader((out / "comparison.csv").read_text().splitlines()))
    assert [(row["label"], row["lr"]) for row in rows] == [
        ("local", "0.02"), ("local", "0.2"), ("base", "0.02"), ("base+fine-tune", "0.02"),
        ("base", "0.2"), ("base+fine-tune", "0.2"),
    ]  # fmt: skip
    for row in rows:
        summary = json.loads((tmp_path / f"by-hand-{row['lr']}" / "summary.json").read_text())
        assert float(row["mean"]) == summary["accuracy"][row["label"]]["mean"]
        assert float(row["f1"]) == summary["by_class"][row["label"]]["f1"]
        if row["label"] == "base+fine-tune":
            wanted = row["mean"], summary["accuracy"]["local"]["mean"]
            assert float(row["over_local"]) == pytest.approx(float(wanted[0]) - wanted[1], abs=1e-6)
    (tmp_path / "table" / "comparison.csv").unlink()
    whole = CliRunner().invoke(main, ["compare", str(tmp_path), "--metrics", "f1,auc"], **how)
    assert whole.stdout.splitlines() == made.stdout.splitlines()[:-4]
    refused = CliRunner().invoke(main, ["compare", *folders, "--lr", "0.1", "--seeds", "1"])
    assert "lr, seeds: the runs in" in refused.output
    assert refused.exit_code == 2

    frame = results.load(folders)
    assert list(frame.columns) == [*results.RUN, "lr", *results.ROW]
    assert set(frame.lr) == {0.02, 0.2}
    means = frame[frame.split == "test"].groupby(["lr", "label"]).accuracy.mean()
    for row in rows:
        assert means[float(row["lr"]), row["label"]] == pytest.approx(float(row["mean"]), abs=1e-6)
    assert frame.attrs["settings"]["clients"] == 6
    assert set(frame["round"]) == {1}
    assert set(results.load(tmp_path, rounds="all")["round"]) == {0, 1}


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("compare nowhere", "nowhere: no such folder; name folders of runs"),
        ("compare .", "holds no finished run, and no folder in it does"),
        ("compare --sweep lr=0.1,1 --lr 0.1", "lr: it is in what is tried; leave --lr out"),
        ("compare --sweep lr=0.1..1", "sweep: lr is a range"),
        ("compare --sweep pfa.q=1,2", "pfa is neither one of the strategies (fedavg)"),
        ("compare --sweep momentum=0.1,1.0", "momentum: 1.0 is out of range"),
        ("compare --settings nowhere.toml", "settings: nowhere.toml"),
        ("compare . --out /dev/null/x", "holds no finished run"),
        ("compare --metrics f2", "metrics: unknown 'f2'; known: balanced-accuracy, f1, auc"),
        ("simulate --lr-schedule step:0:0.1", "lr-schedule: 'step:0:0.1'; it must be constant, co"),
        ("simulate --optimizer adam --momentum 0.9", "momentum: optimizer=adam does not use it"),
        ("simulate --strategy scaffold --optimizer adam", "optimizer: scaffold does not use it"),
    ],
)
def test_what_cannot_be_compared_is_one_line(line, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, line.split())
    assert result.exit_code == 2
    assert what in result.output
    assert len(result.output.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
