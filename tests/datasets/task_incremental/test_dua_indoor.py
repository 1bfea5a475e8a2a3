"""MIT Indoor Scenes as DUA divides them, on a small folder of the same layout."""

import numpy as np
import pytest
import torch
from PIL import Image

from fedadapt.config import RunConfig
from fedadapt.datasets.task_incremental.benchmark import DRAWS
from fedadapt.datasets.task_incremental.dua_indoor import (
    catprior_users,
    shared_out,
    transprior_user,
)
from fedadapt.datasets.task_incremental.load import load_tasks
from fedadapt.datasets.task_incremental.mit_indoor import (
    PREFERENCES,
    TASKS,
    centre,
    read_photograph,
    read_scenes,
)
from fedadapt.errors import InputError

CLASSES = [name for classes in TASKS.values() for name in classes]
TRAIN, TEST, EXTRA = 5, 6, 10  # all five users like casino: two extras each


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """51 classes of 21 small images, wide and high; the lists name others as well."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "indoorCVPR_09"
    rng = np.random.default_rng(0)
    lists: dict[str, list[str]] = {"Train": ["office/gone.jpg"], "Test": ["office/too.jpg"]}
    for name in CLASSES:
        (folder / "Images" / name).mkdir(parents=True)
        for number in range(TRAIN + TEST + EXTRA):
            shape = (12, 10, 3) if number % 2 else (10, 12, 3)
            file = f"{name}/{number:02d}.jpg"
            pixels = rng.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "Images" / file)
            if number < TRAIN + TEST:
                lists["Train" if number < TRAIN else "Test"].append(file)
    for part, files in lists.items():
        (root / f"{part}Images.txt").write_text("\r\n".join(files) + "\n", "utf-8")
    return root


def load(root, name: str = "dua-catprior", **settings):
    words = {"dua-catprior": "category-prior:2", "dua-transprior": "same-images:30"}
    given = {"clients": 0, "image_size": 8, "partition": words[name], **settings}
    return load_tasks(RunConfig(benchmark=name, data_root=str(root), **given))


def counts(classes: int, each: int, start: int = 0) -> dict[str, np.ndarray]:
    return {
        name: np.arange(start + each * c, start + each * (c + 1))
        for c, name in enumerate(CLASSES[:classes])
    }


def test_the_lists_are_those_of_the_paper():
    assert [len(classes) for classes in TASKS.values()] == [14, 11, 14, 12]
    assert len(set(CLASSES)) == 51
    assert all(list(classes) == sorted(classes) for classes in TASKS.values())
    assert len(PREFERENCES) == 5
    for preferred in PREFERENCES:
        assert list(preferred) == list(TASKS)
        for task, liked in preferred.items():
            assert len(set(liked)) == 3
            assert set(liked) <= set(TASKS[task])


@pytest.mark.parametrize("name", ["dua-catprior", "dua-transprior"])
def test_server_and_users_share_nothing_and_nobody_is_tested_on_what_it_adapts_to(root, name):
    benchmark = load(root, name)
    scenes = read_scenes(root / "indoorCVPR_09")
    server = np.concatenate([part for rows in benchmark.server for part in rows])
    assert sorted(server) == np.flatnonzero(scenes.train).tolist()
    for draw in range(1, DRAWS + 1):
        users = [h for task in range(4) for h in benchmark.users(task, draw)]
        adapt, test = (np.concatenate(half) for half in zip(*users, strict=True))
        assert not np.intersect1d(adapt, test).size
        assert not np.intersect1d(server, np.concatenate((adapt, test))).size
        held = np.concatenate((adapt, test))
        assert set(np.flatnonzero(scenes.test)) <= set(held)  # all test images are used
        if name == "dua-catprior":
            assert len(np.unique(held)) == len(held)  # exclusive across users


def test_a_catprior_user_holds_more_of_what_it_likes(root):
    benchmark = load(root)
    scenes = read_scenes(root / "indoorCVPR_09")
    extra = ~(scenes.train | scenes.test)
    for task, (name, classes) in enumerate(TASKS.items()):
        for user, parts in enumerate(benchmark.users(task, 3)):
            for part in parts:
                preferred = [classes[scenes.labels[row]] for row in part if extra[row]]
                assert sorted(preferred) == sorted(PREFERENCES[user][name])  # one each of 2 extras
            own = np.concatenate(parts)
            shares = np.bincount(scenes.labels[own[~extra[own]]], minlength=len(classes))
            assert set(shares) <= {1, 2}  # six test images, five users


def test_seventy_extras_give_the_papers_sizes():
    """Spec: about 133 images a half with 14 classes; 20 test images a class, ample extras."""
    names = CLASSES[:14]
    users = catprior_users(
        counts(14, 20), counts(14, 400, 10_000), [names[3 * u : 3 * u + 3] if u < 4 else names[:3]
        for u in range(5)], 70, np.random.default_rng(0),
    )  # fmt: skip
    assert [tuple(map(len, user)) for user in users] == [(133, 133)] * 5


def test_too_few_extras_are_refused_with_the_most_there_could_be():
    liked = [CLASSES[:3]] * 5
    tests, extras = counts(14, 20), counts(14, 374, 10_000)
    catprior_users(tests, extras, liked, 74, np.random.default_rng(0))
    with pytest.raises(
        InputError, match=r"5 users prefer 'bathroom', .* at most category-prior:74"
    ):
        catprior_users(tests, extras, liked, 75, np.random.default_rng(0))
    with pytest.raises(InputError, match="at most same-images:5236"):
        transprior_user(tests, extras, 6000, np.random.default_rng(0))


def test_transprior_redraws_the_extras_and_keeps_the_test_images():
    tests, extras = counts(14, 20), counts(14, 200, 10_000)
    one, two = (transprior_user(tests, extras, 1000, np.random.default_rng(s)) for s in (1, 2))
    assert [len(half) for half in one] == [640, 640]  # spec: about 640
    for first, second in zip(one, two, strict=True):
        assert np.array_equal(first[first < 10_000], second[second < 10_000])
        assert not np.array_equal(first[first >= 10_000], second[second >= 10_000])


def test_remainders_go_to_random_users():
    seen = [[len(s) for s in shared_out(np.arange(22), 5, np.random.default_rng(n))]
            for n in range(20)]  # fmt: skip
    assert all(sorted(sizes) == [4, 4, 4, 5, 5] for sizes in seen)
    assert np.max(seen, axis=0).tolist() == [5] * 5


def test_transprior_users_hold_the_same_images_through_ten_cameras(root):
    benchmark = load(root, "dua-transprior")
    view = benchmark.of_task(1)
    assert view.num_clients == 10
    assert benchmark.kinds[7] == "jpeg"
    assert all(view.rows(d) is view.rows(0) for d in range(10))
    tests = [view.split(d).test.inputs for d in range(10)]
    assert all(not torch.equal(tests[0], other) for other in tests[1:])
    again = load(root, "dua-transprior").of_task(1).split(4).test
    assert torch.equal(again.inputs, tests[4])  # the noise is the same at every load


def test_native_images_are_cut_and_not_resized(root):
    resized = load(root, "dua-transprior")
    native = load(root, "dua-transprior", shift="native-corruptions:3")
    assert resized.manifest.hash != native.manifest.hash
    rows = resized.users(0, 1)[0].test[:3]
    assert torch.equal(resized.images.inputs(rows, None), native.images.inputs(rows, None))
    file = native.images.scenes.folder / native.images.scenes.files[rows[0]]
    raw = read_photograph(file, 0)
    assert sorted(raw.shape) == [3, 10, 12]
    found = native.images.inputs(rows, 8)[0].permute(1, 2, 0).numpy().astype(float)
    part = centre(raw, 8).astype(float)
    contrast = (part - raw.mean((0, 1))) * 0.2 + raw.mean((0, 1))  # user 9's camera
    assert np.abs(found - contrast).max() <= 0.5 + 1e-9


def test_small_images_are_padded_with_zeros_around_the_middle():
    image = np.full((3, 6, 3), 7, np.uint8)
    square = centre(image, 5)
    assert square.shape == (5, 5, 3)
    assert square[:, 0, 0].tolist() == [0, 7, 7, 7, 0]


def test_the_shorter_side_is_resized(tmp_path):
    Image.new("L", (60, 30), 90).save(tmp_path / "grey.jpg")
    image = read_photograph(tmp_path / "grey.jpg", 10)
    assert image.shape == (10, 20, 3)
    assert (image == 90).all()


def test_scaling_is_imagenets_unless_asked_for_something_else(root):
    assert load(root).scaling.mean == (0.485, 0.456, 0.406)
    assert load(root, normalization="unit").scaling.std == (1.0,) * 3
    assert load(root, normalization="data").scaling.mean[0] == pytest.approx(0.5, abs=0.05)


def test_equal_settings_give_equal_manifests_and_views_have_their_own(root):
    one, again, other = load(root), load(root), load(root, seed=2)
    assert one.manifest == again.manifest
    assert one.manifest.hash != other.manifest.hash
    assert one.of_task(0).manifest.hash != one.of_task(1).manifest.hash
    assert str(root) not in str(one.manifest.metadata)


def test_examples_caps_what_the_server_learns_from(root):
    tasks = load(root, examples=12).tasks
    assert [(len(t.train), len(t.validation)) for t in tasks] == [(12, 3)] * 4
    assert tasks[0].train.inputs.shape == (12, 3, 8, 8)


def test_a_missing_data_set_is_one_line_that_shows_the_layout(tmp_path, monkeypatch):
    monkeypatch.delenv("FEDADAPT_DATA", raising=False)
    with pytest.raises(InputError, match=r"put indoorCVPR_09/Images/<class>/\*.jpg with Train"):
        load(tmp_path)
    with pytest.raises(InputError, match=r"^data-root: .* read from a folder and none is given"):
        load("")


@pytest.fixture
def broken(root, tmp_path):
    """A copy whose images are links, to be damaged."""
    (tmp_path / "indoorCVPR_09").mkdir()
    for name in CLASSES:
        own = tmp_path / "indoorCVPR_09" / "Images" / name
        own.mkdir(parents=True)
        for file in (root / "indoorCVPR_09" / "Images" / name).iterdir():
            (own / file.name).symlink_to(file)
    for name in ("TrainImages.txt", "TestImages.txt"):
        (tmp_path / name).write_text((root / name).read_text("utf-8"), "utf-8")
    return tmp_path


def test_few_missing_images_are_counted_and_many_refused(broken):
    images = broken / "indoorCVPR_09" / "Images"
    (images / "bar" / "00.jpg").unlink()
    assert load(broken).manifest.metadata["missing"] == 1
    for name in CLASSES[:10]:
        (images / name / "01.jpg").unlink()
    with pytest.raises(InputError, match=r"is listed and not there, like 11 of 561 images"):
        load(broken)


def test_an_image_in_both_lists_is_refused(broken):
    with (broken / "TestImages.txt").open("a") as file:
        file.write("bar/00.jpg\n")
    with pytest.raises(InputError, match=r"bar/00.jpg is in TrainImages.txt and in Test"):
        load(broken)


def test_a_damaged_image_is_named(broken):
    damaged = broken / "indoorCVPR_09" / "Images" / "bathroom" / "00.jpg"
    damaged.unlink()
    damaged.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"bathroom.00.jpg: is no readable image"):
        assert load(broken).tasks


def test_a_class_without_images_is_named(broken):
    for file in (broken / "indoorCVPR_09" / "Images" / "deli").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="deli: holds no images"):
        load(broken)
