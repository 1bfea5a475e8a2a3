"""Image folders: order, names, links, and every kind of bad file."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from fedadapt.config import RunConfig
from fedadapt.datasets.load import load_benchmark
from fedadapt.datasets.sources.decode import decode, read_image
from fedadapt.datasets.sources.image_folder import list_images
from fedadapt.errors import InputError

COLOURS = {"cat": (200, 30, 30), "dog": (30, 200, 30), "emu": (30, 30, 200)}


def make_folder(root: Path, num: int = 8, size: tuple[int, int] = (20, 16)) -> str:
    """Two domains x three classes of flat images whose colour tells the class."""
    for level, domain in enumerate(("photo", "sketch")):
        for name, colour in COLOURS.items():
            place = root / domain / name
            place.mkdir(parents=True)
            for n in range(num):
                shade = tuple(c + 5 * level + n for c in colour)
                Image.new("RGB", size, shade).save(place / f"{n}.png")
    return f"folder:{root}"


def test_a_folder_is_decoded_in_sorted_order_with_its_names(tmp_path):
    make_folder(tmp_path)
    seen = []
    store = decode(list_images(tmp_path), 0, lambda done, total: seen.append((done, total)))
    assert store.inputs.shape == (48, 3, 16, 16)  # the shorter side of the first image
    assert store.classes == ("cat", "dog", "emu")
    assert store.domains == ("photo", "sketch")
    for number in range(48):
        domain, label, shade = number // 24, number // 8 % 3, number % 8
        assert store.labels[number] == label
        assert store.domain_of is not None
        assert store.domain_of[number] == domain
        colour = torch.tensor(list(COLOURS.values())[label]) + 5 * domain + shade
        assert torch.equal(store.inputs[number, :, 8, 8].long(), colour)
    assert seen[-1] == (48, 48)


def test_a_folder_becomes_clients_by_domain(tmp_path):
    benchmark = load_benchmark(RunConfig(benchmark=make_folder(tmp_path), clients=4))
    assert benchmark.kinds == ("photo", "photo", "sketch", "sketch")
    assert benchmark.image_shape == (3, 16, 16)
    assert benchmark.global_test is None
    shades = [benchmark.split(d).train.inputs[:, 0].float().mean() for d in (0, 2)]
    assert shades[0] != shades[1]
    rows = np.concatenate([part for d in range(4) for part in benchmark.rows(d)])
    assert sorted(rows) == list(range(48))


def test_the_manifest_does_not_depend_on_where_the_folder_lies(tmp_path):
    names = [make_folder(tmp_path / place) for place in ("here", "there")]
    hashes = {load_benchmark(RunConfig(benchmark=name, clients=4)).manifest.hash for name in names}
    assert len(hashes) == 1
    Image.new("RGB", (20, 16)).save(tmp_path / "there" / "photo" / "cat" / "0.png")
    changed = load_benchmark(RunConfig(benchmark=names[1], clients=4)).manifest.hash
    assert changed not in hashes


def test_links_to_domains_and_images_are_followed_and_loops_end(tmp_path):
    make_folder(tmp_path / "real")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "photo").symlink_to(tmp_path / "real" / "photo")
    (tmp_path / "links" / "photo" / "loop").symlink_to(tmp_path / "links")  # a loop
    with pytest.raises(InputError, match="class 'loop' has no images"):
        list_images(tmp_path / "links")
    (tmp_path / "links" / "photo" / "loop").unlink()
    (tmp_path / "links" / "photo" / "cat" / "again.png").symlink_to("0.png")
    assert len(list_images(tmp_path / "links").files) == 25


def test_hidden_files_and_other_files_are_left_out(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "photo" / "cat" / "._0.png").write_bytes(b"not an image")
    (tmp_path / "photo" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "README.md").write_text("not a domain")
    assert len(list_images(tmp_path).files) == 48


def test_one_unreadable_image_in_a_hundred_is_left_out_and_counted(tmp_path):
    name = make_folder(tmp_path, num=34)
    (tmp_path / "photo" / "cat" / "5.png").write_bytes(b"broken")
    (tmp_path / "sketch" / "emu" / "7.png").write_bytes(b"")
    benchmark = load_benchmark(RunConfig(benchmark=name, clients=4))
    assert benchmark.manifest.metadata["unreadable-images"] == 2
    assert benchmark.manifest.metadata["images"] == 6 * 34 - 2


def test_more_unreadable_images_are_an_error_that_names_the_first(tmp_path):
    name = make_folder(tmp_path)
    (tmp_path / "photo" / "dog" / "3.png").write_bytes(
        (tmp_path / "photo/dog/2.png").read_bytes()[:40]
    )
    (tmp_path / "photo" / "dog" / "4.png").unlink()
    (tmp_path / "photo" / "dog" / "4.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"photo/dog/3\.png: .*\(2 of 48 files are not\)"):
        load_benchmark(RunConfig(benchmark=name, clients=4))


def test_a_class_without_a_readable_image_is_named(tmp_path):
    make_folder(tmp_path, num=34, size=(4, 4))
    for domain in ("photo", "sketch"):
        place = tmp_path / domain / "yak"
        place.mkdir()
        (place / "0.png").write_bytes(b"")
    with pytest.raises(InputError, match="class 'yak' has no readable image"):
        decode(list_images(tmp_path), 4)


def test_a_folder_too_large_for_memory_asks_for_a_size(tmp_path):
    make_folder(tmp_path)
    with pytest.raises(InputError, match="GiB; set image-size"):
        decode(list_images(tmp_path), 20_000)


def test_every_kind_of_image_becomes_upright_rgb(tmp_path):
    def read(name, image, **save):
        image.save(tmp_path / name, **save)
        found = read_image(str(tmp_path / name), 8)
        assert found is not None
        assert found.shape == (8, 8, 3)
        return found

    assert (read("grey.png", Image.new("L", (16, 8), 77)) == 77).all()
    deep = Image.fromarray(np.full((8, 16), 200 * 257, np.uint16))
    assert (read("deep.png", deep) == 200).all()
    assert (read("clear.png", Image.new("RGBA", (8, 8), (9, 9, 9, 0))) == 255).all()
    assert (read("cmyk.jpg", Image.new("CMYK", (8, 8), (0, 0, 0, 0))) >= 250).all()
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    film = read("film.gif", frames[0], save_all=True, append_images=frames[1:])
    assert film[0, 0].tolist() == [255, 0, 0]
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255  # bright above
    exif = Image.Exif()
    exif[0x0112] = 3  # held upside down
    turned = read("turned.png", Image.fromarray(pixels), exif=exif)
    assert turned[0].max() == 0
    assert turned[-1].min() == 255


def test_the_middle_of_an_image_is_kept(tmp_path):
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    found = read_image(str(tmp_path / "wide.png"), 8)
    assert found is not None
    assert (found == 255).all()


# --- files that are anything


def torn_exif() -> bytes:
    """A JPEG whose EXIF stops in the middle of a number, where Pillow raises struct.error."""
    content = io.BytesIO()
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\xff\xff\xff\xff"
    Image.new("RGB", (16, 16)).save(content, "JPEG", exif=exif)
    return content.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels a side."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def raising(*_):
    raise struct.error("unpack requires a buffer of 2 bytes")


@pytest.mark.parametrize("image_size", [0, 16])
def test_pipes_bombs_and_broken_headers_count_as_unreadable_even_if_they_come_first(
    tmp_path, image_size, monkeypatch
):
    make_folder(tmp_path, num=90)
    first = tmp_path / "photo" / "cat"
    os.mkfifo(first / "00.png")
    (first / "01.png").write_bytes(bomb(60_000))
    (first / "02.png").write_bytes(bomb(12_000))
    (first / "03.png").symlink_to("/dev/zero")
    (first / "04.jpg").write_bytes(torn_exif())
    transpose = ImageOps.exif_transpose
    monkeypatch.setattr(  # whatever this Pillow makes of the file, another one raises this
        ImageOps,
        "exif_transpose",
        lambda image: raising() if image.format == "JPEG" else transpose(image),
    )
    store = decode(list_images(tmp_path), image_size)
    assert store.unreadable == 5
    assert store.inputs.shape == (540, 3, 16, 16)


def test_a_first_image_that_is_too_large_asks_for_a_size(tmp_path):
    make_folder(tmp_path, num=1, size=(1100, 1030))
    with pytest.raises(InputError, match=r"first image has 1030 pixels a side.*set image-size"):
        decode(list_images(tmp_path), 0)
    assert decode(list_images(tmp_path), 8).inputs.shape == (6, 3, 8, 8)


@pytest.mark.parametrize("level", ["photo", "photo/cat", "photo/cat/0.png"])
@pytest.mark.parametrize(
    ("name", "said"),
    [(b"caf\xe9.png", r"the name 'caf\\xe9.png' is not UTF-8"),
     (b"a\nb\x1b[31m.png", r"the name 'a\\nb\\x1b\[31m.png' has control characters")],
)  # fmt: skip
def test_names_that_no_table_or_terminal_could_hold_are_refused_first(tmp_path, level, name, said):
    make_folder(tmp_path / "data", num=2)
    place = tmp_path / "data" / level
    os.rename(place, os.path.join(os.fsencode(place.parent), name))
    with pytest.raises(InputError, match=said) as caught:
        list_images(tmp_path / "data")
    assert str(caught.value).isprintable()
