"""What the figures draw into their axes; accuracies are drawn in percent."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedadapt.records import LOCAL
from fedadapt.simulations.report.style import ALONE, BEFORE, INK, WORSE, colour_of, title
from fedadapt.simulations.results.accuracies import TOLERANCE, Accuracies

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MANY = 400  # clients; above, single marks would hide each other, and areas take their place
MAX_BLOCKS = 10  # kinds that a sorted picture keeps apart

Vector = NDArray[np.float64]

NO_BASE = "the base model was not evaluated; with none among the adaptations (--adapt) it is"


def draw_row(axes: "Axes", y: float, values: Vector, colour: str, *, filled: bool) -> None:
    """Draw one distribution along the x axis at height ``y``; ``values`` [D] are in percent."""
    edges = np.linspace(0, 100, 51)
    counts, _ = np.histogram(values, edges)
    bins = np.clip(np.digitize(values, edges) - 1, 0, len(counts) - 1)
    half = 0.36
    if len(values) <= MANY:
        # Dots of a bin are piled up around the row's middle.
        order = np.argsort(values, kind="stable")
        rank = np.zeros(len(values))
        for b in np.unique(bins):
            members = order[bins[order] == b]
            rank[members] = np.arange(len(members)) - (len(members) - 1) / 2
        step = min(0.09, 2 * half / max(counts.max(), 1))
        style: dict[str, Any] = (
            {"color": colour} if filled else {"facecolors": "none", "edgecolors": colour}
        )
        axes.scatter(values, y + rank * step, s=14, lw=1, alpha=0.8, zorder=2, **style)
    else:
        widths = 2 * half * counts / counts.max()
        used, alpha = counts > 0, 0.8 if filled else 0.35
        axes.bar(
            edges[:-1][used],
            widths[used],
            2,
            (y - widths / 2)[used],
            align="edge",
            color=colour,
            alpha=alpha,
        )
    worst = np.sort(values)[: -(-len(values) // 10)].mean()
    axes.plot([values.mean()] * 2, [y - half, y + half], color=INK, lw=2, zorder=3)
    axes.plot(worst, y + half, marker="^", color=INK, ms=6, zorder=3, ls="none")


def draw_before_after(axes: "Axes", accuracies: Accuracies, label: str | None) -> None:
    """Draw each client's accuracy with the base and with ``label``, sorted by the base's."""
    before = accuracies.by_label.get("base", np.full(len(accuracies), np.nan))
    after = accuracies.by_label[label] if label else before
    many = len(accuracies) > MANY
    # Sorting equals by what came after draws fans where there are many of them.
    order = np.argsort(before, kind="stable") if many else np.lexsort((after, before))
    order = order[~np.isnan(before[order] + after[order])]
    before, after, seen = 100 * before[order], 100 * after[order], accuracies.seen[order]
    x = np.arange(1, len(order) + 1)
    worse = after - before < -100 * TOLERANCE
    size = 3 if many else float(np.clip(2600 / max(len(x), 1), 12, 60))
    if label:
        colours = np.where(worse, WORSE, colour_of(label, accuracies.labels))
        if not many:
            axes.vlines(x, before, after, colors=list(colours), lw=1.4, alpha=0.5)
        for group, hollow in ((seen, False), (~seen & (not many), True), (~seen & many, False)):
            axes.scatter(
                x[group],
                after[group],
                s=size,
                facecolors="white" if hollow else list(colours[group]),
                edgecolors=list(colours[group]),
                lw=0 if many else 1.2,
                alpha=0.35 if many else 1.0,
                zorder=3,
                rasterized=many,
            )
    if many:
        axes.plot(x, before, color=INK, lw=1.8, zorder=4)
        parts = np.array_split(np.arange(len(x)), 60)
        means = [after[part].mean() for part in parts]
        axes.plot([x[part].mean() for part in parts], means, color=INK, lw=1.8, ls="--", zorder=4)
    else:
        axes.scatter(x, before, s=size, color=BEFORE, zorder=2)
    alone = accuracies.by_label.get(LOCAL)
    if alone is not None and len(x):
        alone = 100 * alone[order]
        if not many:
            style: dict[str, Any] = {"marker": "_", "lw": 1.6, "color": ALONE, "zorder": 3.5}
            axes.scatter(x, alone, s=1.6 * size, **style)
    _legend_before_after(axes, accuracies, label, bool(worse.any()), many)
    axes.set_xlabel("clients, sorted by accuracy with the base model")
    axes.set_ylabel("accuracy, %")
    margin = 0.6 + 0.01 * len(x)
    axes.set_xlim(1 - margin, len(x) + margin)
    axes.set_xticks([])
    axes.grid(axis="y")
    untold = "no clients" if "base" in accuracies.by_label or not len(accuracies) else NO_BASE
    subtitle = f"mean over {_counted(len(x))}: {np.mean(before):.1f} %" if len(x) else untold
    if label and len(x):
        subtitle += f" → {np.mean(after):.1f} %"
    if alone is not None and len(x):
        subtitle += f"; each alone {np.nanmean(alone):.1f} %"
    shown = "Before and after" if label else "The base model"
    title(axes, f"{shown}, on each client's own test", subtitle)


def _legend_before_after(
    axes: "Axes", accuracies: Accuracies, label: str | None, any_worse: bool, many: bool
) -> None:
    from matplotlib.lines import Line2D

    def dot(text: str, colour: str, *, hollow: bool = False) -> Line2D:
        face = "none" if hollow else colour
        return Line2D([], [], marker="o", ls="", color=colour, mfc=face, ms=6, label=text)

    handles = [dot("base", BEFORE)]
    if many:
        handles = [Line2D([], [], color=INK, lw=1.8, label="base")]
    if label:
        colour = colour_of(label, accuracies.labels)
        handles.append(dot(label, colour))
        if many:
            average = f"{label}, average"
            handles.append(Line2D([], [], color=INK, lw=1.8, ls="--", label=average))
        if any_worse:
            handles.append(dot("worse than before", WORSE))
        if not many and LOCAL in accuracies.labels:
            bar: dict[str, Any] = {"marker": "_", "ms": 8, "mew": 1.6, "ls": "", "color": ALONE}
            handles.append(Line2D([], [], **bar, label="local: each alone"))
        if not many and not accuracies.seen.all():
            handles.append(dot("unseen client", colour, hollow=True))
    axes.legend(handles=handles, loc="lower right", fontsize=9)


def draw_gains(axes: "Axes", accuracies: Accuracies, label: str, reach: Vector) -> None:
    """Draw the gain of each client in points, sorted, in blocks by kind, unseen clients last.

    The colour is that of the label in all figures; vermilion marks a client that lost. The axis
    covers ``reach``, gains in [-1, 1], whether they are drawn or not.
    """
    gain = 100 * accuracies.gain(label)
    colour = colour_of(label, accuracies.labels)
    start, ticks, names = 0.0, [], []
    gap = max(1.0, 0.02 * len(gain))
    parts = blocks(accuracies, ~np.isnan(gain), otherwise="clients, sorted by gain")
    for name, members in parts:
        hollow = not accuracies.seen[members[0]]
        values = np.sort(gain[members])[::-1]
        x = start + np.arange(len(values))
        worse = values < -100 * TOLERANCE
        colours = list(np.where(worse, WORSE, colour))
        if len(gain) <= MANY:
            face = "none" if hollow else colours
            axes.bar(x, values, width=0.78, facecolor=face, edgecolor=colours, lw=0.9)
        else:
            alpha = 0.45 if hollow else 1.0
            for mask, fill in ((~worse, colour), (worse, WORSE)):
                part = np.where(mask, values, 0)
                axes.fill_between(
                    x, 0, part, step="mid", color=fill, alpha=alpha, lw=0, rasterized=True
                )
        axes.hlines(values.mean(), x[0] - 0.5, x[-1] + 0.5, color=INK, lw=1, ls=(0, (4, 3)))
        ticks.append(x.mean())
        names.append(name)
        start += len(values) + gap
    axes.axhline(0, color=INK, lw=1)
    low, high = (100 * float(f(reach, initial=0.0)) for f in (np.nanmin, np.nanmax))
    low, high = min(low - 0.06 * (high - low), -0.5), max(high + 0.06 * (high - low), 0.5)
    axes.set_ylim(low, high)
    axes.axhspan(low, 0, color=WORSE, alpha=0.07, lw=0, zorder=0)
    axes.set_xlim(-0.5 - gap, max(start - 0.5, 1.0))
    slanted = len(names) > 5 and max(map(len, names)) > 9
    axes.set_xticks(
        ticks, names, rotation=25 if slanted else 0, ha="right" if slanted else "center"
    )
    axes.tick_params(axis="x", length=0)
    axes.spines["bottom"].set_visible(False)
    axes.grid(axis="y")
    axes.set_ylabel("gain, points of accuracy")
    known = gain[~np.isnan(gain)]
    count, total = int((known < -100 * TOLERANCE).sum()), len(known)
    dashed = " (dashed: mean of a block)" if len(parts) > 1 else ""
    subtitle = f"mean over {_counted(total)}: {known.mean():+.1f} points{dashed}" if total else ""
    title(axes, f"What {label} brought each client", subtitle)
    axes.annotate(
        f"made worse: {count} of {total}",
        (1, 1),
        xytext=(0, 9),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        fontsize=9,
        weight="bold",
        color=WORSE if count else INK,
    )


def blocks(
    accuracies: Accuracies, known: NDArray[np.bool_], otherwise: str
) -> list[tuple[str, NDArray[np.intp]]]:
    """Return (name, indices of clients) for each kind of seen client; unseen clients come last.

    Only clients where ``known`` [D] is true are in a block. If there is only one kind, or too many,
    all seen clients are one block that is named ``otherwise``.
    """
    seen = accuracies.seen & known
    kinds = np.array(accuracies.kind, dtype=object)
    names = sorted({*kinds[seen]})
    if 1 < len(names) <= MAX_BLOCKS:
        seen_blocks = [
            (name if len(name) <= 16 else f"{name[:15]}…", (seen & (kinds == name)).nonzero()[0])
            for name in names
        ]
    else:
        seen_blocks = [(otherwise, seen.nonzero()[0])] if seen.any() else []
    unseen = (~accuracies.seen & known).nonzero()[0]
    return seen_blocks + ([("unseen", unseen)] if len(unseen) else [])


def _counted(clients: int) -> str:
    return f"{clients} client{'' if clients == 1 else 's'}"
