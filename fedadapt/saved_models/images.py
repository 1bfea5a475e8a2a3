"""Image files as a network takes them: brought to size in the way of the run's benchmark."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from fedadapt.datasets.in_memory import resize
from fedadapt.datasets.sources.decode import read_image, read_upright
from fedadapt.datasets.task_incremental.mit_indoor import centre, read_picture
from fedadapt.errors import InputError

Shape = tuple[int, int, int]
Pixels = NDArray[np.uint8]


def read(paths: Sequence[str | Path], shape: Shape, reading: str) -> Tensor:
    """Image files as bytes: uint8 [N, C, H, W].

    Any file that Pillow reads: it is turned upright, its transparent parts become white, colours
    become grey where the network takes one channel, and grey becomes three equal channels where it
    takes three.

    Args:
        reading: A key of ``READINGS``.

    Raises:
        InputError: No image, a file that cannot be read, or a reading that is not known.

    """
    if reading not in READINGS:
        raise InputError(f"reading: {reading!r} is not known; known: {', '.join(READINGS)}")
    if not paths:
        raise InputError("images: none given; name at least one file")
    images = [READINGS[reading](Path(path), shape) for path in paths]
    return torch.from_numpy(np.stack(images))


def _middle_bicubic(path: Path, shape: Shape) -> Pixels:
    """As a folder of images is read: the middle square, resized with Pillow's bicubic filter."""
    if not path.is_file():
        raise _missing(path)
    image = read_image(str(path), shape[1])
    if image is None:
        raise _unreadable(path)
    return _channels(Image.fromarray(image), shape[0])


def _shorter_side_bilinear(path: Path, shape: Shape) -> Pixels:
    """As indoor scenes are read: the shorter side resized, then the middle square cut out."""
    if not path.is_file():
        raise _missing(path)
    return _channels(Image.fromarray(centre(read_picture(path, shape[1]), shape[1])), shape[0])


def _middle_bilinear(path: Path, shape: Shape) -> Pixels:
    """As images of a fixed size are resized: the middle of the right proportions, bilinear."""
    if not path.is_file():
        raise _missing(path)
    image = read_upright(str(path))
    if image is None:
        raise _unreadable(path)
    channels, height, width = shape
    scale = min(image.width / width, image.height / height)
    middle = (max(1, round(scale * width)), max(1, round(scale * height)))
    if image.size != middle:
        left, top = (image.width - middle[0]) // 2, (image.height - middle[1]) // 2
        image = image.crop((left, top, left + middle[0], top + middle[1]))
    pixels = torch.from_numpy(_channels(image, channels)).unsqueeze(0)
    return resize(pixels, (height, width)).squeeze(0).numpy()


READINGS: Mapping[str, Callable[[Path, Shape], Pixels]] = {
    "middle-bicubic": _middle_bicubic,
    "middle-bilinear": _middle_bilinear,
    "shorter-side-bilinear": _shorter_side_bilinear,
}


def _channels(image: Image.Image, channels: int) -> Pixels:
    """[C, H, W] of an RGB image."""
    if channels == 1:
        return np.array(ImageOps.grayscale(image))[None]
    return np.array(image).transpose(2, 0, 1)


def _missing(path: Path) -> InputError:
    return InputError(f"{path}: no such file; name an image")


def _unreadable(path: Path) -> InputError:
    return InputError(f"{path}: is no readable image; any file that Pillow opens will do")
