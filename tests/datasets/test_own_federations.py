"""Own data and own partitions, through whole runs and their manifests."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny

from fedadapt.config import RunConfig
from fedadapt.datasets.data_spec import check_data
from fedadapt.datasets.load import load_benchmark
from fedadapt.datasets.partitioning.spec import parse_partition
from fedadapt.errors import InputError
from fedadapt.saved_models.load import load

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
NUM = 90
ROWS = np.arange(NUM)

MODULE = """
import numpy as np
import torch
from torch.utils.data import Dataset

class Waves(Dataset):
    classes = ("slow", "fast")

    def __len__(self):
        return 90

    def __getitem__(self, n):
        time = torch.linspace(0, 6, 12)
        wave = torch.sin((1 + n % 2) * time + n)
        return torch.stack([wave, wave.flip(0)]), n % 2, f"person {n % 3}", n // 6

def waves():
    return Waves()

def rings():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (90, 6, 6), dtype=np.uint8), np.arange(90) % 3
"""

QUICK = {"rounds": 1, "adapt": "none", "local": False, "examples": 0, "clients": 0}


@pytest.fixture(autouse=True)
def own_modules(tmp_path, monkeypatch):
    """Data and a partition of one's own on the path, the partition installed by a package too."""
    [rule] = re.findall(r"^```python\n(# myrules\.py\n.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "myrules.py").write_text(rule, "utf-8")
    (tmp_path / "my_waves.py").write_text(MODULE)
    folder = tmp_path / "my_rules-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: my-rules\nVersion: 1.0\n")
    points = "[fedadapt.partitions]\nstripes = myrules:Stripes\n[fedadapt.datasets]\n"
    (folder / "entry_points.txt").write_text(points + "waves = my_waves:waves\n")
    monkeypatch.syspath_prepend(tmp_path)
    tiny.without_pictures(monkeypatch)


def run(folder, **changes):
    """The summary of a run, and what its manifest says."""
    summary = tiny.run(folder, **{**QUICK, **changes})
    return summary, json.loads((folder / "manifest.json").read_text())


def test_an_npz_of_tokens_under_any_name(tmp_path):
    tokens = np.random.default_rng(1).integers(0, 5, (NUM, 6))
    np.savez(tmp_path / "letters of mine.npz", x=tokens, y=tokens[:, 0] % 2, client=ROWS % 3)
    name = f"npz:{tmp_path}/letters of mine.npz"
    summary, manifest = run(tmp_path / "run", benchmark=name, model="char-gru")
    assert summary["clients"] == 3
    assert manifest["hash"] == load_benchmark(RunConfig(benchmark=name, clients=3)).manifest.hash
    card = load(tmp_path / "run").card
    assert (card.vocabulary, card.image_shape, card.mean) == (5, (6,), ())
    with pytest.raises(InputError, match=r"takes tokens \[6\], no images"):
        card.images(["photo.png"])
    with pytest.raises(InputError, match=r"model: 'mlp' takes .* use char-gru"):
        run(tmp_path / "other", benchmark=name, model="mlp")


@pytest.mark.parametrize("strategy", ["pacfl", "pfedgate"])
def test_who_computes_with_inputs_refuses_tokens(tmp_path, strategy):
    tokens = np.random.default_rng(1).integers(0, 5, (NUM, 6))
    np.savez(tmp_path / "letters.npz", x=tokens, y=tokens[:, 0] % 2, client=ROWS % 3)
    name = f"npz:{tmp_path}/letters.npz"
    with pytest.raises(InputError, match=f"^strategy: {strategy} .* not quantities$"):
        run(tmp_path / "run", benchmark=name, model="char-gru", strategy=strategy)


@pytest.mark.parametrize("name", ["my_waves:waves", "waves"])
def test_a_torch_data_set_of_time_series(tmp_path, name):
    summary, manifest = run(tmp_path / "run", benchmark=name, model="har-cnn", strategy="fedbn")
    assert summary["clients"] == 3
    assert manifest["owners"] == ["person 0", "person 1", "person 2"]
    assert manifest["input-shape"] == [2, 12]
    model = load(tmp_path / "run")
    benchmark = load_benchmark(RunConfig(benchmark=name, clients=3))
    test = benchmark.split(0).test.inputs
    assert model.card.unit == 1.0
    assert model(model.card.scaling(test)).shape == (len(test), 2)
    assert np.allclose(model.card.scaling(test), benchmark.scaling(test))


def test_a_hugging_face_data_set_on_disk(tmp_path):
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("flwr_datasets")
    values = np.random.default_rng(2).normal(size=(NUM, 4))
    columns = {"x": values.tolist(), "y": (ROWS % 3).tolist(), "who": (ROWS % 4).tolist()}
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "set")
    name = f"hf:{tmp_path}/set?client=who&label=y"
    summary, manifest = run(tmp_path / "run", benchmark=name)
    assert summary["clients"] == 4
    assert manifest["owners"] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("rule", ["stripes:15", "myrules:Stripes:15"])
def test_a_partition_of_ones_own(tmp_path, rule):
    settings = {"benchmark": "my_waves:rings", "partition": rule, "clients": 3}
    _, manifest = run(tmp_path / "run", **settings)
    assert manifest["partition"] == rule
    benchmark = load_benchmark(RunConfig(**settings))
    for client in range(3):
        held = np.concatenate(benchmark.rows(client))
        assert set(held // 15 % 3) == {client}


def test_a_partition_that_is_none_is_refused_in_one_line():
    for text, said in (
        ("my_waves:Waves", "partition: 'my_waves:Waves' is no rule; it must be a class that"),
        ("stripes:0", "partition: 'stripes:0': 0 must be a whole number >= 1"),
        ("stripes", "partition: 'stripes' lacks its number"),
        ("natural:3", "partition: unknown 'natural'|natural"),
        ("stripse:2", "did you mean 'stripes'"),
    ):
        with pytest.raises(InputError, match=said):
            parse_partition(text)
    with pytest.raises(InputError, match="partition: stripes divides images, and clients draw"):
        load_benchmark(RunConfig(partition="stripes:4", clients=4))
    check_data(RunConfig(benchmark="my_waves:rings", partition="stripes:4", clients=4))
