"""How figures look: colours that colour-blind readers can tell apart, and the page's text colour.

Blue, green and vermilion are Okabe and Ito's (2008), the others near theirs, but dark enough for a
white page and light enough for a dark one. Vermilion has one meaning only: worse than before.
"""

import io
import re
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from fedadapt.errors import InputError
from fedadapt.records import LOCAL
from fedadapt.simulations.results.parquet import put

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

INK = "#1f2430"
BEFORE = "#8d95a3"
WORSE = "#d55e00"
ALONE = "#b5467b"  # training alone, in every figure
COLOURS = ("#0072b2", "#009e73", "#b07a00", "#0e8a98", "#2f8fc4", "#7d6bbd", "#808020")

RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # names of kinds are text, whatever signs are in them
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched, copied
    "svg.hashsalt": "fedadapt",  # the same figure gives the same bytes
}

P = ParamSpec("P")
T = TypeVar("T")


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Run ``draw`` with the style of the package, independently of the user's settings.

    The user's settings stay as they are.

    Raises:
        InputError: matplotlib is not installed.

    """

    @wraps(draw)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            import matplotlib
        except ImportError:
            raise InputError(
                'matplotlib: not installed; pictures need it: pip install "fedadapt[simulation]"'
            ) from None
        house: dict[Any, Any] = {**matplotlib.rcParamsDefault, **RC}
        del house["backend"]  # ours draw on no screen; a notebook's backend stays as it is
        with matplotlib.rc_context(house):
            return draw(*args, **kwargs)

    return run


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure; width and height are in inches.

    It is not registered with pyplot: there is no window and no global list of figures.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def legend_columns(labels: Sequence[str], width: float) -> int:
    """How many labels stand side by side in a legend of ``width`` inches, at font size 10."""
    one = 0.65 + 0.085 * max(map(len, labels), default=0)
    return max(1, min(len(labels), int(width / one)))


def colour_of(label: str, labels: tuple[str, ...]) -> str:
    """Return the colour of a label in all figures of a run: grey for the base, wine for local."""
    fixed = {"base": BEFORE, LOCAL: ALONE}
    if label in fixed:
        return fixed[label]
    return COLOURS[[other for other in labels if other not in fixed].index(label) % len(COLOURS)]


def near_to_far() -> "Colormap":
    """Return a colour map for distances: nearer is a darker blue, in even steps of lightness."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("near", ("#08306b", "#0072b2", "#7fbfe6", "#f1f5f9"))


def shortened(text: str, length: int) -> str:
    """Return at most ``length`` characters of a text; a cut is marked by an ellipsis."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def title(axes: "Axes", text: str, subtitle: str = "") -> None:
    """Set a title at the left, with the subtitle in a lighter line below it."""
    axes.set_title(text, pad=26 if subtitle else 10)
    if subtitle:
        axes.annotate(
            subtitle,
            (0, 1),
            xytext=(0, 9),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=9,
            alpha=0.7,
        )


@styled
def save_png(figure: "Figure", path: Path, dpi: int = 150) -> Path:
    """Write a figure on white, in one step, and return its path."""
    return put(path, lambda file: figure.savefig(file, format="png", dpi=dpi, facecolor="white"))


@styled
def to_svg(figure: "Figure", name: str) -> str:
    """Return a figure as an ``<svg>`` element for a page.

    It has the text colour of the page, no background and no addresses. ``name`` goes before every
    id, so that the figures of a page do not collide.
    """
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, dpi=200)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\b(id|href)="(#?)(?!data:)([^"]*)"', rf'\1="\2{name}-\3"', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*" ?([^>]*?)width="[^"]*"', r"<svg \1\2", svg)
    return svg.replace(INK, "currentColor")
