"""`fedadapt reproduce` of DUA, whole, on scikit-learn's digits."""

import json
from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner

from fedadapt.cli import main
from fedadapt.reproductions.dua.command import correlation, experiment, run
from fedadapt.simulations import compare as comparing
from fedadapt.simulations import run as runs
from fedadapt.simulations.results import summary

GIVEN = {"seeds": "7", "clients": 2, "examples": 20, "epochs": 1, "lr": 0.02}


def say(*words: object):
    return CliRunner().invoke(main, ["reproduce", *map(str, words)])


def planned(folder: Path, **changes: object):
    return experiment("dua-digits", {**GIVEN, "rounds": "2", "out": folder, **changes})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Table 3 of two seeds, and its folder."""
    wanted, folder = planned(tmp_path_factory.mktemp("table"), seeds="7,8")
    with pytest.MonkeyPatch.context() as patch:
        tiny.without_pictures(patch)
        run(wanted, folder)
    return wanted, folder


@pytest.fixture
def _done_already(monkeypatch):
    """Nothing may be run or trained any more."""

    def again(*arguments, **settings):
        raise AssertionError("it was done again")

    monkeypatch.setattr(runs, "simulate", again)
    monkeypatch.setattr("fedadapt.strategies.dua.experts.training.learn", again)


def test_a_table_leaves_its_runs_and_one_set_of_experts_a_seed(done):
    _, folder = done
    assert {p.name for p in folder.iterdir()} >= {
        "experts", "mas-racl-seed7", "fim-racl-seed7", "mas-racl-seed8", "fim-racl-seed8",
        "reproduction.md", "reproduction.json", "reproduction.png",
    }  # fmt: skip
    assert len(list((folder / "experts").iterdir())) == 2  # for both methods


def test_what_is_written_is_what_the_runs_found(done):
    _, folder = done
    metadata = json.loads((folder / "reproduction.json").read_text())
    read = [summary.read_summary(folder / f"mas-racl-seed{seed}") for seed in (7, 8)]
    first, second, *_ = metadata["rows"]
    for line, label in ((first, "personal"), (second, "base")):
        assert line["label"] == label
        assert line["accuracy"] == [s["tasks"][label]["accuracy"] for s in read]
        assert line["forgetting"] == [s["tasks"][label]["forgetting"] for s in read]
        assert line["matrix"][0][1] is None


@pytest.mark.usefixtures("_done_already")
def test_a_table_that_is_done_is_printed_and_not_run_again(done, capsys):
    run(*done)
    said = " ".join(capsys.readouterr().out.split())
    for word in ("MAS-RACL", "mas-racl: personal", "FIM-IMM > MAS-IMM", "The paper has no numbers"):
        assert word in said


@pytest.mark.usefixtures("_done_already")
def test_figure_3_goes_on_from_the_experts_of_the_table(done, capsys):
    wanted, folder = done
    correlation(wanted, folder)
    said = " ".join(capsys.readouterr().out.split())
    for word in ("published", "0.82", "user 1", "mean over users", "all seeds"):
        assert word in said
    metadata = json.loads((folder / "figure-3.json").read_text())
    assert [len(users) for users in metadata["rho"]] == [2, 2]
    assert (folder / "figure-3.png").stat().st_size > 10_000


@pytest.mark.slow
def test_table_4_has_all_methods_with_every_adaptation(tmp_path, capsys, monkeypatch):
    tiny.without_pictures(monkeypatch)
    wanted, folder = planned(tmp_path, table="4", model=tiny.NORM_MLP)
    run(wanted, folder)
    said = capsys.readouterr().out
    assert "task-experts: base+fine-tune" in said
    assert "mas-racl: personal+adabn-s" in said
    assert "LwF > EWC, MAS" in said
    assert "AdaBN-S > BN for every method" in said
    rows = json.loads((tmp_path / "reproduction.json").read_text())["rows"]
    assert len(rows) == 25
    assert len(list((tmp_path / "experts").iterdir())) == 5  # imm, mas, ewc, lwf, joint
    [joint] = [row for row in said.splitlines() if "joint: base " in row]
    assert joint.split()[-3:] == ["-", "-", "-"]  # there is no forgetting


def test_table_1_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = say("dua-numbers", "--table", 1)
    assert result.exit_code == 0, result.output
    assert "N L" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_published_stands_beside_measured_with_what_differs(tmp_path, capsys, monkeypatch):
    """Made up: the data are not at hand."""
    scores = {"accuracy": 0.9, "forgetting": 0.1, "forgetting_over_all": 0.05,
              "matrix": [[0.8, None], [0.9, 0.9]]}  # fmt: skip

    def made(config, console, **_):
        place = Path(config.out)
        place.mkdir(parents=True)
        (place / "manifest.json").write_text(json.dumps({"domains": ["usps", "mnist"]}))
        return {"tasks": {"base": scores, "personal": scores}, "seconds": 1.0}

    monkeypatch.setattr(comparing, "finished", made)
    monkeypatch.setattr("fedadapt.simulations.check.check", lambda config: None)
    run(*experiment("dua-numbers", {"seeds": "7,8", "rounds": "2", "out": tmp_path}))
    said = " ".join(capsys.readouterr().out.split())
    assert "Images are of USPS and MNIST, the paper's of MNIST and SVHN" in said
    assert "84.01 90.00 ±0.00 -0.22 5.00 ±0.00 10.00 ±0.00" in said  # over T, over T - 1
    assert "+3.32 +0.00" in said


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["dua-number"], "reproduce: unknown 'dua-number'; did you mean 'dua-numbers'?"),
        (["dua-digits", "--table", 9], "table: unknown '9'; known: 1, 2, 3, 4"),
        (["dua-digits", "--figure", 2], "figure: unknown '2'; known: 3"),
        (["dua-digits", "--preset", "code"], "strategy-args: preset: unknown 'code'"),
        (["dua-digits", "--draws", 6], "draw: 6 is out of range; it must be >= 1 and <= 5"),
        (["dua-digits", "--rounds", "5+3"], "rounds: '5+3'; DUA learns a task a round"),
        (["dua-digits", "--rounds", 6], "a round is a task, and digits-tasks has 5"),
        (["dua-digits", "--local-epochs", 3], "local-epochs: dua-digits has no such option"),
        (["dua-digits", "--table", 4], "adapt: adabn needs a network with batch normalisation"),
        (["dua-catprior", "--data-root", "."], "MIT Indoor Scenes are not there"),
        (["pfa-cifar10", "--preset", "paper"], "preset: pfa-cifar10 has no such option; it has"),
        (["pfa-cifar10", "--rounds", "5"], "rounds: '5'"),
        (["pfa-pacs", "--seeds", "1,1"], "seeds: '1,1'; give different whole numbers"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(words, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = say(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert reason in line
    assert list(tmp_path.iterdir()) == []
