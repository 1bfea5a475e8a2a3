"""``--track`` wherever runs are made: over Flower, in a comparison, in a reproduction, deployed."""

import json
import tomllib
from pathlib import Path

import over_grid
import pytest
import tiny
from click.testing import CliRunner

from fedadapt.cli import main
from fedadapt.config import RunConfig
from fedadapt.deploy.runs import run as deployed
from fedadapt.flower.grid_over_clients import flower_identity
from fedadapt.simulations.assembly import assemble

OWN = "recording_tracker:Recording"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    tiny.without_pictures(monkeypatch)
    assemble.cache_clear()


def told(run: Path) -> list[list]:
    """What the tracker of a run was told, in order."""
    lines = (run.parent / f"{run.name}.tracked").read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_tracked(run: Path) -> None:
    """It was told of a run from its beginning to its end, and in the last round of the summary."""
    words = [line[0] for line in told(run)]
    assert words[0] == "begin"
    assert words[-1] == "finish"
    assert set(words[1:-1]) == {"log"}
    summary = json.loads((run / "summary.json").read_text())
    assert told(run)[-1][1] == summary
    last: dict[str, float] = {}
    for word, *rest in told(run):
        if word == "log":
            last |= rest[1]
    for label, numbers in summary["accuracy"].items():
        assert last[f"test/{label}/accuracy"] == pytest.approx(numbers["mean"], abs=1e-6)
        assert last[f"test/{label}/clients"] == numbers["num_clients"]
    for way in ("bytes_up", "bytes_down"):
        assert last.get(f"communication/training/{way}", 0) == summary[way]


def logged(run: Path) -> dict[tuple[int, str], float]:
    return {
        (line[1], name): value
        for line in told(run)
        if line[0] == "log"
        for name, value in line[2].items()
    }


# Over Flower

OVER = {"rounds": 2, "clients": 3, "adapt": "none", "evaluate_every": 1, "track": OWN}


def test_over_flower_the_server_tells_the_same_numbers_as_a_simulation(tmp_path):
    config = over_grid.settings(tmp_path / "there", **OVER)
    with flower_identity():
        over_grid.serve(over_grid.grid(config, tmp_path), config)
    assert_tracked(tmp_path / "there")
    tiny.run(tmp_path / "here", **OVER)
    found, wanted = logged(tmp_path / "there"), logged(tmp_path / "here")
    computed = ("test/", "global/", "train/")
    assert {k for k in found if k[1].startswith(computed)} == {
        k for k in wanted if k[1].startswith(computed)
    }
    for key, value in wanted.items():
        if key[1].startswith(computed):
            assert found[key] == pytest.approx(value, rel=1e-4), key


def test_over_flower_a_run_that_goes_on_is_the_same_run_to_its_tracker(tmp_path):
    config = over_grid.settings(tmp_path / "out", **OVER)
    with flower_identity():
        over_grid.serve(over_grid.grid(config, tmp_path), config)
        more = tomllib.loads((tmp_path / "out" / "resume.toml").read_text()) | {"rounds": 3}
        over_grid.serve(over_grid.grid(more, tmp_path, run_id=2), more)
    begun = [line[1:3] for line in told(tmp_path / "out") if line[0] == "begin"]
    assert begun == [["", 0], ["id-of-out", 2]]
    assert [line[1] for line in told(tmp_path / "out") if line[0] == "log"] == [0, 1, 2, 2, 3]
    ended = [line[1] for line in told(tmp_path / "out") if line[0] == "finish"]
    assert [summary["rounds"] for summary in ended] == [2, 3]
    assert ended[-1] == json.loads((tmp_path / "out" / "summary.json").read_text())


def test_a_run_on_real_clients_hands_its_trackers_to_the_server(tmp_path, monkeypatch):
    """The server is the one above; it reads the file that is submitted."""
    submitted = []

    def flwr(deployment, *words):
        submitted.append(tomllib.loads(Path(words[words.index("--run-config") + 1]).read_text()))
        return {"run-id": 7}

    class Deployment:
        folder = tmp_path

    monkeypatch.setattr(deployed, "is_up", lambda deployment: True)
    monkeypatch.setattr(deployed, "flwr", flwr)
    config = tiny.config(track="tensorboard,mlflow")
    assert deployed._submit(Deployment(), config.to_mapping()) == "7"
    assert submitted[0]["track"] == "tensorboard,mlflow"
    assert RunConfig.from_mapping(submitted[0]) == config


# In studies


def invoke(*words: object) -> None:
    result = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_each_run_of_a_comparison_is_tracked_once_also_if_it_is_made_in_two_goes(tmp_path):
    options = [*tiny.options(rounds=2, adapt="none"), "--track", OWN, "--out", tmp_path / "c"]
    options = [str(word) for word in options if word != "--adapt-args"]
    options = [word for word in options if word != "fine-tune.epochs=2"]
    invoke("compare", "--strategies", "fedavg", "--seeds", "1", *options)
    invoke("compare", "--strategies", "fedavg; ditto lam=0.5", "--seeds", "1,2", *options)
    runs = [path for path in (tmp_path / "c").iterdir() if path.is_dir()]
    assert len(runs) == 4
    for run in runs:
        assert_tracked(run)
        [begun] = [line for line in told(run) if line[0] == "begin"]
        assert f"{begun[3]['strategy']}-" in run.name
        assert begun[3]["seed"] == int(run.name[-1])


def test_each_run_of_a_reproduction_is_tracked(tmp_path):
    invoke(
        *("reproduce", "dua-digits", "--rounds", 2, "--seeds", 7, "--clients", 2, "--examples", 20),
        *("--epochs", 1, "--lr", 0.02, "--track", OWN, "--out", tmp_path / "r"),
    )
    runs = [path for path in (tmp_path / "r").iterdir() if (path / "summary.json").exists()]
    assert {run.name for run in runs} == {"mas-racl-seed7", "fim-racl-seed7"}
    for run in runs:
        assert_tracked(run)
