"""What is written for another implementation is what our clients train on, in the same order."""

import json

import numpy as np
import pytest
import torch

from benchmarks.beside_fluke import setting, write
from benchmarks.beside_fluke.setting import METHODS, SETTING
from benchmarks.beside_fluke.table import Pair, Runs, main_table
from fedadapt.client.cohort import Schedule
from fedadapt.simulations.assembly import assemble, initial
from fedadapt.strategies.registry import select

CLIENT, ROUND = 2, 3


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on the built-in digits."""
    digits = {"benchmark": "digits-dirichlet", "clients": 3, "rounds": 4, "examples": 100}
    monkeypatch.setattr(setting, "SETTING", SETTING | digits)
    monkeypatch.setattr(write, "SETTING", SETTING | digits)


@pytest.mark.parametrize(
    ("name", "purpose", "first", "epochs", "share"),
    [
        ("train", "train", 1, SETTING["local_epochs"], 1),
        ("ditto", "ditto", 1, SETTING["local_epochs"], 1),
        ("fedbabu", "fedbabu", 4, setting.TUNING, 1),
        ("ala", "ala", 3, 1, 0.8),
    ],
)
def test_the_order_written_is_the_one_clients_train_in(small, name, purpose, first, epochs, share):
    config = setting.config("fedavg", 1)
    worker = assemble(config).worker
    number = max(first, ROUND)
    cohort = worker.cohort([CLIENT], number)
    trained = cohort if share == 1 else cohort.subset(share, purpose)
    steps = trained.steps(Schedule(config.batch_size, epochs, "train", purpose))
    images = torch.cat([batch.inputs[0] for ((_, batch),) in steps])
    places = write.arrays(1)[f"order/{name}/{CLIENT}"][number - first].reshape(-1)
    split = cohort.splits[0].train
    assert torch.equal(images, cohort.scaling(split.inputs[places.astype(np.int64)]))


def test_images_labels_and_weights_are_written_as_networks_take_them(small):
    assembly = assemble(setting.config("fedavg", 1))
    found = write.arrays(1)
    split = assembly.benchmark.split(CLIENT)
    assert np.array_equal(
        found[f"test/{CLIENT}/images"], assembly.benchmark.scaling(split.test.inputs).numpy()
    )
    assert np.array_equal(found[f"train/{CLIENT}/labels"], split.train.labels.numpy())
    for name, tensor in initial(assembly.model).items():
        assert np.array_equal(found[f"weights/{name}"], tensor.numpy())
    assert json.loads(str(found["setting"]))["manifest"] == assembly.benchmark.manifest.hash


@pytest.mark.parametrize("method", METHODS)
def test_our_side_of_every_method_is_a_run(method):
    select(setting.config(method, 1))


def test_a_difference_is_judged_seed_by_seed(tmp_path, monkeypatch):
    """Seeds differ by 10 points, both sides alike; ours is 1 point better on each."""
    path = tmp_path / "runs.jsonl"
    lines = [
        {
            "method": "fedavg",
            "variant": variant,
            "seed": seed,
            "manifest": str(seed),
            "accuracy": {"shared": [0.5 + 0.1 * seed + gain * seed, 0.7]},
        }
        for seed in (1, 2)
        for variant, gain in (("ours", 0.02), ("as-it-is", 0.0))
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    pair = Pair("FedAvg", ("fedavg", "shared"), ("fedavg", "shared"), "")
    monkeypatch.setattr("benchmarks.beside_fluke.table.PAIRS", (pair,))
    *_, row = main_table(Runs(path))
    assert row == "| FedAvg | 69.00 (4.24) | 67.50 (3.54) | +1.50 (0.71) | no |  |"
