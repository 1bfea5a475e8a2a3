"""Where MIT Indoor Scenes lie. No torch, no numpy."""

from pathlib import Path

from fedadapt.datasets.sources.files import data_root
from fedadapt.errors import InputError

LAYOUT = "indoorCVPR_09/Images/<class>/*.jpg with TrainImages.txt and TestImages.txt"


def indoor_root(given_root: str) -> Path:
    """The folder of MIT Indoor Scenes: the one that holds ``Images``.

    Raises:
        InputError: No data root, or nothing of that layout in it.

    """
    root = data_root(given_root)
    if root is None:
        raise InputError(
            "data-root: MIT Indoor Scenes are read from a folder and none is given; set "
            f"--data-root or FEDADAPT_DATA to where {LAYOUT} are"
        )
    folder = root / "indoorCVPR_09"
    lists = indoor_lists(folder)
    if not (folder / "Images").is_dir() or not all(path.is_file() for path in lists):
        raise InputError(f"{root}: MIT Indoor Scenes are not there; put {LAYOUT} there")
    return folder


def indoor_lists(folder: Path) -> tuple[Path, Path]:
    """The official lists, beside ``Images`` or one folder up."""
    return _list_of(folder, "TrainImages.txt"), _list_of(folder, "TestImages.txt")


def _list_of(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).is_file() else folder.parent / name
