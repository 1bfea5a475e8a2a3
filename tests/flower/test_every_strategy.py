"""Every strategy of the registry, over a Grid in memory, on clients with pictures of their own.

What a strategy needs for it is told by its class and by the signature of its constructor, never by
its name: a new line of the registry is a new case here.
"""

import json
from functools import lru_cache
from pathlib import Path

import own_pictures
import pytest
import tiny
from fake_grid import FakeGrid
from flwr.app import Context, RecordDict

from fedadapt.client.identity import own_identity
from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.flower import client_source, egress
from fedadapt.flower.client_app import app
from fedadapt.flower.grid_over_clients import flower_identity
from fedadapt.flower.server_app import app as server
from fedadapt.flower.stock.arguments import constructor_parameters
from fedadapt.simulations.results.parquet import read_communication, read_evaluations
from fedadapt.simulations.unused import OF_STRATEGIES
from fedadapt.strategies.registry import STRATEGIES, find, is_flowers, select

pytestmark = pytest.mark.slow  # half a minute for all of them

COUNTS = (
    {"across": 8, "down": 9},
    {"across": 6, "down": 6, "slanted": 6},
    {"down": 10, "slanted": 4},
)
"""No client has all three classes, but one."""
OF_TASKS = {"across": 5, "down": 5, "slanted": 5, "crossed": 5}
"""A client's pictures where the server learns tasks; it then lacks no class of any."""
TASKS = ({"across": 6, "down": 6}, {"crossed": 6, "slanted": 6})

NETWORKS = ("mlp", tiny.NORM_MLP, "over_grid:prompted")
"""Without and with batch norm, and with attention and prompts: a strategy takes the first it can
work with, and refuses the others in a line."""

BRIEF = {
    "benchmark": "own", "clients": 3, "image-size": 8, "rounds": 1,
    "local-epochs": 1, "lr": 0.01, "adapt": "none", "node-wait": 0.01, "save-models": "none",
    "evaluate-every": 9, "global-test": "none", "local": False, "execution": "sequential",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _task(monkeypatch):
    tiny.without_pictures(monkeypatch)
    monkeypatch.setattr("fedadapt.flower.nodes.POLL", 0.005)
    for name in ("own_data", "own_assembly"):  # of all clients at once: they share a process here
        whole = getattr(client_source, name).__wrapped__
        monkeypatch.setattr(client_source, name, lru_cache(maxsize=3)(whole))
    with flower_identity():
        yield


@pytest.fixture(scope="session")
def machines(tmp_path_factory) -> Path:
    """Disks of three clients and of a server, with pictures; runs of all strategies use them."""
    root = tmp_path_factory.mktemp("machines")
    for kind in ("some", "tasks"):
        states = {n: root / kind / f"state-{n}" for n in range(len(COUNTS))}
        for n, state in states.items():
            own_pictures.give_identity(state, n)
        order = sorted(states, key=lambda n: own_identity(states[n]))
        for rank, n in enumerate(order):
            states[n].rename(root / kind / f"disk-{rank}")
            counts = COUNTS[rank] if kind == "some" else OF_TASKS
            own_pictures.write_pictures(root / kind / f"pictures-{rank}", counts, seed=rank)
    for n, task in enumerate(TASKS):
        own_pictures.write_pictures(root / "tasks" / "server" / f"task-{n}", task, seed=90 + n)
    own_pictures.write_pictures(
        root / "some" / "server", {"across": 6, "down": 6, "slanted": 6}, seed=80
    )
    return root


def nodes_of(folder: Path) -> dict[int, dict]:
    return {
        node: {
            "images": str(folder / f"pictures-{rank}"), "state-dir": str(folder / f"disk-{rank}"),
            "modules": "third_party,over_grid",
        }
        for rank, node in enumerate((901, 17, 530))
    }  # fmt: skip


def settings_of(name: str, folder: Path) -> dict:
    """The shortest run in which the strategy does all that it does."""
    given = {**BRIEF, "strategy": name}
    if needs_server(name):
        given["server-data"] = str(folder / "server")
    else:
        given["classes"] = "across,down,slanted"
    if learns_tasks(name):
        given |= {"rounds": len(TASKS), "strategy-args": "epochs=1"}
        del given["local"], given["global-test"]
    if is_flowers(find(name)):
        needed = (constructor_parameters(find(name)) or {}).items()
        values = [f"{n}=0.05" for n, parameter in needed if parameter.default is parameter.empty]
        given["strategy-args"] = " ".join(values)
    while True:
        try:
            used = select(RunConfig.from_mapping(given)).settings
            return {key: v for key, v in given.items() if key not in OF_STRATEGIES - used}
        except InputError as error:  # it has stages, of at least a round each
            if "rounds: " not in str(error) or given["rounds"] > 4:
                raise
            given["rounds"] += 1


def learns_tasks(name: str) -> bool:
    return not is_flowers(find(name)) and find(name).learns_tasks


def needs_server(name: str) -> bool:
    """Whether the server trains, on pictures of its own, and clients do not."""
    return not is_flowers(find(name)) and (find(name).learns_tasks or find(name).trains_on_server)


@pytest.mark.parametrize("name", STRATEGIES.ours)
def test_a_strategy_runs_on_clients_with_pictures_of_their_own(machines, tmp_path, name):
    """All answers of all clients are accepted, nothing is withheld, and each client has its rows.

    A network that a strategy cannot work with is refused in one line before anybody trains.
    """
    folder = machines / ("tasks" if learns_tasks(name) else "some")
    given = settings_of(name, folder)
    for number, model in enumerate(NETWORKS):
        out = tmp_path / f"out-{number}"
        config = RunConfig.from_mapping({**given, "model": model, "out": str(out)}).to_mapping()
        grid = FakeGrid(app, nodes_of(folder), config)
        refusal = refusal_of(grid, config)
        if refusal is None:
            break
        assert "\n" not in refusal
        assert {kind for kind, _ in grid.sent} <= {"query.hello"}
    assert refusal is None
    summary = json.loads((out / "summary.json").read_text())
    outcomes = summary["outcomes"]
    assert outcomes["accepted"] == sum(outcomes.values()) > 0
    assert {entry.outcome for entry in read_communication(out)} == {"accepted"}
    assert not any(egress.WITHHELD in reply.content for reply in grid.replies)
    kinds = {kind for kind, _ in grid.sent}
    assert kinds >= {"query.hello", "evaluate"}
    assert ("train" in kinds) != needs_server(name)
    declared = set(getattr(find(name), "query_types", ()))
    assert {kind for kind in kinds if kind.startswith("query.")} <= declared | {"query.hello"}
    rows = [row for row in read_evaluations(out) if row.round == config["rounds"]]
    for model in {row.model for row in rows}:
        assert {row.client for row in rows if row.model == model} == {0, 1, 2}
    assert {row.model for row in rows} >= {"base"}


def refusal_of(grid: FakeGrid, config: dict) -> str | None:
    """Run; the words of the one line in which the run was refused."""
    try:
        server(grid, Context(1, 1, {}, RecordDict(), config))
    except InputError as error:
        return str(error)
    return None
