"""By the commands of docs/deployment.md: every client ends with a saved model of its own.

Its accuracy on the client's own test pictures, computed again from the file and the pictures, is
that of the run's table.
"""

import os
from pathlib import Path

import pytest
import torch

import fedadapt
from fedadapt.datasets.own.own_data import OwnSource, read_own_data
from fedadapt.datasets.own.schema import Schema
from fedadapt.simulations.results.parquet import read_communication, read_evaluations

CLASSES = ",".join("0123456789")
SETTINGS = (
    "--classes", CLASSES, "--image-size", "16", "--model", "cnn", "--rounds", "1",
    "--local-epochs", "1", "--adapt", "none", "--no-local", "--lr", "0.05",
)  # fmt: skip


def run(bench, *words):
    code, said = bench.deploy("run", bench.server, *SETTINGS, *words)
    assert code == 0, said
    return Path(said.split("run folder")[-1].strip()), said


def accuracy_of_file(bench, client, number, folder, model):
    """Of a client's saved model on its own test pictures; both are read anew."""
    network = fedadapt.load(folder, client=number, model=model)
    schema = Schema(network.card.classes, network.card.image_shape, network.card.scaling)
    state = bench.home(client) / "state"
    data = read_own_data(OwnSource(images=str(bench.pictures[client]), state=str(state)), schema)
    with torch.no_grad():
        right = network(network.card.scaling(data.split.test.images)).argmax(1)
    return float((right == data.split.test.labels).double().mean()), len(data.split.test)


@pytest.mark.parametrize(
    ("words", "model"),
    [
        (("--strategy", "fedavg"), "base"),
        (("--strategy", "pfa", "--strategy-args", "groups=2"), "personal"),
        (("--strategy", "fedrep"), "personal"),
    ],
    ids=["fedavg", "pfa", "fedrep"],
)
def test_every_client_ends_with_a_model_whose_accuracy_is_in_the_table(bench, words, model):
    folder, said = run(bench, *words)
    rows = [
        row
        for row in read_evaluations(folder)
        if (row.round, row.model, row.split) == (1, model, "test")
    ]
    assert [row.kind for row in rows] == ["client-1", "client-2", "client-3"]
    assert "round 1, train: 3 of 3 answered" in said
    assert {entry.outcome for entry in read_communication(folder)} == {"accepted"}
    for row in rows:
        state = bench.home(row.kind) / "state"
        newest = max(state.glob("experiment-*/*/models"), key=os.path.getmtime)
        accuracy, images = accuracy_of_file(bench, row.kind, row.client, newest.parent, model)
        assert images == row.num_examples
        assert accuracy == pytest.approx(row.accuracy, abs=1e-12)
        for path in (state, *state.rglob("*")):
            assert path.stat().st_mode & 0o077 == 0, path


def test_the_status_shows_clients_and_runs(bench):
    code, said = bench.deploy("status", bench.server)
    assert code == 0, said
    assert said.count(" yes ") == 3
    assert "finished:completed" in said
    code, said = bench.deploy("doctor", bench.server)
    assert code == 0, said
    assert "cannot be reached through port" in said
    bundle = bench.deployment.bundles / "client-1.tar"
    code, said = bench.deploy("doctor", bundle, "--home", bench.home("client-1"))
    assert code == 0, said
    assert "the server knows this client as client-1" in said


def test_experts_are_merged_on_the_clients(tmp_path_factory):
    """MAS-RACL learns tasks, which are rows of a benchmark: nothing goes up but results."""
    from machines import machines

    names = ("client-1", "client-2", "client-3")
    with machines(tmp_path_factory.mktemp("tasks"), 3) as bench:
        bench.start_server()
        for number, name in enumerate(names):
            bench.start_client(name, "--node-config", f"partition-id={number}")
        bench.wait_connected(*names)
        code, said = bench.deploy(
            "run", bench.server, "--benchmark", "digits-tasks", "--clients", "3", "--rounds", "2",
            "--strategy", "mas-racl", "--strategy-args", "merge_on=client epochs=3",
            "--adapt", "none", "--model", "mlp",
        )  # fmt: skip
        assert code == 0, said
        folder = Path(said.split("run folder")[-1].strip())
        entries = read_communication(folder)
        assert {entry.outcome for entry in entries} == {"accepted"}
        rows = [r for r in read_evaluations(folder) if r.round == 2 and r.split == "test"]
        assert {row.client for row in rows} == {0, 1, 2}
        for name in names:
            files = list(
                (bench.home(name) / "state").glob("experiment-*/*/models/**/*.safetensors")
            )
            assert files, name
