"""Clients with pictures of their own: the whole run over a Grid in memory."""

import json
from pathlib import Path

import own_pictures
import pytest
import tiny
import torch
from fake_grid import FakeGrid
from flwr.app import Context, RecordDict
from safetensors.torch import load_file

from fedadapt.client.identity import own_identity
from fedadapt.flower import client_source
from fedadapt.flower.client_app import app
from fedadapt.flower.grid_over_clients import flower_identity
from fedadapt.flower.server_app import app as server
from fedadapt.simulations.results.parquet import read_evaluations

COUNTS = (
    {"across": 8, "down": 9},
    {"across": 6, "down": 6, "slanted": 6},
    {"down": 10, "slanted": 4},
)
SETTINGS = {
    "clients": 3, "image-size": own_pictures.SIZE, "rounds": 2, "local-epochs": 1, "lr": 0.01,
    "adapt": "none,fine-tune", "adapt-args": "fine-tune.epochs=1", "node-wait": 0.01,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _task(monkeypatch):
    tiny.without_pictures(monkeypatch)
    monkeypatch.setattr("fedadapt.flower.nodes.POLL", 0.005)
    client_source.own_assembly.cache_clear()
    with flower_identity():
        yield


@pytest.fixture
def clients(tmp_path) -> dict[str, dict]:
    """Node configurations by name; folders are named in the order of the fingerprints."""
    states = {n: tmp_path / f"state-{n}" for n in range(len(COUNTS))}
    for n, state in states.items():
        own_pictures.give_identity(state, n)
    order = sorted(states, key=lambda n: own_identity(states[n]))
    configs = {}
    for rank, n in enumerate(order):
        images = tmp_path / "pictures" / f"client-{rank}"
        own_pictures.write_pictures(images, COUNTS[rank], seed=rank)
        configs[f"client-{rank}"] = {
            "images": str(images), "state-dir": str(states[n]), "share": "classes,normalization",
        }  # fmt: skip
    return configs


def run_config(folder: Path, **changes) -> dict:
    given = {**SETTINGS, **{k.replace("_", "-"): v for k, v in changes.items()}}
    if given["adapt"] == "none":
        given["adapt-args"] = ""
    return tiny.RunConfig.from_mapping(
        {"benchmark": "own", "out": str(folder), **given}
    ).to_mapping()


def grid_of(clients: dict[str, dict], config: dict) -> FakeGrid:
    nodes = (901, 17, 530, 4, 88)[: len(clients)]
    return FakeGrid(app, dict(zip(nodes, clients.values(), strict=True)), config)


def run_server(grid: FakeGrid, config: dict) -> dict:
    server(grid, Context(1, 1, {}, RecordDict(), config))
    return json.loads((Path(config["out"]) / "summary.json").read_text())


@pytest.mark.parametrize(
    "changes",
    [
        {"normalization": "data"},
        {"classes": "slanted,down,across", "strategy": "fedrep", "model": "cnn"},
        {"strategy": "pfa", "strategy_args": "groups=2", "model": "cnn", "rounds": 3},
    ],
    ids=["pooled", "given", "pfa"],
)
def test_the_same_pictures_over_flower_and_as_a_simulation_give_the_same_accuracies(
    tmp_path, clients, changes
):
    """Classes agreed or given, scaling fixed or pooled: the server has seen none of the data."""
    check_that_both_are_alike(tmp_path, clients, changes)


def check_that_both_are_alike(tmp_path: Path, clients: dict[str, dict], changes: dict) -> None:
    there = run_config(tmp_path / "there", **changes)
    found = run_server(grid_of(clients, there), there)
    here = {**changes, "benchmark": f"own:{tmp_path / 'pictures'}"}
    here_config = {
        k: v for k, v in run_config(tmp_path / "here", **here).items() if k != "node-wait"
    }
    wanted = tiny.run(tmp_path / "here", **{k.replace("-", "_"): v for k, v in here_config.items()})
    assert found["accuracy"] == wanted["accuracy"]
    rows_here, rows_there = (read_evaluations(tmp_path / place) for place in ("here", "there"))
    assert len(rows_here) == len(rows_there) > 0
    for one, other in zip(rows_here, rows_there, strict=True):
        assert one._replace(kind="", loss=0.0) == other._replace(kind="", loss=0.0)
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
    bases = {p.relative_to(tmp_path / "here") for p in (tmp_path / "here/models").rglob("base.*")}
    assert bases
    for path in bases:
        one, other = (load_file(tmp_path / place / path) for place in ("here", "there"))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("merge_on", ["server", "client"])
def test_experts_of_the_server_s_own_pictures_are_merged_for_clients_with_theirs(
    tmp_path, clients, merge_on
):
    """Two tasks; the clients lack no class of either."""
    for rank, config in enumerate(clients.values()):
        own_pictures.write_pictures(
            Path(config["images"]), {"slanted": 5, "crossed": 5, "across": 5}, seed=50 + rank
        )
    for n, task in enumerate(({"across": 9, "down": 9}, {"crossed": 9, "slanted": 9})):
        own_pictures.write_pictures(tmp_path / "server" / f"task-{n}", task, seed=90 + n)
    changes = {
        "strategy": "mas-racl", "strategy_args": f"epochs=2 merge_on={merge_on}", "adapt": "none",
        "server_data": str(tmp_path / "server"), "local_epochs": 5, "lr": 0.05, "model": "cnn",
    }  # fmt: skip
    check_that_both_are_alike(tmp_path, clients, changes)
