"""By the commands of docs/deployment.md: every client ends with a saved model of its own.

Its accuracy on the client's own test pictures, computed again from the file and the pictures, is
that of the run's table. The pictures are PACS where there is one, another domain on each client.
"""

import operator
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import CLIENTS
from safetensors.torch import load_file

import fedadapt
from fedadapt.client.egress.ledger import ledgers
from fedadapt.datasets.own.own_data import OwnSource, read_own_data
from fedadapt.datasets.own.schema import Schema
from fedadapt.simulations.results.parquet import read_communication, read_evaluations
from fedadapt.strategies.dua.on_client import TOTAL
from fedadapt.strategies.dua.strategy import IMPORTANCE

pytestmark = pytest.mark.deployment

SETTINGS = ("--model", "cnn", "--rounds", "1", "--adapt", "none")
TRAINING = ("--no-local", "--local-epochs", "1", "--lr", "0.05")  # of clients


def run(bench, *words):
    size = ("--image-size", bench.picture_side)
    code, said = bench.deploy("run", bench.server, *SETTINGS, *size, *words)
    assert code == 0, said
    return Path(said.split("run folder")[-1].strip()), said


def accuracy_of_file(bench, client, number, model, task=None):
    """Of a client's saved model on its own test pictures, or those of a task; all read anew."""
    state, images = bench.home(client) / "state", str(bench.pictures(client))
    newest = max(state.glob("experiment-*/*/models"), key=os.path.getmtime)
    network = fedadapt.load(newest.parent, client=number, model=model, task=task)
    card = network.card
    schema = Schema(bench.classes, tuple(card.image_shape), tuple(card.mean), tuple(card.std))
    test = read_own_data(OwnSource(images=images, state=str(state)), schema).split.test
    names = [bench.classes[label] for label in test.labels.tolist()]
    of_task = [n for n, name in enumerate(names) if name in card.classes]
    labels = torch.tensor([card.classes.index(names[n]) for n in of_task])
    with torch.no_grad():
        right = network(card.scaling(test.inputs[of_task])).argmax(1) == labels
    return float(right.double().mean()), len(labels)


@pytest.mark.parametrize(
    ("words", "model"),
    [
        (("--strategy", "fedavg"), "base"),
        (("--strategy", "pfa", "--strategy-args", "groups=2", "--rounds", "2"), "personal"),
        (("--strategy", "fedrep"), "personal"),
    ],
    ids=["fedavg", "pfa", "fedrep"],
)
def test_every_client_ends_with_a_model_whose_accuracy_is_in_the_table(
    bench, tmp_path, words, model
):
    """And the results are those of the same pictures in a simulation."""
    words = ("--classes", ",".join(bench.classes), *TRAINING, *words)
    folder, said = run(bench, *words)
    rows = [row for row in read_evaluations(folder) if (row.model, row.split) == (model, "test")]
    rows = rows[-3:]  # of the last evaluation
    assert [row.kind for row in rows] == [*CLIENTS]
    assert "round 1, train: 3 of 3 answered" in said
    assert {entry.outcome for entry in read_communication(folder)} == {"accepted"}
    for row in rows:
        accuracy, images = accuracy_of_file(bench, row.kind, row.client, model)
        assert images == row.num_examples
        assert accuracy == pytest.approx(row.accuracy, abs=1e-12)
        state = bench.home(row.kind) / "state"
        for path in (state, *state.rglob("*")):
            assert path.stat().st_mode & 0o077 == 0, path

    check_alike(read_evaluations(folder), simulated(bench, tmp_path, words))


def simulated(bench, folder, words):
    """The rows of the same run on the same pictures, with simulated clients."""
    people = folder / "people"
    people.mkdir()
    for name in CLIENTS:
        (people / name).symlink_to(bench.pictures(name))
    command = [
        *(sys.executable, "-m", "fedadapt", "simulate", *SETTINGS),
        *("--image-size", bench.picture_side, *words),
        *("--benchmark", f"own:{people}", "--clients", "3", "--out", str(folder / "run")),
    ]
    subprocess.run(command, env=bench.environment, cwd=folder, check=True, capture_output=True)
    return read_evaluations(folder / "run")


def check_alike(deployed, simulated):
    """The same rows: losses to the rounding of other kernels, which may turn a picture over."""
    label = operator.attrgetter("round", "client", "model", "adaptation", "split", "epoch")
    there, here = ({label(row): row for row in rows} for rows in (deployed, simulated))
    assert there.keys() == here.keys()
    for key, row in there.items():
        assert row.num_examples == here[key].num_examples
        assert row.loss == pytest.approx(here[key].loss, rel=1e-3), key
        assert row.accuracy == pytest.approx(here[key].accuracy, abs=1.01 / row.num_examples), key


def test_experts_are_merged_on_the_clients(bench):
    """MAS-RACL: the server learns tasks from pictures of its own; importances stay on clients.

    A client that is asked for them answers that it has measured them: by its own ledger with one
    number of 8 bytes, which is 1 for every client, and with no array. It keeps their sums, and its
    model of each task has the accuracy in the table.
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
    own = [row for row in rows if row.model == "personal"]
    assert {(row.kind, row.task) for row in own} == {(n, t) for n in CLIENTS for t in (0, 1)}
    for row in own:
        accuracy, images = accuracy_of_file(bench, row.kind, row.client, "personal", row.task)
        assert images == row.num_examples
        assert accuracy == pytest.approx(row.accuracy, abs=1e-12)
    for name in CLIENTS:
        [ledger] = ledgers(bench.home(name) / "state")
        told = [entry for entry in ledger.entries() if entry.type == IMPORTANCE]
        assert [[(p.record, p.name, p.bytes) for p in entry.parts] for entry in told] == [
            [("metrics", "num-examples", 8)]
        ] * 2
        kept = max((bench.home(name) / "state").rglob("round-*.safetensors"), key=os.path.getmtime)
        sums = {n: t for n, t in load_file(kept).items() if n.startswith(TOTAL)}
        assert sum(float(t.sum()) for t in sums.values()) > 0


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
