"""Pictures to try a deployment with: handwritten digits that come with scikit-learn.

Each client's look different, as those of different cameras do: the first has them as they are, the
second dark on light, the third turned upside down, the fourth blurred; and so on in turn.
"""

from pathlib import Path

LOOKS = ("as they are", "dark on light", "upside down", "blurred")
SIDE = 32  # pixels; the originals have 8
CLASSES = tuple("0123456789")


def write_pictures(folder: Path, clients: tuple[str, ...], per_client: int = 200) -> list[Path]:
    """Write ``<folder>/<client>/<digit>/<number>.png``; no two clients have the same picture.

    Args:
        folder: where.
        clients: their names.
        per_client: pictures of each; fewer where there are not enough.

    Returns:
        The folder of each client.

    """
    from PIL import Image, ImageFilter, ImageOps
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype("uint8")
    most = min(per_client, len(pixels) // max(1, len(clients)))
    folders = []
    for number, client in enumerate(clients):
        own = folder / client
        for index in range(number * most, (number + 1) * most):
            image = Image.fromarray(pixels[index]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            look = LOOKS[number % len(LOOKS)]
            if look == "dark on light":
                image = ImageOps.invert(image)
            elif look == "upside down":
                image = ImageOps.flip(image)
            elif look == "blurred":
                image = image.filter(ImageFilter.GaussianBlur(2))
            place = own / CLASSES[int(digits.target[index])]
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{index:04d}.png")
        folders.append(own)
    return folders
