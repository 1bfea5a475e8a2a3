"""What the attacker sees, in the manner of PFA's Fig. 6."""

from pathlib import Path
from typing import TYPE_CHECKING

from fedadapt.privacy.analysis import Analysis
from fedadapt.privacy.quality import Pixels
from fedadapt.privacy.settings import MEANING
from fedadapt.simulations.report.style import INK, new_figure, save_png, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURE = "inversion.png"
SHOWN = 3  # images

# Inches. Tiles stand where these put them: no layout engine keeps a hundred images aligned.
TILE = 0.98
GAP = 0.06  # between tiles
CAPTION = 0.22  # below a tile
BLOCK_GAP = 0.42  # between images
NAMES = 1.62  # to the left, for the names of the rows
ORIGINAL = 1.5
TOP = 0.74  # the title
HEADS = 0.3  # the names of the columns
EDGE = 0.18


def shown_images(analysis: Analysis) -> list[int]:
    """Which images are drawn: evenly spaced, not by how well the attack went."""
    count = len(analysis.originals)
    shown = min(SHOWN, count)
    return [i * count // shown for i in range(shown)]


@styled
def inversions(analysis: Analysis) -> "Figure":
    """A block for every image: the original on top, a row for a property, a column for a layer."""
    images, columns = shown_images(analysis), len(analysis.layers)
    block = columns * (TILE + GAP) - GAP
    width = NAMES + len(images) * (max(block, ORIGINAL) + BLOCK_GAP) - BLOCK_GAP + EDGE
    above = TOP + ORIGINAL + HEADS
    height = above + len(analysis.properties) * (TILE + CAPTION) + 0.05
    figure = new_figure(width, height)
    figure.set_layout_engine("none")

    def axes_at(left: float, top: float, side: float) -> "Axes":
        return figure.add_axes(
            (left / width, 1 - (top + side) / height, side / width, side / height)
        )

    def write(left: float, top: float, text: str, **look: object) -> None:
        figure.text(left / width, 1 - top / height, text, **look)  # type: ignore[arg-type]

    write(EDGE, 0.2, "What is left of an image", va="top", fontsize=13, weight="bold")
    explained = "Found from one property of one ReLU layer, knowing the network; PSNR in dB below"
    write(EDGE, 0.44, explained, va="top", fontsize=9, alpha=0.7)
    write(NAMES - 0.14, TOP + ORIGINAL / 2 + 0.05, "original", ha="right", weight="bold")
    tops = [above + row * (TILE + CAPTION) for row in range(len(analysis.properties))]
    for name, top in zip(analysis.properties, tops, strict=True):
        middle = top + TILE / 2
        write(NAMES - 0.14, middle - 0.02, name, ha="right", va="bottom", weight="bold")
        write(
            NAMES - 0.14, middle + 0.02, MEANING[name], ha="right", va="top", fontsize=8, alpha=0.7
        )
    values = {(r.image, r.layer, r.property): r.psnr for r in analysis.rows}
    for number, image in enumerate(images):
        left = NAMES + number * (max(block, ORIGINAL) + BLOCK_GAP)
        middle = left + block / 2
        _draw(axes_at(middle - ORIGINAL / 2, TOP, ORIGINAL - 0.1), analysis.originals[image])
        for column, layer in enumerate(analysis.layers):
            x = left + column * (TILE + GAP)
            write(x + TILE / 2, above - 0.07, f"ReLU {layer}", ha="center", fontsize=9)
            for name, top in zip(analysis.properties, tops, strict=True):
                _draw(axes_at(x, top, TILE), analysis.reconstructions[layer, name][image])
                value = f"{values[image, layer, name]:.1f}"
                write(
                    x + TILE / 2, top + TILE + 0.03, value, ha="center", va="top", fontsize=8,
                    alpha=0.8,
                )  # fmt: skip
    return figure


def write_picture(folder: Path, analysis: Analysis) -> Path:
    """Write ``inversion.png``."""
    return save_png(inversions(analysis), folder / PICTURE, dpi=120)


def _draw(axes: "Axes", pixels: Pixels) -> None:
    """An image [C, H, W] in [0, 1], grey where it has one channel, pixel by pixel."""
    grey = pixels.shape[0] == 1
    picture = pixels[0] if grey else pixels.transpose(1, 2, 0)
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=INK, linewidth=0.5, alpha=0.35)
