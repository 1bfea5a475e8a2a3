"""LEAF's data sets, as its own scripts write them: FEMNIST, CelebA and Shakespeare by user.

Caldas et al. 2018, "LEAF: A benchmark for federated settings". A file is JSON with ``users``,
``num_samples`` and ``user_data: {user: {"x": [...], "y": [...]}}``. Files of ``all_data``, or of
``train`` and ``test`` together, are read: every user is a client, and the cut is ours.
"""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from fedadapt.datasets.entries import DataEntry
from fedadapt.datasets.sources.decode import read_image
from fedadapt.datasets.sources.files import check_root
from fedadapt.datasets.sources.image_store import Store, store_of
from fedadapt.errors import InputError

LETTERS = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"
"""LEAF's letters of Shakespeare, in its order; their places are the tokens and the classes."""
FACES = "img_align_celeba"
SIDE = 84  # pixels of a face, as LEAF's network takes them
BLOCK = 400  # windows of a role that lie together on one side
FEWEST, MOST = 3, 10  # blocks of a role


def read_femnist(entry: DataEntry, root: str) -> Store:
    """Read 28 x 28 letters and digits by writer; 0 is black in the files, and 1 white."""
    where, users = _users(entry, root)
    pixels, labels, owners = [], [], []
    for user, x, y in users:
        values = np.asarray(x, np.float64)
        if values.shape != (len(y), 784):
            raise InputError(f"{where}: {user}: {list(values.shape)}; images have 784 pixels")
        pixels.append(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8).reshape(-1, 28, 28))
        labels += list(y)
        owners += [user] * len(y)
    return store_of(where, np.concatenate(pixels), _whole(where, labels, entry.classes),
                    clients=owners)  # fmt: skip


def read_celeba(entry: DataEntry, root: str) -> Store:
    """Read faces by person, smiling (1) or not (0); files lie in ``raw/img_align_celeba``.

    The middle square of a face is resized to 84 pixels.
    """
    where, users = _users(entry, root)
    folder = Path(where) / "raw" / FACES
    faces, labels, owners = [], [], []
    for user, x, y in users:
        for name, label in zip(x, y, strict=True):
            face = read_image(str(folder / str(name)), SIDE)
            if face is None:
                raise InputError(f"{folder / str(name)}: is no readable image")
            faces.append(face)
            labels.append(label)
            owners.append(user)
    classes = ("not smiling", "smiling")
    return store_of(where, np.stack(faces), _whole(where, labels, 2), clients=owners,
                    classes=classes)  # fmt: skip


def read_shakespeare(entry: DataEntry, root: str) -> Store:
    """Read windows of 80 letters by role; the class is the letter that follows.

    Neighbouring windows share 79 letters. A role's windows are therefore cut into three to ten
    blocks, which stay whole, and the windows at the end of a block that share letters with the next
    block are left out. A role with too few windows for three blocks is left out.
    """
    where, users = _users(entry, root)
    tokens, labels, owners, groups = [], [], [], []
    for user, x, y in users:
        windows = np.array([_tokens(where, user, text) for text in x])
        following = [int(_tokens(where, user, letter)[0]) for letter in y]
        for block, rows in enumerate(blocks(len(windows), windows.shape[1])):
            tokens.append(windows[rows])
            labels += [following[row] for row in rows]
            owners += [user] * len(rows)
            groups += [block] * len(rows)
    if not tokens:
        raise InputError(f"{where}: no role has enough windows for three blocks")
    # Letters that nobody writes are left out: every class has examples.
    present, numbers = np.unique(labels, return_inverse=True)
    return store_of(where, np.concatenate(tokens), numbers, clients=owners, groups=groups,
                    classes=[LETTERS[letter] for letter in present])  # fmt: skip


def blocks(num_windows: int, length: int) -> list[range]:
    """The windows of each block, of a text whose neighbouring windows share all but one letter.

    Args:
        length: Letters of a window; so many less one are left out between two blocks.

    """
    count = min(MOST, max(FEWEST, num_windows // BLOCK))
    edges = [num_windows * block // count for block in range(count + 1)]
    found = [
        range(start, stop if stop == num_windows else stop - length + 1)
        for start, stop in pairwise(edges)
    ]
    return found if all(found) else []


def _tokens(where: str, user: str, text: str) -> np.ndarray:
    places = np.array([LETTERS.find(letter) for letter in str(text)], np.int64)
    if not len(places) or places.min() < 0:
        raise InputError(f"{where}: {user}: {str(text)[:20]!r} has a letter that LEAF has not")
    return places


def _whole(where: str, labels: list[Any], classes: int) -> np.ndarray:
    array = np.asarray(labels)
    if array.dtype.kind not in "iu":
        array = array.astype(np.float64)
        if not (array == np.rint(array)).all():
            raise InputError(f"{where}: labels must be whole numbers")
        array = array.astype(np.int64)
    if len(array) and (array.min() < 0 or array.max() >= classes):
        raise InputError(f"{where}: labels must be 0 to {classes - 1}")
    return array


def _users(entry: DataEntry, root: str) -> tuple[str, list[tuple[str, list[Any], list[Any]]]]:
    """The folder of the data, and (user, x, y) of every user, sorted; parts are put together."""
    folder = check_root(entry.name, root) / entry.files[0]
    files = sorted((folder / "all_data").glob("*.json"))
    files = files or [
        f for part in ("train", "test") for f in sorted((folder / part).glob("*.json"))
    ]
    if not files:
        raise InputError(
            f"{folder}: has no all_data/*.json, and no train/*.json; make them with LEAF's scripts"
        )
    found: dict[str, tuple[list[Any], list[Any]]] = {}
    for file in files:
        for user, x, y in _of_file(file):
            both = found.setdefault(user, ([], []))
            both[0].extend(x)
            both[1].extend(y)
    return str(folder), [(user, *found[user]) for user in sorted(found) if found[user][0]]


def _of_file(file: Path) -> Iterator[tuple[str, list[Any], list[Any]]]:
    try:
        users = json.loads(file.read_text("utf-8"))["user_data"]
        for user, data in users.items():
            x, y = data["x"], data["y"]
            if len(x) != len(y):
                raise ValueError(f"{user}: {len(x)} inputs and {len(y)} labels")
            yield str(user), list(x), list(y)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: is no file of LEAF ({type(error).__name__}: {error})") from None
