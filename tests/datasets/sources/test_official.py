"""Data sets below a data root: ``.npz``, torchvision's layouts, and damaged files."""

import bz2
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from fedadapt.config import RunConfig
from fedadapt.datasets.load import load_benchmark
from fedadapt.datasets.registry import find_benchmark
from fedadapt.datasets.sources.official import read_npz, read_official
from fedadapt.errors import InputError


def make_npz(path: Path, **changes) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (200, 12, 12, 3), dtype=np.uint8),
        "y_train": np.arange(200, dtype=np.uint8) % 10,
        "x_test": rng.integers(0, 256, (50, 12, 12, 3), dtype=np.uint8),
        "y_test": np.arange(50, dtype=np.uint8) % 10,
    }
    made = {name: value for name, value in {**arrays, **changes}.items() if value is not None}
    np.savez(path, **made)


def make_idx(root: Path, folder: str = "MNIST", num: int = 120) -> None:
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for part, size in (("train", num), ("t10k", 30)):
        images = (np.arange(size)[:, None, None] + np.zeros((28, 28))).astype(np.uint8)
        head = struct.pack(">IIII", 0x803, size, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        labels = (np.arange(size) % 10).astype(np.uint8)
        head = struct.pack(">II", 0x801, size)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())


# --- .npz


def test_an_npz_serves_a_benchmark_in_either_layout(tmp_path):
    make_npz(tmp_path / "cifar10.npz", classes=np.array(list("abcdefghij")))
    config = RunConfig(benchmark="cifar10", data_root=str(tmp_path), clients=5)
    benchmark = load_benchmark(config)
    assert benchmark.image_shape == (3, 12, 12)
    assert benchmark.kinds == ("a+b", "c+d", "e+f", "g+h", "i+j")
    with np.load(tmp_path / "cifar10.npz") as file:
        images = torch.from_numpy(file["x_train"]).permute(0, 3, 1, 2)
        grey = file["x_train"][..., 0], file["x_test"][..., 0]
    train, _, _ = benchmark.rows(2)
    assert torch.equal(benchmark.split(2).train.inputs, images[torch.from_numpy(train)])
    assert set(benchmark.split(2).train.labels.tolist()) == {4, 5}
    make_npz(tmp_path / "usps.npz", x_train=grey[0], x_test=grey[1])
    assert read_npz(tmp_path / "usps.npz").inputs.shape == (250, 1, 12, 12)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"y_test": None}, "lacks y_test; it needs x_train, y_train, x_test, y_test"),
        ({"x_train": np.zeros((200, 12, 12, 3))}, "x_train is float64"),
        ({"x_train": np.zeros((200, 12, 12, 4), np.uint8)}, "one channel or three"),
        ({"x_test": np.zeros((50, 8, 8, 3), np.uint8)}, "they must have one shape"),
        ({"y_train": np.zeros(7, int)}, "one whole number for each of the 200 images"),
        ({"y_train": np.full(200, 0.5)}, "one whole number for each of the 200 images"),
        ({"y_train": np.arange(200) % 9 + 1}, "class '0' has no training images"),
        ({"y_test": np.full(50, -1)}, "labels run from -1 to 9"),
        ({"classes": np.array(["a", "b"])}, "with 2 classes they must be 0 to 1"),
        ({"y_train": np.array([{}] * 200)}, "y_train.npy holds pickled objects"),
    ],
)
def test_a_bad_npz_is_refused_with_what_is_wrong(tmp_path, changes, said):
    make_npz(tmp_path / "cifar10.npz", **changes)
    with pytest.raises(InputError, match=r"^[^\n]+$") as caught:
        load_benchmark(RunConfig(benchmark="cifar10", data_root=str(tmp_path), clients=5))
    assert said in str(caught.value)
    assert "cifar10.npz" in str(caught.value)


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    (tmp_path / "usps.npz").write_bytes(b"hello")
    with pytest.raises(InputError, match=r"usps\.npz: cannot be read"):
        read_npz(tmp_path / "usps.npz")


def test_an_npz_too_small_for_the_clients_says_how_many_it_serves(tmp_path):
    make_npz(tmp_path / "cifar10.npz")
    with pytest.raises(InputError, match="100 is more than cifar10 can serve; at most 66"):
        load_benchmark(RunConfig(benchmark="cifar10", data_root=str(tmp_path), clients=100))


# --- torchvision's layouts


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")]
)
def test_idx_files_are_found_where_torchvision_puts_them(tmp_path, name, folder):
    make_idx(tmp_path, folder)
    config = RunConfig(
        benchmark=name, data_root=str(tmp_path), clients=4, partition="class-types:5"
    )
    benchmark = load_benchmark(config)
    assert benchmark.image_shape == (1, 28, 28)
    train = benchmark.split(0).train
    assert torch.equal(train.inputs[:, 0, 0, 0] % 10, train.labels.to(torch.uint8))
    assert benchmark.global_test is not None
    assert len(benchmark.global_test) == 30
    assert benchmark.classes[0] == ("0" if name == "mnist" else "T-shirt/top")


def test_emnist_images_are_turned_upright(tmp_path):
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    lying = np.zeros((94, 28, 28), np.uint8)
    lying[:, :, 3] = 255  # a column in the file is a row of the letter
    for part in ("train", "test"):
        head = struct.pack(">IIII", 0x803, 94, 28, 28)
        (raw / f"emnist-balanced-{part}-images-idx3-ubyte").write_bytes(head + lying.tobytes())
        labels = (np.arange(94) % 47).astype(np.uint8)
        head = struct.pack(">II", 0x801, 94)
        (raw / f"emnist-balanced-{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    store = read_official(find_benchmark("emnist"), str(tmp_path))
    assert len(store.classes) == 47
    assert (store.inputs[:, 0, 3] == 255).all()
    assert int(store.inputs.sum()) == 188 * 28 * 255


def test_usps_is_read_from_its_text(tmp_path):
    line = " ".join(["{}", *(f"{i + 1}:{v}" for i, v in enumerate([1.0] * 16 + [-1.0] * 240))])
    text = "\n".join(line.format(label) for label in range(1, 11)) + "\n"
    for name in ("usps.bz2", "usps.t.bz2"):
        (tmp_path / name).write_bytes(bz2.compress(text.encode()))
    store = read_official(find_benchmark("usps"), str(tmp_path))
    assert store.labels.tolist() == [*range(10), *range(10)]
    assert (store.inputs[:, 0, 0] == 255).all()
    assert (store.inputs[:, 0, 1:] == 0).all()


def test_svhn_and_cifar_are_read_from_their_own_formats(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import CIFAR10, SVHN

    monkeypatch.setattr(SVHN, "_check_integrity", lambda self: True)
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(20) % 10
    for part in ("train", "test"):  # there a nought has the label 10
        made = {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None]}
        savemat(tmp_path / f"{part}_32x32.mat", made)
    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    for name in find_benchmark("cifar10").files:
        made = {"data": images.transpose(0, 3, 1, 2).reshape(20, -1), "labels": labels.tolist()}
        if name.endswith("meta"):
            made = {"label_names": list("abcdefghij")}
        (tmp_path / name).write_bytes(pickle.dumps(made))
    expected = torch.from_numpy(images).permute(0, 3, 1, 2)
    for name, num in (("svhn", 20), ("cifar10", 100)):
        store = read_official(find_benchmark(name), str(tmp_path))
        assert store.num_train == num
        assert store.labels[:20].tolist() == labels.tolist()
        assert torch.equal(store.inputs[:20], expected)
        assert torch.equal(store.inputs[-20:], expected)
    assert store.classes == tuple("abcdefghij")


def test_the_data_root_can_come_from_the_environment(tmp_path, monkeypatch):
    make_idx(tmp_path)
    monkeypatch.setenv("FEDADAPT_DATA", str(tmp_path))
    config = RunConfig(benchmark="mnist", clients=2, partition="class-types:5")
    assert load_benchmark(config).num_clients == 2


def test_a_failed_download_is_one_line_with_the_files_and_where_to_put_them(tmp_path, monkeypatch):
    from torchvision import datasets

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.MNIST, "download", offline)
    with pytest.raises(InputError, match=r"^[^\n]+$") as caught:
        load_benchmark(RunConfig(benchmark="mnist", data_root=str(tmp_path)))
    for word in (
        str(tmp_path),
        "no route to host",
        "MNIST/raw/train-images-idx3-ubyte",
        "mnist.npz",
    ):
        assert word in str(caught.value)


def test_damaged_files_are_named_and_not_downloaded_over(tmp_path):
    make_idx(tmp_path)
    damaged = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(InputError, match="mnist is damaged") as caught:
        load_benchmark(RunConfig(benchmark="mnist", data_root=str(tmp_path)))
    assert "MNIST/raw/train-images-idx3-ubyte" in str(caught.value)
    assert damaged.stat().st_size == 1000
