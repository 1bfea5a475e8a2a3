"""What a client needs beside a connection: packages, pictures, and room on its disk."""

import os
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from fedadapt.deploy.findings import Finding

PACKAGES = ("flwr", "torch", "torchvision", "numpy", "safetensors", "cryptography")
ACCOUNTING = "dp_accounting"
LEAST_FREE = 512 * 1024 * 1024  # bytes for models, their temporary copies and logs
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")


def check_device(home: Path, images: Path | None) -> Iterator[Finding]:
    """Look at packages, pictures and disk."""
    yield check_packages()
    if images is not None:
        yield check_images(images)
    yield check_disk(home)


def check_packages(*, privacy: bool = False) -> Finding:
    """Whether everything is installed; nothing is imported.

    Args:
        privacy: The owner's policy has a privacy budget, which has to be counted.

    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        return Finding("packages", False, f"{', '.join(missing)} missing", "pip install fedadapt")
    if privacy and find_spec(ACCOUNTING) is None:
        text = f"{ACCOUNTING} missing, by which the policy's privacy budget is counted"
        return Finding("packages", False, text, 'pip install "fedadapt[privacy]"')
    found = []
    for name in ("flwr", "torch"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:  # from a source tree
            found.append(name)
    return Finding("packages", True, ", ".join(found))


def check_images(images: Path) -> Finding:
    """Whether there are pictures in folders, one a class; they are not opened."""
    remedy = "pictures lie in folders, one a class: <class>/<picture>.jpg"
    if not images.is_dir():
        return Finding("data", False, f"{images} is not a folder", remedy)
    if not os.access(images, os.R_OK | os.X_OK):
        return Finding("data", False, f"{images} cannot be read", "see its owner and mode")
    counts = {}
    try:
        for folder in sorted(images.iterdir()):
            if folder.is_dir() and not folder.name.startswith("."):
                counts[folder.name] = sum(
                    1 for path in folder.rglob("*") if path.suffix.lower() in ENDINGS
                )
    except OSError as error:
        return Finding("data", False, f"{error.filename}: {error.strerror}", "see its mode")
    if not sum(counts.values()):
        return Finding("data", False, f"no pictures in the folders of {images}", remedy)
    return Finding("data", True, f"{sum(counts.values())} pictures in {len(counts)} folders")


def check_disk(home: Path) -> Finding:
    """Whether there is room where models are kept."""
    place = next(p for p in (home, *home.absolute().parents) if p.exists())
    if not os.access(place, os.W_OK):
        return Finding("disk", False, f"{place} cannot be written to", "see its owner and mode")
    free = shutil.disk_usage(place).free
    text = f"{free / 2**20:,.0f} MiB free at {home}"
    if free < LEAST_FREE:
        remedy = f"at least {LEAST_FREE / 2**20:,.0f} MiB are needed; remove old runs (forget)"
        return Finding("disk", False, text, remedy)
    return Finding("disk", True, text)
