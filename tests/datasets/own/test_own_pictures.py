"""An owner's folder or function: what is read of it, decoded once, and refused in one line."""

import json
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import own_pictures
import pytest
import torch
from PIL import Image

from fedadapt.datasets.own import decoded, own_data
from fedadapt.datasets.own.agreement import pooled_scaling
from fedadapt.datasets.own.cut import Shares
from fedadapt.datasets.own.decoded import decode_pictures
from fedadapt.datasets.own.looks import difference_hash, taken_at
from fedadapt.datasets.own.own_data import (
    OwnSource,
    channel_sums,
    class_names,
    image_shape,
    read_own_data,
)
from fedadapt.datasets.own.pictures import list_pictures
from fedadapt.datasets.own.schema import Schema
from fedadapt.errors import InputError, RefusedError

SIZE = own_pictures.SIZE
SCHEMA = Schema(("across", "down", "slanted"), (3, SIZE, SIZE), (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def source(tmp_path) -> OwnSource:
    counts = {"across": 6, "down": 5, "unlabelled": 2}
    own_pictures.write_pictures(tmp_path / "images", counts, seed=1)
    return OwnSource(images=str(tmp_path / "images"), state=str(tmp_path / "state"))


def read(source: OwnSource, schema: Schema = SCHEMA, **given) -> own_data.OwnData:
    return read_own_data(source, schema, **given)


def numbers(data: own_data.OwnData) -> list[int]:
    return [len(part) for part in data.split]


def test_a_folder_is_read_with_labels_of_the_schema_whatever_classes_are_there(source):
    data = read(source)
    assert sum(numbers(data)) == 11
    assert min(numbers(data)) >= 2
    labels = torch.cat([part.labels for part in data.split])
    assert torch.bincount(labels, minlength=3).tolist() == [6, 5, 0]
    assert data.unlabelled.shape == (2, 3, SIZE, SIZE)
    turned = Schema(("down", "slanted", "across"), SCHEMA.image_shape, SCHEMA.mean, SCHEMA.std)
    again = torch.cat([part.labels for part in read(source, turned).split])
    assert torch.bincount(again, minlength=3).tolist() == [5, 0, 6]
    assert class_names(source) == ("across", "down")


def test_the_same_pictures_under_other_names_are_cut_and_ordered_alike(source, tmp_path):
    there = tmp_path / "elsewhere"
    for n, path in enumerate(sorted(Path(source.images).rglob("*.png"), reverse=True)):
        (there / path.parent.name).mkdir(parents=True, exist_ok=True)
        (there / path.parent.name / f"{n}.png").write_bytes(path.read_bytes())
    one, other = read(source), read(OwnSource(images=str(there)))
    for mine, theirs in zip(one.split, other.split, strict=True):
        assert torch.equal(mine.inputs, theirs.inputs)
        assert torch.equal(mine.labels, theirs.labels)
    assert one.digest == other.digest


def test_new_pictures_join_and_those_of_a_run_that_has_begun_stay(source, tmp_path):
    before = read(source)
    own_pictures.write_pictures(Path(source.images), {"slanted": 8}, seed=7)
    during = read(source, only=before.pictures)
    assert numbers(during) == numbers(before)
    after = read(source)
    assert sum(numbers(after)) == 19
    for old, new in zip(before.split, after.split, strict=True):
        kept = {image.numpy().tobytes() for image in new.inputs}
        assert all(image.numpy().tobytes() in kept for image in old.inputs)


def test_the_shares_of_the_first_cut_stay(source):
    import dataclasses

    first = read(dataclasses.replace(source, shares=Shares(0.4, 0.4)))
    assert numbers(first)[0] < 5
    assert numbers(read(source)) == numbers(first)


def test_what_cannot_be_read_is_left_out_counted_and_named_in_the_log_only(source, caplog):
    folder = Path(source.images) / "down"
    (folder / "evil\x1b[2J\n.png").write_bytes(b"no picture")
    (folder / "empty.jpg").touch()
    os.mkfifo(folder / "pipe.png")  # would hang
    data = read(source)
    assert data.unreadable == 2
    assert sum(numbers(data)) == 11
    assert "2 of 15 pictures cannot be read" in caplog.text
    assert "\x1b" not in caplog.text


def test_pictures_are_decoded_once_and_again_only_where_the_file_changed(source, monkeypatch):
    read(source)
    asked: list[Path] = []
    honest = decoded._read

    def noted(path: Path, size: int):
        asked.append(path)
        return honest(path, size)

    monkeypatch.setattr(decoded, "_read", noted)
    first = read(source)
    assert asked == []
    changed = Path(source.images) / "down" / "000.png"
    own_pictures.picture("down", 999).save(changed)
    second = read(source)
    assert asked == [changed]
    assert first.pictures != second.pictures
    for damage in (b"", b"{}", b"[1]"):
        asked.clear()
        (Path(source.state) / "own-data" / f"decoded-{SIZE}.json").write_bytes(damage)
        assert numbers(read(source)) == numbers(second)
        assert len(asked) == 13
    [kept] = (Path(source.state) / "own-data").glob("decoded-*.npy")
    assert kept.stat().st_mode & 0o077 == 0


def test_what_was_kept_is_what_was_decoded(source, tmp_path):
    pictures = list_pictures(Path(source.images))
    (tmp_path / "kept").mkdir()
    new = decode_pictures(pictures, SIZE, tmp_path / "kept")
    kept = decode_pictures(pictures, SIZE, tmp_path / "kept")
    assert np.array_equal(new.pixels, kept.pixels)
    assert new.looks == kept.looks


def refused(word: str, call, *arguments):
    with pytest.raises(RefusedError) as caught:
        call(*arguments)
    assert caught.value.word == word
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_that_will_not_do_is_refused_with_a_fixed_word(source, tmp_path):
    refused("no-images", list_pictures, tmp_path / "nowhere")
    (tmp_path / "empty" / "cats").mkdir(parents=True)
    refused("no-images", list_pictures, tmp_path / "empty")
    refused("unknown-class", read, source, Schema(("cat", "down"), *SCHEMA_REST))
    for n, name in enumerate(("a,b", "bell\a", "x" * 101, "\udcff")):
        own_pictures.write_pictures(tmp_path / f"bad-{n}", {"down": 1}, seed=1)
        (tmp_path / f"bad-{n}" / "down").rename(tmp_path / f"bad-{n}" / name)
        line = refused("bad-class-name", list_pictures, tmp_path / f"bad-{n}")
        assert "\a" not in line


SCHEMA_REST = (SCHEMA.image_shape, SCHEMA.mean, SCHEMA.std)


@pytest.mark.parametrize(("count", "works"), [(2, False), (3, True), (10, True)])
def test_few_pictures_of_one_class_work_from_three_on(tmp_path, count, works):
    own_pictures.write_pictures(tmp_path / "images", {"down": count}, seed=1)
    source = OwnSource(images=str(tmp_path / "images"))
    if works:
        assert sum(numbers(read(source))) == count
    else:
        assert "three pictures" in refused("too-few-pictures", read, source)


def test_copies_of_one_picture_are_too_few(tmp_path):
    folder = tmp_path / "images" / "down"
    folder.mkdir(parents=True)
    for n in range(10):
        own_pictures.picture("down", 1, 64).resize((64 + n, 64)).save(folder / f"{n}.png")
    refused("too-few-pictures", read, OwnSource(images=str(tmp_path / "images")))


def test_names_are_the_same_composed_or_not(tmp_path):
    """As one file system has them, and another."""
    for name in ("caf\u00e9", "cafe\u0301"):
        own_pictures.write_pictures(tmp_path / name, {"down": 3}, seed=1)
        (tmp_path / name / "down").rename(tmp_path / name / name)
    found = [class_names(OwnSource(images=str(tmp_path / n))) for n in ("caf\u00e9", "cafe\u0301")]
    assert found[0] == found[1] == ("caf\u00e9",)


def test_the_time_a_camera_wrote_is_read(tmp_path):
    image = own_pictures.picture("down", 1)
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2026:05:01 10:00:02"
    exif.get_ifd(0x8769)[0x9291] = "25"
    image.save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as file:
        later = taken_at(file.getexif())
    exif.get_ifd(0x8769)[0x9003] = "2026:05:01 09:59:59"
    image.save(tmp_path / "b.jpg", exif=exif)
    with Image.open(tmp_path / "b.jpg") as file:
        assert later - taken_at(file.getexif()) == 3.0
    assert taken_at(Image.Exif()) is None


def test_a_picture_in_another_size_and_compression_looks_the_same_and_another_one_does_not():
    def bits(image: Image.Image) -> int:
        return int.from_bytes(difference_hash(image), "big")

    rng = np.random.default_rng(1)
    smooth = [
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).resize((96, 96))
        for _ in range(2)
    ]
    assert (bits(smooth[0]) ^ bits(smooth[0].resize((50, 50)))).bit_count() <= 16
    assert (bits(smooth[0]) ^ bits(smooth[1])).bit_count() > 60
    assert difference_hash(Image.new("RGB", (50, 50), "grey")) == b""


def test_sums_of_channels_pool_to_the_mean_and_deviation_of_all_pictures():
    rng = np.random.default_rng(3)
    parts = [torch.from_numpy(rng.integers(0, 256, (n, 3, 4, 4), np.uint8)) for n in (5, 2)]
    label = torch.zeros(9, dtype=torch.int64)
    sums = [channel_sums(own_data.Examples(x, label[: len(x)])) for x in parts]
    found = pooled_scaling(sums)
    every = torch.cat(parts).double().transpose(0, 1).flatten(1) / 255
    assert found.mean == pytest.approx(every.mean(1).tolist(), rel=1e-12)
    assert found.std == pytest.approx(every.std(1, correction=0).tolist(), rel=1e-12)
    black = pooled_scaling([channel_sums(own_data.Examples(parts[0] * 0, label[:5]))])
    assert black.std == (1.0, 1.0, 1.0)


# A function of the owner


@pytest.fixture
def plug_in(monkeypatch):
    """A module ``camera`` whose function ``take`` returns what is put into it."""
    module = ModuleType("camera")
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 10), np.uint8)
    module.result = (images, ["across", "down"] * 5 + [None, -1], list("aabbccddeexy"))
    module.take = lambda: module.result
    module.__spec__ = pytest.__spec__  # so that it is found
    monkeypatch.setitem(sys.modules, "camera", module)
    return module


def test_a_data_source_of_the_owner_gives_images_classes_and_scenes(plug_in):
    source = OwnSource(data="camera:take")
    assert class_names(source) == ("across", "down")
    assert image_shape(source, 0) == (1, 8, 10)
    assert image_shape(source, 6) == (1, 6, 6)
    schema = Schema(("down", "across"), (1, 8, 10), (0.5,), (0.5,))
    data = read(source, schema)
    assert sum(numbers(data)) == 10
    assert data.unlabelled.shape == (2, 1, 8, 10)
    assert all(torch.bincount(part.labels).tolist() == [n / 2] * 2
               for n, part in zip(numbers(data), data.split, strict=True))  # fmt: skip
    smaller = Schema(("down", "across"), (1, 6, 6), (0.5,), (0.5,))
    assert read(source, smaller).split.train.inputs.shape[1:] == (1, 6, 6)
    refused("another-shape", read, source, SCHEMA)


@pytest.mark.parametrize(
    ("result", "line"),
    [
        ([1, 2], "returned a list; it must return (images, labels)"),
        ((np.zeros((2, 4, 4)), ["a", "b"]), "it must return images, uint8"),
        ((np.zeros((2, 4, 4), np.uint8), ["a", "b"], ["x"]), "1 scenes for 2 pictures"),
    ],
)
def test_a_bad_data_source_is_refused_in_one_line(plug_in, result, line):
    plug_in.result = result
    with pytest.raises(InputError) as refusal:
        class_names(OwnSource(data="camera:take"))
    assert line in str(refusal.value)


def test_a_schema_survives_the_way_and_a_bad_one_is_refused():
    assert Schema.from_text(SCHEMA.to_text()) == SCHEMA
    tasks = Schema(("a", "b", "c", "d"), (1, 4, 4), (0.0,), (1.0,), True,
                   (("x", ("a", "b")), ("y", ("c", "d"))))  # fmt: skip
    assert Schema.from_text(tasks.to_text()) == tasks
    good = json.loads(SCHEMA.to_text())
    for change in (
        {"classes": ["a"]}, {"classes": ["a", "a"]}, {"image_shape": [3, 4]},
        {"image_shape": [3, 0, 4]}, {"image_shape": [1, 4, 4]}, {"std": [0.0, 1.0, 1.0]},
        {"std": [float("nan")] * 3}, {"mean": 3}, {"tasks": [["x", ["a"]]]}, {"classes": None},
    ):  # fmt: skip
        with pytest.raises(InputError, match="schema: "):
            Schema.from_text(json.dumps({**good, **change}))
    for text in ("", "[]", "{}", "3"):
        with pytest.raises(InputError, match="schema: "):
            Schema.from_text(text)
