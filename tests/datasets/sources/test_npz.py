"""Files that say they are .npz and are something else: one line each, and little memory."""

import io
import re
import resource
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedadapt import files
from fedadapt.datasets.sources.image_store import store_of
from fedadapt.datasets.sources.official import read_npz
from fedadapt.errors import InputError

LABELS = np.arange(20) % 10
IMAGES = np.zeros((20, 8, 8), np.uint8)
ARRAYS = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS}


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def claiming(shape: tuple[int, ...]) -> Callable[[bytes], bytes]:
    """The header of a larger array, and the content of a small one."""

    def lie(content: bytes) -> bytes:
        buffer = io.BytesIO()
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(buffer, header)
        return buffer.getvalue() + content[-IMAGES.nbytes :]

    return lie


def written(path: Path, packing: int = zipfile.ZIP_STORED, times: int = 1, **changes) -> Path:
    """A file whose arrays are those above, each changed as bytes by the function of its name."""
    with zipfile.ZipFile(path, "w", packing) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, array in ARRAYS.items():
            for _ in range(times):
                archive.writestr(f"{name}.npy", changes.get(name, bytes)(npy(array)))
    return path


def encrypted(path: Path) -> Path:
    """The flag of encryption, in each header of the archive."""
    content = bytearray(written(path).read_bytes())
    for mark, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        for found in re.finditer(re.escape(mark), bytes(content)):
            content[found.start() + offset] |= 1
    path.write_bytes(content)
    return path


def bare(path: Path) -> Path:
    path.write_bytes(npy(IMAGES))
    return path


def bomb(path: Path) -> Path:
    """400 MiB of noughts in half a megabyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in ARRAYS.items():
            with archive.open(f"{name}.npy", "w") as file:
                if name == "x_train":
                    file.write(claiming((400, 1024, 1024))(b""))
                    for _ in range(400):
                        file.write(bytes(2**20))
                else:
                    file.write(npy(array))
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: written(p, x_train=claiming((2**45, 8, 8))), r"says it is .* TiB, and holds"),
        (lambda p: written(p, x_train=claiming((19, 8, 8))), r"says it is \[19, 8, 8\]"),
        (lambda p: written(p, x_train=claiming((2**26, 8, 8))), r"4.0 GiB, and holds 1.2 KiB"),
        (lambda p: written(p, zipfile.ZIP_LZMA), "packed in a way that numpy does not use"),
        (lambda p: written(p, zipfile.ZIP_BZIP2), "packed in a way that numpy does not use"),
        (lambda p: written(p, times=2), "holds 'x_train' twice"),
        (encrypted, "x_train is encrypted"),
        (bare, "cannot be read .*; it must be a plain .npz"),
        (bomb, "KiB that unpack to 400.0 MiB; at most"),
    ],
)
def test_a_file_that_is_not_as_numpy_writes_it_is_refused_without_taking_memory(
    tmp_path, make, said
):
    path = make(tmp_path / "mnist.npz")
    tracemalloc.start()
    with pytest.raises(InputError, match=said) as caught:
        read_npz(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()


def test_what_numpy_writes_is_read(tmp_path):
    for number, save in enumerate((np.savez, np.savez_compressed)):
        save(tmp_path / f"{number}.npz", **ARRAYS, classes=np.array(list("abcdefghij")))
        store = read_npz(tmp_path / f"{number}.npz")
        assert store.classes == tuple("abcdefghij")
        assert store.labels.tolist() == [*LABELS, *LABELS]


def test_a_large_honest_file_is_refused_by_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_UNPACKED", 1000)
    with pytest.raises(InputError, match="at most 1000 bytes are read"):
        read_npz(written(tmp_path / "mnist.npz"))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.r_[LABELS[:-1], 10**12], "labels run from 0 to 1000000000000; they must be numbered"),
        (np.full(20, 2**63 + 5, np.uint64), "labels run from 9223372036854775813 to 92233"),
        (np.r_[LABELS[:-1], -(2**63)], "labels run from -9223372036854775808"),
        (np.zeros(0, np.int64), "whole number for each of the 20 images"),
    ],
)
def test_absurd_labels_are_refused_before_there_are_names_for_them(labels, said):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=said):
        store_of("mine", IMAGES, labels)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB


def test_absurd_domains_and_images_are_refused_too():
    with pytest.raises(InputError, match="domains run from 0 to 1000000000000"):
        store_of("mine", IMAGES, LABELS, np.r_[LABELS[:-1], 10**12])
    with pytest.raises(InputError, match=r"domains run from -1"):
        store_of("mine", IMAGES, LABELS, LABELS - 1)
    with pytest.raises(InputError, match="at most 1024 pixels a side"):
        store_of("mine", np.zeros((2, 1, 1025), np.uint8), np.arange(2))
    with pytest.raises(InputError, match="no training images"):
        store_of("mine", IMAGES[:0], LABELS[:0])
    with pytest.raises(InputError, match="classes is <U1 \\[\\]; it must be a list"):
        _with_classes(np.array("x"))
    with pytest.raises(InputError, match="labels run from 0 to 24"):
        _with_classes(np.array([f"c{n}" for n in range(25)]))


def _with_classes(classes: np.ndarray) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        np.savez(Path(folder) / "mnist.npz", **ARRAYS, classes=classes)
        read_npz(Path(folder) / "mnist.npz")
