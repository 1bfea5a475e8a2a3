"""Data that belong to their clients: npz, folders, torch and Hugging Face data sets, HAR, LEAF."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from fedadapt.config import RunConfig
from fedadapt.datasets.data_spec import check_data
from fedadapt.datasets.load import load_benchmark
from fedadapt.datasets.registry import defaults_of_owned
from fedadapt.datasets.sources.har import CLASSES, recordings
from fedadapt.datasets.sources.hugging_face import parse_name
from fedadapt.datasets.sources.iwildcam import most_frequent
from fedadapt.datasets.sources.leaf import LETTERS, blocks
from fedadapt.datasets.sources.torch_dataset import store_of_dataset
from fedadapt.errors import InputError

NUM = 60
ROWS = np.arange(NUM)
IMAGES = np.random.default_rng(1).integers(0, 256, (NUM, 6, 5), np.uint8)


def loaded(benchmark, **changes):
    return load_benchmark(RunConfig(**{"benchmark": benchmark, "clients": 0, **changes}))


def held(benchmark, client):
    return np.concatenate(benchmark.rows(client))


def test_an_npz_under_any_name(tmp_path):
    path = tmp_path / "any name.npz"
    np.savez(
        path, x=IMAGES, y=ROWS % 3, client=ROWS % 4 + 7, group=ROWS // 8, classes=["a", "b", "c"]
    )
    benchmark = loaded(f"npz:{path}")
    assert benchmark.num_clients == 4
    assert benchmark.classes == ("a", "b", "c")
    assert benchmark.image_shape == (1, 6, 5)
    assert benchmark.manifest.metadata["owners"] == ["7", "8", "9", "10"]  # as numbers are sorted
    assert benchmark.manifest.metadata["benchmark"] == "npz"
    assert set(held(benchmark, 1) % 4) == {1}
    moved = tmp_path / "moved.npz"
    moved.write_bytes(path.read_bytes())
    assert loaded(f"npz:{moved}").manifest == benchmark.manifest
    with pytest.raises(InputError, match="clients: 5 is more than the 4"):
        loaded(f"npz:{path}", clients=5)


def test_an_npz_without_clients_is_divided(tmp_path):
    np.savez(tmp_path / "d.npz", x=IMAGES, y=ROWS % 3)
    benchmark = loaded(f"npz:{tmp_path}/d.npz", clients=3, partition="class-types:1")
    assert benchmark.kinds == ("0", "1", "2")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": IMAGES}, "lacks y"),
        ({"x": IMAGES, "y": ROWS % 3, "client": ROWS[:5]}, r"client is int64 \[5\]"),
        ({"x": IMAGES, "y": ROWS % 3, "group": ROWS / 2}, "group is float64"),
        ({"x": IMAGES + 0j, "y": ROWS % 3}, "x_train is complex128"),
        ({"x": np.full((NUM, 3), np.nan), "y": ROWS % 3}, "not finite"),
        ({"x": ROWS[:, None] - 5, "y": ROWS % 3}, "tokens from -5 to 54"),
    ],
)
def test_a_bad_npz_is_one_line(tmp_path, arrays, said):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=said) as caught:
        loaded(f"npz:{tmp_path}/bad.npz")
    assert "\n" not in str(caught.value)


def test_time_series_are_standardised_channel_by_channel(tmp_path):
    series = np.random.default_rng(2).normal([[3.0], [-1.0]], [[2.0], [0.1]], (NUM, 2, 7))
    np.savez(tmp_path / "s.npz", x=series, y=ROWS % 3, client=ROWS % 2)
    benchmark = loaded(f"npz:{tmp_path}/s.npz")
    assert benchmark.image_shape == (2, 7)
    train = torch.cat([benchmark.split(d).train.inputs for d in range(2)])
    assert train.dtype == torch.float32
    scaled = benchmark.scaling(train).double()
    torch.testing.assert_close(scaled.mean((0, 2)), torch.zeros(2).double(), atol=1e-5, rtol=0)
    deviation = scaled.std((0, 2), unbiased=False)
    torch.testing.assert_close(deviation, torch.ones(2).double(), atol=1e-5, rtol=0)
    plain = loaded(f"npz:{tmp_path}/s.npz", normalization="unit")
    assert torch.equal(plain.scaling(train), train)
    for changes, said in (
        ({"shift": "rotation"}, "shift: rotation applies to images; .* has measurements"),
        ({"image_size": 8}, "image-size: 8 applies to images"),
        ({"normalization": "imagenet"}, "normalization: imagenet does not apply to measurements"),
    ):
        with pytest.raises(InputError, match=said):
            loaded(f"npz:{tmp_path}/s.npz", **changes)


def test_tokens_stay_whole_numbers(tmp_path):
    tokens = np.random.default_rng(3).integers(0, 9, (NUM, 5))
    np.savez(tmp_path / "t.npz", x=tokens, y=ROWS % 3, client=ROWS % 2)
    benchmark = loaded(f"npz:{tmp_path}/t.npz")
    assert (benchmark.vocabulary, benchmark.image_shape) == (9, (5,))
    inputs = benchmark.split(0).train.inputs
    assert benchmark.scaling(inputs) is inputs
    assert inputs.dtype == torch.int64
    with pytest.raises(InputError, match="normalization: unit does not apply to tokens"):
        loaded(f"npz:{tmp_path}/t.npz", normalization="unit")


def test_known_measurements_are_refused_what_is_for_images_before_they_are_opened():
    with pytest.raises(InputError, match="shift: corruptions:3 applies to images; har has"):
        check_data(RunConfig(benchmark="har", clients=0, shift="corruptions:3", data_root="/"))


def test_every_outer_folder_is_a_client(tmp_path):
    for number in ROWS[:36]:
        folder = tmp_path / f"camera {number % 3}" / ("fox" if number % 2 else "hare")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[number]).save(folder / f"{number}.png")
    benchmark = loaded(f"clients:{tmp_path}")
    assert benchmark.classes == ("fox", "hare")
    assert benchmark.manifest.metadata["owners"] == ["camera 0", "camera 1", "camera 2"]
    assert [len(held(benchmark, d)) for d in range(3)] == [12] * 3
    with pytest.raises(InputError, match="clients: 4 is more than the 3"):
        check_data(RunConfig(benchmark=f"clients:{tmp_path}", clients=4))


class Items(Dataset):
    classes = ("x", "y", "z")

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return NUM

    def __getitem__(self, number):
        return self.make(number)


def test_a_torch_data_set_is_read_item_by_item():
    image = torch.from_numpy(IMAGES)
    store = store_of_dataset("d", Items(lambda n: (image[n][None], n % 3, f"c{n % 2}", n // 4)))
    assert store.inputs.shape == (NUM, 1, 6, 5)
    assert torch.equal(store.inputs[7, 0], image[7])
    assert store.classes == ("x", "y", "z")
    assert store.owners == ("c0", "c1")
    assert len(np.unique(store.group_of)) == 2 * NUM // 4
    picture = store_of_dataset("d", Items(lambda n: (Image.fromarray(IMAGES[n]), n % 3)))
    assert torch.equal(picture.inputs, store.inputs)
    words = store_of_dataset("d", Items(lambda n: (torch.ones(2, 4), ("no", "yes")[n % 2])))
    assert words.classes == ("no", "yes")
    assert words.inputs.shape == (NUM, 2, 4)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda n: (torch.ones(3),), r"item 0 is a tuple; items must be \(input, label\)"),
        (lambda n: (torch.ones(2 + n), 0), r"item 1 is 2 values with an input of \[3\]"),
        (lambda n: 1 // (n - 3), "item 3 failed|item 0 is a int"),
    ],
)
def test_a_bad_torch_data_set_is_one_line(make, said):
    with pytest.raises(InputError, match=said):
        store_of_dataset("d", Items(make))
    with pytest.raises(InputError, match="without a length"):
        store_of_dataset("d", SimpleNamespace())


def test_a_hugging_face_data_set_saved_on_disk(tmp_path):
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("flwr_datasets")
    columns = {
        "x": IMAGES.tolist(),
        "what": ["cat", "dog", "fox"] * (NUM // 3),
        "who": [f"w{n % 3}" for n in ROWS],
        "number": (ROWS % 12).tolist(),
    }
    features = datasets.Features({
        "x": datasets.Array2D((6, 5), "uint8"),
        "what": datasets.Value("string"),
        "who": datasets.Value("string"),
        "number": datasets.Value("int64"),
    })  # fmt: skip
    saved = datasets.Dataset.from_dict(columns, features)
    saved.save_to_disk(tmp_path / "set")
    benchmark = loaded(f"hf:{tmp_path}/set?client=who&label=what")
    assert benchmark.manifest.metadata["owners"] == ["w0", "w1", "w2"]
    assert benchmark.classes == ("cat", "dog", "fox")
    for client in range(3):
        assert set(held(benchmark, client) % 3) == {client}
    assert torch.equal(benchmark._store.inputs[:, 0], torch.from_numpy(IMAGES))
    twelve = loaded(f"hf:{tmp_path}/set?client=number&label=what")
    assert twelve.manifest.metadata["owners"] == [str(n) for n in range(12)]
    with pytest.raises(InputError, match="has no column 'whom' for client; did you mean 'who'"):
        loaded(f"hf:{tmp_path}/set?client=whom&label=what")
    with pytest.raises(InputError, match="has one part; leave split out"):
        loaded(f"hf:{tmp_path}/set?label=what&split=test")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf:", "is not of the form hf:NAME"),
        ("hf:set", "is not of the form hf:NAME"),
        ("hf:set?label=y&clint=z", "unknown 'clint'; did you mean 'client'"),
        ("hf:set?label=", "label names nothing"),
    ],
)
def test_a_bad_name_of_a_hugging_face_data_set_is_one_line(name, said):
    with pytest.raises(InputError, match=said):
        parse_name(name)


def har_windows(persons=2, activities=(1, 5), windows=6):
    """Overlapping windows of one long signal for each person and activity: [N, 9, 128]."""
    rng = np.random.default_rng(4)
    parts = []
    for person in range(persons):
        for label in activities:
            signal = rng.normal(size=(9, 64 * (windows + 1))).round(5)
            for start in range(windows):
                parts.append((signal[:, 64 * start : 64 * start + 128], label, person + 1))
    return (np.array([part[i] for part in parts]) for i in range(3))


def test_uci_har_in_its_official_files(tmp_path):
    signals, labels, persons = har_windows(persons=4, activities=(1, 2, 3, 4, 5, 6))
    names = [f"{k}_{a}" for k in ("body_acc", "body_gyro", "total_acc") for a in "xyz"]
    for part, of_part in (("train", persons != 2), ("test", persons == 2)):
        folder = tmp_path / "UCI HAR Dataset" / part
        (folder / "Inertial Signals").mkdir(parents=True)
        np.savetxt(folder / f"y_{part}.txt", labels[of_part], "%d")
        np.savetxt(folder / f"subject_{part}.txt", persons[of_part], "%d")
        for channel, name in enumerate(names):
            file = folder / "Inertial Signals" / f"{name}_{part}.txt"
            np.savetxt(file, signals[of_part, channel], "%.7e")
    settings = {"data_root": str(tmp_path), "split": "ungrouped"}
    official = loaded("har", **settings)
    assert official.manifest.metadata["owners"] == ["1", "2", "3", "4"]
    assert official.classes == CLASSES
    assert official.manifest.metadata["groups"] == 24
    store = official._store
    assert np.allclose(store.inputs[store.owner_of == 1], signals[persons == 2], atol=1e-5)
    np.savez(tmp_path / "har.npz", x=signals.transpose(0, 2, 1).astype(np.float32), y=labels - 1,
             client=persons, group=recordings(signals, persons, labels))  # fmt: skip
    packed = loaded("har", **settings)
    assert np.allclose(packed._store.inputs, signals)
    assert [sorted(labels[held(packed, d)]) for d in range(4)] == [
        sorted(labels[persons == d + 1]) for d in range(4)
    ]
    (tmp_path / "har.npz").unlink()
    (tmp_path / "UCI HAR Dataset/test/y_test.txt").unlink()
    with pytest.raises(InputError, match=r"har is not there; put har\.npz there, or the folder"):
        loaded("har", **settings)


def test_a_recording_is_a_chain_of_overlapping_windows():
    signals, labels, persons = har_windows(windows=3)
    assert recordings(signals, persons, labels).tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    gap = np.delete(np.arange(12), 1)  # the second window is missing: two recordings
    assert recordings(signals[gap], persons[gap], labels[gap]).tolist()[:3] == [0, 1, 2]


def test_the_rarer_classes_are_one_more():
    labels = np.repeat([7, 3, 9, 1], [2, 5, 4, 2])
    numbers, names = most_frequent(labels, kept=2)
    assert names == ("3", "9", "other")
    assert np.bincount(numbers).tolist() == [5, 4, 4]
    assert (numbers[labels == 9] == 1).all()
    assert most_frequent(labels, kept=4)[1] == ("3", "9", "1", "7")


def leaf_file(folder, users):
    folder.mkdir(parents=True)
    data = {
        "users": list(users),
        "num_samples": [len(y) for _, y in users.values()],
        "user_data": {user: {"x": x, "y": y} for user, (x, y) in users.items()},
    }
    (folder / "all_data_0.json").write_text(json.dumps(data))


def test_femnist_by_writer_in_leafs_layout(tmp_path):
    folder = tmp_path / "femnist" / "data"
    rng = np.random.default_rng(5)
    users = {
        f"f{n}": (rng.random((31, 784)).round(3).tolist(), list(range(n, 62, 2))) for n in (0, 1)
    }
    leaf_file(folder / "train", users)
    leaf_file(folder / "test", {"f0": (rng.random((4, 784)).tolist(), [0, 2, 4, 6])})
    benchmark = loaded("femnist", data_root=str(tmp_path))
    assert benchmark.image_shape == (1, 28, 28)
    assert [len(held(benchmark, d)) for d in range(2)] == [35, 31]
    first = np.rint(np.array(users["f0"][0][0]) * 255).reshape(28, 28)
    assert np.array_equal(benchmark._store.inputs[0, 0], first)
    with pytest.raises(InputError, match="femnist/data: has no all_data"):
        loaded("femnist", data_root="/")


def test_celeba_by_person_in_leafs_layout(tmp_path):
    folder = tmp_path / "celeba" / "data"
    faces = folder / "raw" / "img_align_celeba"
    faces.mkdir(parents=True)
    names = [f"{n:06}.png" for n in range(12)]
    for number, name in enumerate(names):
        Image.fromarray(np.full((22, 18, 3), 9 * number, np.uint8)).save(faces / name)
    leaf_file(folder / "all_data", {str(u): (names[u::2], [0, 1, 1] * 2) for u in range(2)})
    benchmark = loaded("celeba", data_root=str(tmp_path))
    assert benchmark.image_shape == (3, 84, 84)
    assert benchmark.classes == ("not smiling", "smiling")
    assert int(benchmark._store.inputs[1].float().mean()) == 18
    (faces / names[3]).unlink()
    with pytest.raises(InputError, match=r"000003\.png: is no readable image"):
        loaded("celeba", data_root=str(tmp_path))


def test_shakespeare_by_role_shares_no_letter_between_sides(tmp_path):
    rng = np.random.default_rng(6)
    texts = ["".join(rng.choice(list("abcde \n"), 80 + num)) for num in (300, 260, 100)]
    users = {
        f"ROLE_{n}": ([text[i : i + 80] for i in range(len(text) - 80)], list(text[80:]))
        for n, text in enumerate(texts)
    }
    leaf_file(tmp_path / "shakespeare" / "data" / "all_data", users)
    benchmark = loaded("shakespeare", data_root=str(tmp_path))
    assert benchmark.num_clients == 2  # the third role has too few windows for three blocks
    assert benchmark.image_shape == (80,)
    assert benchmark.vocabulary <= len(LETTERS)
    for client, text in enumerate(texts[:2]):
        seen = []
        for part in benchmark.split(client):
            starts = [text.index("".join(LETTERS[t] for t in window)) for window in part.inputs]
            letters = [benchmark.classes[label] for label in part.labels]
            assert letters == [text[start + 80] for start in starts]
            seen.append({place for start in starts for place in range(start, start + 80)})
        assert not seen[0] & seen[1]
        assert not seen[0] & seen[2]
        assert not seen[1] & seen[2]


def test_blocks_of_a_text():
    assert blocks(240, 80) == [range(0, 1), range(80, 81), range(160, 240)]
    assert blocks(237, 80) == []
    assert len(blocks(4000, 80)) == len(blocks(9000, 80)) == 10


def test_all_clients_are_the_default_where_data_belong_to_them():
    for settings in ({"benchmark": "har"}, {"benchmark": "clients:/x"}, {"partition": "natural"}):
        assert defaults_of_owned(settings) == {"clients": 0}
    for settings in ({}, {"benchmark": "mnist"}, {"benchmark": "har", "partition": "iid"}):
        assert defaults_of_owned(settings) == {}
