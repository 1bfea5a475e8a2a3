"""Ditto in a file of its own, which no file of the package knows: everything works with it.

The package has a Ditto as well, so what comes of a run is known to the bit.
"""

import json
import os
import signal

import pytest
import tiny
from flwr_command import flower_command, run_flower
from test_examples import EXAMPLES
from test_whole_runs import started_until

from fedadapt.server.checkpoint import load_latest
from fedadapt.simulations.results.parquet import read_evaluations
from fedadapt.strategies.listing import listing
from fedadapt.strategies.registry import STRATEGIES
from fedadapt.testing import strategy_contract

PATH = "ditto:Ditto"
RUN = {"strategy_args": "lam=0.5", "adapt": "none", "fraction": 0.5, "rounds": 4}


@pytest.fixture(autouse=True)
def _on_the_path(tmp_path_factory, monkeypatch):
    """Its folder, and a package with an entry point, are found by this process and by others."""
    installed = tmp_path_factory.mktemp("installed")
    info = installed / "mine-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[fedadapt.strategies]\nmy-ditto = {PATH}\n")
    for folder in (str(EXAMPLES), str(installed)):
        monkeypatch.syspath_prepend(folder)
        path = [folder, os.environ.get("PYTHONPATH", "")]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path).rstrip(os.pathsep))
    tiny.without_pictures(monkeypatch)


def test_the_ditto_example_is_short():
    assert len((EXAMPLES / "ditto.py").read_text("utf-8").splitlines()) <= 40


@pytest.mark.parametrize("check", strategy_contract, ids=lambda check: check.__name__)
def test_it_keeps_the_contract(check):
    check(PATH, {"lam": 0.5})


def test_it_is_listed_by_the_name_that_its_package_gives_it():
    assert "my-ditto" in STRATEGIES.names()
    assert "my-ditto" in listing().names
    table = listing("my-ditto").renderables[3]
    assert next(iter(table.columns[0].cells)) == "lam"


def personal_models(folder) -> dict:
    return {c: dict(parts["personal"]) for c, parts in load_latest(folder).states.items()}


def assert_same_run(folder, wanted):
    assert tiny.same_bits(tiny.base(folder), tiny.base(wanted))
    found, expected = personal_models(folder), personal_models(wanted)
    assert found.keys() == expected.keys() != set()
    assert all(tiny.same_bits(found[client], expected[client]) for client in expected)
    assert read_evaluations(folder) == read_evaluations(wanted)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """A run of the package's own Ditto."""
    folder = tmp_path_factory.mktemp("ours")
    with pytest.MonkeyPatch.context() as patch:
        tiny.without_pictures(patch)
        tiny.run(folder, strategy="ditto", workers=1, **RUN)
    return folder


@pytest.mark.parametrize("name", [PATH, "my-ditto"])
@pytest.mark.parametrize("workers", [1, 2])
def test_it_runs_as_ours_does_by_either_name(tmp_path, ours, name, workers):
    tiny.run(tmp_path, strategy=name, workers=workers, **RUN)
    assert_same_run(tmp_path, ours)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.filterwarnings(  # Ray leaves files of its own open
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_it_runs_on_ray(tmp_path, ours, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        tiny.run(tmp_path, strategy=PATH, engine="ray", workers=2, **RUN)
    finally:
        ray.shutdown()
    assert_same_run(tmp_path, ours)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    changes = {"strategy": PATH, "rounds": 20, "fraction": 0.5, "adapt": "none", "workers": 1}
    command = started_until(tmp_path / "cut", 2, **changes, adapt_args="")
    command.kill()
    command.communicate()
    assert command.returncode == -signal.SIGKILL
    assert load_latest(tmp_path / "cut").round < changes["rounds"]
    tiny.run(tmp_path / "whole", **changes)
    tiny.run(tmp_path / "cut", resume=True, **changes)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.flower
@pytest.mark.timeout(240)
def test_it_runs_under_flwr_run(tmp_path):
    changes = {"strategy": PATH, "strategy-args": "lam=0.5", "rounds": 2, "adapt": "none",
               "adapt-args": ""}  # fmt: skip
    wanted = tiny.run(tmp_path / "here", clients=2, **changes)
    out = tmp_path / "there"
    given = {k: v for k, v in (tiny.SETTINGS | changes).items() if k != "clients"} | {"out": out}
    with flower_command(tmp_path) as flwr:
        run_flower(flwr, 2, given)
    found = json.loads((out / "summary.json").read_text())
    same = ("accuracy", "manifest", "messages", "outcomes")
    assert {k: found[k] for k in same} == {k: wanted[k] for k in same}
