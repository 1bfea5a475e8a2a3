"""MIT Indoor Scenes as DUA divides them: four tasks, five users' preferences, the files.

Quattoni and Torralba 2009, "Recognizing Indoor Scenes". De Lange et al. 2020 leave out the
sixteen classes of work places; the preferences are those they published with their code.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from fedadapt.datasets.feature_shift.shift import shifted
from fedadapt.datasets.feature_shift.spec import Shift
from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.datasets.sources.image_folder import SUFFIXES
from fedadapt.datasets.task_incremental.benchmark import TaskImages
from fedadapt.datasets.task_incremental.indoor_files import indoor_lists
from fedadapt.errors import InputError

TASKS: dict[str, tuple[str, ...]] = {
    "home": (
        "bathroom", "bedroom", "children_room", "closet", "corridor", "dining_room", "garage",
        "kitchen", "livingroom", "lobby", "nursery", "pantry", "stairscase", "winecellar",
    ),
    "leisure": (
        "bar", "bowling", "buffet", "casino", "concert_hall", "fastfood_restaurant", "gameroom",
        "gym", "hairsalon", "movietheater", "restaurant",
    ),
    "public": (
        "airport_inside", "church_inside", "cloister", "elevator", "inside_bus", "inside_subway",
        "library", "locker_room", "museum", "poolinside", "prisoncell", "subway", "trainstation",
        "waitingroom",
    ),
    "store": (
        "bakery", "bookstore", "clothingstore", "deli", "florist", "grocerystore",
        "jewelleryshop", "laundromat", "mall", "shoeshop", "toystore", "videostore",
    ),
}  # fmt: skip
PREFERENCES: tuple[dict[str, tuple[str, str, str]], ...] = (
    {
        "home": ("winecellar", "dining_room", "corridor"),
        "leisure": ("gym", "casino", "restaurant"),
        "public": ("inside_subway", "subway", "locker_room"),
        "store": ("laundromat", "bookstore", "mall"),
    },
    {
        "home": ("dining_room", "corridor", "winecellar"),
        "leisure": ("casino", "movietheater", "hairsalon"),
        "public": ("subway", "inside_subway", "locker_room"),
        "store": ("bakery", "bookstore", "laundromat"),
    },
    {
        "home": ("corridor", "livingroom", "pantry"),
        "leisure": ("casino", "bowling", "restaurant"),
        "public": ("subway", "poolinside", "airport_inside"),
        "store": ("bookstore", "bakery", "toystore"),
    },
    {
        "home": ("bathroom", "kitchen", "pantry"),
        "leisure": ("restaurant", "bar", "casino"),
        "public": ("airport_inside", "church_inside", "inside_subway"),
        "store": ("grocerystore", "deli", "bakery"),
    },
    {
        "home": ("pantry", "livingroom", "bedroom"),
        "leisure": ("bar", "restaurant", "casino"),
        "public": ("inside_subway", "airport_inside", "subway"),
        "store": ("deli", "toystore", "bakery"),
    },
)
SIDE = 224
MOST_MISSING = 0.01
"""Share of listed images that may be missing; they are left out and counted."""

_MOST_PIXELS = 2**27


class Scenes(NamedTuple):
    """The images of the 51 classes by number, sorted by class and file."""

    folder: Path  # ``Images``
    files: tuple[str, ...]  # "<class>/<file>", [N]
    labels: Rows  # inside the task, [N]
    of_class: dict[str, Rows]
    train: NDArray[np.bool_]  # in TrainImages.txt, [N]
    test: NDArray[np.bool_]  # in TestImages.txt, [N]
    missing: int  # listed and not there

    def rows(self, name: str, part: str) -> Rows:
        """Images of a class that are in the list of ``train`` or ``test``, or in none: extra."""
        keep = {"train": self.train, "test": self.test, "extra": ~(self.train | self.test)}[part]
        return self.of_class[name][keep[self.of_class[name]]]


def read_scenes(root: Path) -> Scenes:
    """List the images; none is opened.

    Raises:
        InputError: A class folder without images, an image in both lists or too many missing.

    """
    folder = root / "Images"
    files: list[str] = []
    labels: list[int] = []
    of_class: dict[str, Rows] = {}
    for classes in TASKS.values():
        for label, name in enumerate(classes):
            names = _images(folder, name)
            of_class[name] = np.arange(len(files), len(files) + len(names))
            files += names
            labels += [label] * len(names)
    listed = [_listed(path, of_class) for path in indoor_lists(root)]
    both = sorted(listed[0] & listed[1])
    if both:
        raise InputError(f"{root}: {both[0]} is in TrainImages.txt and in TestImages.txt")
    missing = sorted((listed[0] | listed[1]).difference(files))
    if len(missing) > MOST_MISSING * len(listed[0] | listed[1]):
        raise InputError(
            f"{folder / missing[0]}: is listed and not there, like {len(missing)} of "
            f"{len(listed[0] | listed[1])} images; unpack the data set anew"
        )
    train, test = (np.array([file in part for file in files]) for part in listed)
    return Scenes(
        folder, tuple(files), np.array(labels, np.int64), of_class, train, test, len(missing)
    )


def _images(folder: Path, name: str) -> list[str]:
    try:
        names = sorted(
            e.name
            for e in os.scandir(folder / name)
            if not e.name.startswith(".") and e.name.lower().endswith(SUFFIXES)
        )
    except OSError as error:
        raise InputError(f"{folder / name}: cannot be read: {error.strerror}") from None
    if not names:
        raise InputError(f"{folder / name}: holds no images; each of the 51 classes needs some")
    return [f"{name}/{file}" for file in names]


def _listed(path: Path, of_class: dict[str, Rows]) -> set[str]:
    """The listed images of our classes, without those of work places."""
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    return {line.strip() for line in lines if line.strip().partition("/")[0] in of_class}


@dataclass(frozen=True, eq=False)
class SceneImages(TaskImages):
    """Photographs, decoded when they are asked for: they are never all in memory.

    The shorter side is resized to that of ``shape``, the shift is applied, the middle is cut out.
    """

    scenes: Scenes
    labels: Rows
    shape: tuple[int, int, int]
    shift: Shift
    seed: int
    native: bool = False  # users' images are not resized: DUA's code for TransPrior

    def inputs(self, rows: Rows, client: int | None) -> Tensor:
        images = np.empty((len(rows), *self.shape[1:], 3), np.uint8)
        for position, number in enumerate(rows.tolist()):
            side = 0 if self.native and client is not None else self.shape[1]
            image = read_photograph(self.scenes.folder / self.scenes.files[number], side)
            if client is not None:
                image = shifted(image, self.shift, client, number, self.seed)
            images[position] = centre(image, self.shape[1])
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def is_expensive(self, client: int) -> bool:
        return True


def read_photograph(path: Path, shorter: int) -> NDArray[np.uint8]:
    """A photograph as upright RGB, uint8 [H, W, 3]; its shorter side resized, 0: as it is.

    Raises:
        InputError: The file cannot be read.

    """
    try:
        with Image.open(path) as file:
            if file.width * file.height > _MOST_PIXELS:
                raise ValueError(f"{file.width} x {file.height} pixels")
            image = ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: is no readable image ({reason}); repair or remove it") from None
    if shorter:
        scale = shorter / min(image.size)
        width, height = (max(shorter, round(scale * side)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.array(image)


def centre(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The middle square, [side, side, C]; zeros around what is smaller."""
    lacks = [max(0, side - length) for length in image.shape[:2]]
    padded = np.pad(image, [*((n // 2, n - n // 2) for n in lacks), (0, 0)])
    top, left = ((length - side) // 2 for length in padded.shape[:2])
    return padded[top : top + side, left : left + side]
