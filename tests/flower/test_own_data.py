"""Clients with pictures of their own: the whole run over a Grid in memory."""

import json
import tomllib
from pathlib import Path

import own_pictures
import pytest
import tiny
import torch
from fake_grid import FakeGrid, edited
from flwr.app import Context, RecordDict
from safetensors.torch import load_file

import fedadapt
from fedadapt.client.identity import own_identity
from fedadapt.datasets.own.of_run import pictures_of_run
from fedadapt.datasets.own.own_data import OwnSource, read_own_data
from fedadapt.datasets.own.schema import Schema
from fedadapt.errors import InputError, QuorumLostError, RefusedError
from fedadapt.flower import client_source, records
from fedadapt.flower.client_app import app
from fedadapt.flower.grid_over_clients import flower_identity
from fedadapt.flower.server_app import app as server
from fedadapt.simulations.check import check
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
    client_source.own_data.cache_clear()
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"normalization": "data", "model": "cnn"},
        {"classes": "slanted,down,across", "strategy": "fedrep"},
        {"strategy": "pfa", "strategy_args": "groups=2", "rounds": 3},
        {"strategy": "taper", "rounds": 4, "classes": "across,down,slanted", "adapt": "none"},
    ],
    ids=["pooled", "given", "pfa", "taper"],
)
def test_the_same_pictures_over_flower_and_as_a_simulation_give_the_same_accuracies(
    tmp_path, clients, changes
):
    """Classes agreed or given, scaling fixed or pooled: the server has seen none of the data."""
    check_that_both_are_alike(tmp_path, clients, changes)


def check_that_both_are_alike(tmp_path: Path, clients: dict[str, dict], changes: dict) -> dict:
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
    return there


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
        "server_data": str(tmp_path / "server"), "local_epochs": 5, "lr": 0.05,
    }  # fmt: skip
    check_that_both_are_alike(tmp_path, clients, changes)


@pytest.mark.parametrize("normalization", ["auto", "data"])
def test_the_server_trains_on_pictures_of_its_own_for_clients_with_theirs(
    tmp_path, clients, normalization
):
    """Which classes there are, the server's folder says; nobody is asked for sums of pixels."""
    own_pictures.write_pictures(
        tmp_path / "server", {"across": 8, "crossed": 8, "down": 8, "slanted": 8}, seed=80
    )
    changes = {
        "strategy": "taper-server", "rounds": 4, "adapt": "none", "local_epochs": 3,
        "normalization": normalization, "server_data": str(tmp_path / "server"),
    }  # fmt: skip
    config = check_that_both_are_alike(tmp_path, clients, changes)
    rows = read_evaluations(tmp_path / "there")
    assert {row.model for row in rows} == {"base", "personal", "local"}
    agreed = json.loads((tmp_path / "there" / "agreement.json").read_text())
    assert Schema.from_text(agreed["schema"]).classes == ("across", "crossed", "down", "slanted")
    assert not config["classes"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"strategy": "taper-server"}, "server-data: taper-server trains on pictures of the serv"),
        ({"server_data": "."}, "server-data: fedavg has no use for pictures of the server; leave"),
        ({"strategy": "taper-server", "server_share": 0.2}, "server-share: own data do not use it"),
    ],
)
def test_pictures_of_the_server_go_with_who_trains_on_them(changes, line):
    with pytest.raises(InputError) as refused:
        check(tiny.RunConfig.from_mapping(run_config(Path("x"), rounds=4, **changes)), flower=True)
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


def test_a_server_without_two_classes_is_refused(tmp_path, clients):
    own_pictures.write_pictures(tmp_path / "server", {"down": 8}, seed=80)
    config = run_config(
        tmp_path / "out", strategy="taper-server", rounds=4, server_data=str(tmp_path / "server")
    )
    grid = grid_of(clients, config)
    with pytest.raises(InputError, match="server-data: pictures of 1 classes can be read"):
        run_server(grid, config)
    assert grid.sent == []


def run_of(tmp_path: Path, nodes: dict[int, dict], **changes) -> tuple[dict, FakeGrid]:
    config = run_config(tmp_path / "out", rounds=1, adapt="none", **changes)
    grid = FakeGrid(app, nodes, config)
    return run_server(grid, config), grid


def test_no_node_stops_a_run_and_each_is_told_why(tmp_path, clients, caplog):
    """Three good clients among eight nodes; two of these are one another's double."""
    good = list(clients.values())
    double = {**good[0], "state-dir": str(tmp_path / "double")}
    nodes = dict(zip((5, 3, 8), good, strict=True))
    nodes[1] = {"images": good[0]["images"]}
    nodes[2] = {"state-dir": str(tmp_path / "new"), "images": str(tmp_path / "nowhere")}
    nodes[4] = nodes[9] = double
    few = tmp_path / "few"
    own_pictures.write_pictures(few, {"down": 2}, seed=3)
    nodes[7] = {"images": str(few), "state-dir": str(tmp_path / "few-state"), "share": "classes"}
    summary, grid = run_of(tmp_path, nodes, clients=5)
    assert summary["outcomes"]["accepted"] == sum(summary["outcomes"].values()) > 0
    assert {node for kind, node in grid.sent if kind == "train"} == {3, 5, 8}
    for line in (
        "client at node 1: its owner has not said where it may write",
        "client at node 2: its folder of pictures is missing",
        "client at node 4: says it is",
        "client at node 9: says it is",
        "it has too few pictures to train on",
    ):
        assert line in caplog.text


def test_one_more_client_than_wanted_is_left_alone(tmp_path, clients, caplog):
    nodes = dict(zip((5, 3, 8), clients.values(), strict=True))
    summary, grid = run_of(tmp_path, nodes, clients=2)
    assert summary["clients"] == 2
    assert "is one more than clients=2" in caplog.text
    assert {node for kind, node in grid.sent if kind == "train"} < {5, 3, 8}


def test_without_leave_no_class_is_told_and_a_quorum_agrees(tmp_path, clients, caplog):
    first, second, third = clients.values()
    nodes = {5: first | {"share": ""}, 3: second, 8: third}
    _, grid = run_of(tmp_path, nodes)
    assert "its owner does not allow that to be told" in caplog.text
    assert {node for kind, node in grid.sent if kind == "train"} == {3, 8}
    nodes = {5: first | {"share": ""}, 3: second | {"share": ""}, 8: third}
    with pytest.raises(QuorumLostError, match="1 of 3 clients can take part, 2 needed"):
        run_of(tmp_path / "again", nodes)


def test_the_roster_says_who_takes_part_under_which_number_and_name(tmp_path, clients, caplog):
    """In another order than that of the fingerprints, and with one who is not there."""
    told = [own_identity(Path(config["state-dir"])) for config in clients.values()]
    lines = [f"{told[2]} garden", f"{'0' * 64} cellar", f"{told[0]} kitchen"]
    (tmp_path / "roster").write_text("\n".join(lines))
    nodes = dict(zip((5, 3, 8), clients.values(), strict=True))
    summary, grid = run_of(tmp_path, nodes, clients=0, roster=str(tmp_path / "roster"))
    assert summary["clients"] == 3
    rows = [row for row in read_evaluations(tmp_path / "out") if row.round == 1]
    assert {(row.client, row.kind) for row in rows} == {(0, "garden"), (2, "kitchen")}
    assert f"{told[1][:8]} is not on the roster" in caplog.text
    assert {node for kind, node in grid.sent if kind == "train"} == {8, 5}


def test_a_run_that_goes_on_keeps_numbers_and_schema_whoever_is_there(tmp_path, clients, caplog):
    """One has gone, another has come whose key is the first of all: the rest keep their numbers."""
    config = run_config(tmp_path / "out", rounds=1, adapt="none")
    first, second, third = clients.values()
    run_server(FakeGrid(app, {5: first, 3: second, 8: third}, config), config)
    before = json.loads((tmp_path / "out" / "agreement.json").read_text())
    new = tmp_path / "new"
    own_pictures.write_pictures(tmp_path / "new-pictures", {"across": 9, "crossed": 9}, seed=60)
    number = next(n for n in range(3, 300) if identity(new, n) < own_identity(Path(
        first["state-dir"])))  # fmt: skip
    own_pictures.give_identity(new, number)
    stranger = {"images": str(tmp_path / "new-pictures"), "state-dir": str(new), "share": "classes"}
    again = tomllib.loads((tmp_path / "out" / "resume.toml").read_text()) | {"rounds": 2}
    client_source.own_assembly.cache_clear()
    grid = FakeGrid(app, {5: stranger, 3: second, 8: third}, again, run_id=2)
    server(grid, Context(2, 1, {}, RecordDict(), again))
    assert json.loads((tmp_path / "out" / "agreement.json").read_text()) == before
    assert {node for kind, node in grid.sent if kind == "train"} == {3, 8}
    assert "is not on the roster" in caplog.text
    of_round = {row.client for row in read_evaluations(tmp_path / "out") if row.round == 2}
    assert of_round == {1, 2}


def identity(folder: Path, number: int) -> str:
    own_pictures.give_identity(folder, number)
    return own_identity(folder)


def test_a_client_with_another_class_is_refused_by_a_word_and_not_by_its_name(
    tmp_path, clients, caplog
):
    nodes = dict(zip((5, 3, 8), clients.values(), strict=True))
    _, grid = run_of(tmp_path, nodes, classes="down,across", min_replies=0.3)
    assert "of a class that is not among the run's" in caplog.text
    errors = [r.error.reason for r in grid.replies if r.has_error()]
    assert len(errors) == 2
    assert all(reason.startswith("refused:unknown-class incident=") for reason in errors)


def test_the_models_of_a_device_are_found_by_its_state_folder_alone(tmp_path, clients):
    """The adapted one too, which was never sent; each is as good as its row says."""
    config = run_config(tmp_path / "out", rounds=1, classes="across,down,slanted")
    run_server(grid_of(clients, config), config)
    rows = [r for r in read_evaluations(tmp_path / "out") if (r.round, r.model) == (1, "base")]
    assert {row.adaptation for row in rows} == {"none", "fine-tune"}
    schema = None
    for row in rows:
        own = clients[f"client-{row.client}"]
        network = fedadapt.load(own["state-dir"], adaptation=row.adaptation)
        card = network.card
        assert card.classes == ("across", "down", "slanted")
        schema = Schema(card.classes, card.image_shape, card.mean, card.std)
        test = read_own_data(OwnSource(own["images"], state=own["state-dir"]), schema).split.test
        found = network(card.scaling(test.inputs)).argmax(1)
        assert (found == test.labels).double().mean().item() == row.accuracy
        assert len(test) == row.num_examples


def test_pictures_that_come_during_a_run_take_part_in_the_next(tmp_path, clients):
    config = run_config(tmp_path / "out", adapt="none", classes="across,down,slanted")
    grid = grid_of(clients, config)
    images = Path(clients["client-0"]["images"])

    def meanwhile(reply):
        own_pictures.write_pictures(images, {"slanted": 7}, seed=70)
        client_source.own_data.cache_clear()
        return reply

    for node in grid.nodes:
        grid.faults["train", node] = meanwhile
    run_server(grid, config)
    rows = [row for row in read_evaluations(tmp_path / "out") if row.client == 0]
    assert len({row.num_examples for row in rows}) == 1
    again = run_config(tmp_path / "again", adapt="none", classes="across,down,slanted")
    later = grid_of(clients, again)
    later.run_id = 2
    run_server(later, again)
    more = [row for row in read_evaluations(tmp_path / "again") if row.client == 0]
    assert more[0].num_examples > rows[0].num_examples


def test_a_greeting_does_not_fix_the_pictures_of_a_run_and_numbers_are_bounded(tmp_path, clients):
    config = run_config(tmp_path / "out", adapt="none")
    schema = Schema(("across", "down", "slanted"), (3, 8, 8), (0.5,) * 3, (0.5,) * 3)
    context = Context(1, 1, clients["client-0"], RecordDict(), config)

    def part(number: int, **how) -> client_source.ClientPart:
        settings = {client_source.SCHEMA: schema.to_text(), client_source.CLIENT: number}
        return client_source.client_part(records.request({}, settings), context, **how)

    assert pictures_of_run(part(2, begins=False).store.folder) is None
    assert pictures_of_run(part(2).store.folder)
    for number in (-1, 2**31):
        with pytest.raises(RefusedError, match=f"client: number {number}"):
            part(number)


def test_a_run_on_own_data_needs_what_only_it_needs():
    def refusal(**changes) -> str:
        with pytest.raises(InputError) as refused:
            check(tiny.RunConfig.from_mapping(run_config(Path("x"), **changes)), flower=True)
        assert "\n" not in str(refused.value)
        return str(refused.value)

    assert refusal(partition="iid").startswith("partition: own data do not use it")
    assert refusal(image_size=2).startswith("image-size: 2 is out of range")
    assert refusal(classes="cat").startswith("classes: 'cat' alone")
    assert refusal(classes="cat,cat").startswith("classes: 'cat' is there twice")
    assert "trains experts on pictures of the server" in refusal(
        strategy="mas-racl", local_epochs=5, lr=0.05, adapt="none", rounds=1
    )
    with pytest.raises(InputError, match="own is the data of real clients"):
        check(tiny.RunConfig.from_mapping(run_config(Path("x"))))
    with pytest.raises(InputError, match="classes: digits-classes does not use it"):
        check(tiny.config(classes="a,b"))


def test_a_client_with_another_network_or_code_is_left_out_and_other_initial_weights_are_told(
    tmp_path, clients, caplog
):
    config = run_config(
        tmp_path / "out", rounds=1, adapt="none", classes="across,down,slanted", min_replies=0.3
    )
    grid = grid_of(clients, config)

    def other(**facts):
        return edited(lambda c: c["config"].update({k: v for k, v in facts.items()
                                                    if k in c["config"]}))  # fmt: skip

    grid.faults["query.hello", 901] = other(network="x")
    grid.faults["query.hello", 17] = other(initial="x")
    grid.faults["query.hello", 530] = other(code="x", flwr="0.1")
    run_server(grid, config)
    assert {node for kind, node in grid.sent if kind == "train"} == {17}
    assert "its network has other tensors than the server's" in caplog.text
    assert "draws other initial weights; it is sent the server's" in caplog.text
    assert "code of fedadapt 'x', the server" in caplog.text
    assert "; flwr '0.1', the server" in caplog.text  # all differences in one line
    local = [r for r in read_evaluations(tmp_path / "out") if r.model == "local"]
    assert {row.client for row in local} == {1}  # from the weights that it was sent
