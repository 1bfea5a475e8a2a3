"""By the commands of docs/deployment.md: every client ends with a saved model of its own.

Its accuracy on the client's own test pictures, computed again from the file and the pictures, is
that of the run's table. The pictures are PACS where there is one, another domain on each client.
"""

import os
from pathlib import Path

import pytest
import torch
from conftest import CLIENTS

import fedadapt
from fedadapt.datasets.own.own_data import OwnSource, read_own_data
from fedadapt.datasets.own.schema import Schema
from fedadapt.simulations.results.parquet import read_communication, read_evaluations
from fedadapt.strategies.dua.strategy import IMPORTANCE

pytestmark = pytest.mark.deployment

SETTINGS = ("--model", "cnn", "--rounds", "1", "--adapt", "none")
TRAINING = ("--no-local", "--local-epochs", "1", "--lr", "0.05")  # of clients


def run(bench, *words):
    size = ("--image-size", bench.picture_side)
    code, said = bench.deploy("run", bench.server, *SETTINGS, *size, *words)
    assert code == 0, said
    return Path(said.split("run folder")[-1].strip()), said


def accuracy_of_file(bench, client, number, folder, model):
    """Of a client's saved model on its own test pictures; both are read anew."""
    network = fedadapt.load(folder, client=number, model=model)
    card = network.card
    schema = Schema(tuple(card.classes), tuple(card.image_shape), tuple(card.mean), tuple(card.std))
    state, images = bench.home(client) / "state", str(bench.pictures(client))
    test = read_own_data(OwnSource(images=images, state=str(state)), schema).split.test
    with torch.no_grad():
        right = network(card.scaling(test.inputs)).argmax(1) == test.labels
    return float(right.double().mean()), len(test)


@pytest.mark.parametrize(
    ("words", "model"),
    [
        (("--strategy", "fedavg"), "base"),
        (("--strategy", "pfa", "--strategy-args", "groups=2", "--rounds", "2"), "personal"),
        (("--strategy", "fedrep"), "personal"),
    ],
    ids=["fedavg", "pfa", "fedrep"],
)
def test_every_client_ends_with_a_model_whose_accuracy_is_in_the_table(bench, words, model):
    folder, said = run(bench, "--classes", ",".join(bench.classes), *TRAINING, *words)
    rows = [row for row in read_evaluations(folder) if (row.model, row.split) == (model, "test")]
    rows = rows[-3:]  # of the last evaluation
    assert [row.kind for row in rows] == [*CLIENTS]
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


def test_experts_are_merged_on_the_clients(bench):
    """MAS-RACL: the server learns tasks from pictures of its own; importances stay on clients.

    Of a question for importances nothing goes up but a number of examples, of 8 bytes.
    """
    folder, said = run(
        bench, "--rounds", "2", "--strategy", "mas-racl", "--server-data", bench.tasks,
        "--strategy-args", "merge_on=client epochs=3",
    )  # fmt: skip
    entries = read_communication(folder)
    assert {entry.outcome for entry in entries} == {"accepted"}, said
    asked = [entry for entry in entries if entry.phase == "training"]
    assert {entry.action for entry in asked} == {IMPORTANCE}
    assert max(entry.bytes_up for entry in asked) <= 8
    rows = [r for r in read_evaluations(folder) if r.round == 2 and r.split == "test"]
    assert {row.kind for row in rows} == {*CLIENTS}
    assert {row.task for row in rows} == {0, 1}
    for name in CLIENTS:
        files = (bench.home(name) / "state").glob("experiment-*/*/models/task-*/**/*.safetensors")
        assert list(files), name


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
