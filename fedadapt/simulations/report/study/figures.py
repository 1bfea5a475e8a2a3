"""The figures of a study as files for a paper: curves, ranks, costs, gains."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedadapt.simulations.report.paper_figures import write_drawn
from fedadapt.simulations.report.study.look import MARKERS, colours, signs
from fedadapt.simulations.report.study.study import Entry, Study
from fedadapt.simulations.report.style import INK, WORSE, new_figure, styled, title
from fedadapt.simulations.report.task_figure import task_matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled
def write_study_figures(folder: Path, study: Study) -> list[Path]:
    """Write every figure of a study below ``folder/figures``, each as SVG and as PDF."""
    look = dict(
        zip(
            study.entries,
            zip(colours(study.entries), signs(study.entries), strict=True),
            strict=True,
        )
    )
    drawn: dict[str, Figure] = {}
    if any(entry.curves for entry in study.entries):
        drawn["curves"] = _curves(study, look)
    for axis in study.axes:
        drawn[f"setting-{_word(axis)}"] = _setting(study, axis, look)
    if study.has_published:
        drawn["published"] = _published(study, look)
    for entry in study.entries:
        if entry.matrix:
            drawn[f"tasks-{_word(entry.title)}"] = task_matrix(
                entry.matrix, entry.name, entry.label
            )
    if study.has_costs:
        drawn["cost-bytes"] = _cost(study, look, "megabytes", "MB sent and received in training")
    if study.has_seconds:
        drawn["cost-seconds"] = _cost(study, look, "seconds", "CPU seconds on clients")
    for place in range(len(study.populations)):
        suffix = f"-{place + 1}" if len(study.populations) > 1 else ""
        members = [e for e in study.entries if e.population == place and e.gain]
        if members:
            drawn[f"gains{suffix}"] = _gains(study, members, look)
        if (figure := _ranks(study, place, look)) is not None:
            drawn[f"ranks{suffix}"] = figure
    return write_drawn(folder, drawn)


Look = dict[Entry, tuple[str, str]]  # colour and sign


def _curves(study: Study, look: Look) -> "Figure":
    from matplotlib.ticker import MaxNLocator

    shown = [entry for entry in study.entries if entry.curves]
    figure = new_figure(9, max(4.2, 0.6 + 0.24 * len(shown)))
    axes = figure.subplots()
    for entry in shown:
        colour, sign = look[entry]
        at: dict[float, list[float]] = {}
        for curve in entry.curves:
            for step, value in zip(curve.steps, curve.values, strict=True):
                at.setdefault(step, []).append(100 * value)
        steps = sorted(at)
        means = [float(np.mean(at[step])) for step in steps]
        every = max(1, len(steps) // 10)
        axes.plot(
            steps,
            means,
            color=colour,
            marker=MARKERS[sign],
            ms=4,
            markevery=every,
            label=entry.title,
        )
        if len(entry.curves) > 1:
            low, high = ([edge(at[step]) for step in steps] for edge in (min, max))
            axes.fill_between(steps, low, high, color=colour, alpha=0.15, lw=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(study.step)
    axes.set_ylabel("accuracy, %")
    axes.grid(axis="y")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, fontsize=8.5)
    seeds = "bands: lowest and highest seed" if any(len(e.curves) > 1 for e in shown) else ""
    title(axes, f"Mean accuracy by {study.step}", seeds)
    return figure


def _setting(study: Study, axis: str, look: Look) -> "Figure":
    """Draw the mean accuracy at each value of a setting; what else differs is a line of its own."""
    lines: dict[str, list[Entry]] = {}
    for entry in study.entries:
        if axis in entry.point and entry.by_seed:
            others = [f"{key} {value}" for key, value in entry.point.items() if key != axis]
            name = " · ".join(part for part in (entry.series, *others, entry.label) if part)
            lines.setdefault(name, []).append(entry)
    values = list(dict.fromkeys(e.point[axis] for of_line in lines.values() for e in of_line))
    numbers = [value for value in values if isinstance(value, int | float)]
    numeric = len(numbers) == len(values)
    figure = new_figure(9, max(4.2, 0.6 + 0.24 * len(lines)))
    axes = figure.subplots()
    for name, members in lines.items():
        if numeric:
            members = sorted(members, key=lambda entry: entry.point[axis])
        colour, sign = look[members[0]]
        at = [
            entry.point[axis] if numeric else values.index(entry.point[axis]) for entry in members
        ]
        low, mean, high = (
            [100 * float(of(entry.by_seed)) for entry in members] for of in (min, np.mean, max)
        )
        axes.plot(at, mean, color=colour, marker=MARKERS[sign], ms=5, label=name)
        axes.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)
    if numeric and min(numbers) > 0 and max(numbers) > 8 * min(numbers):
        axes.set_xscale("log")
        axes.minorticks_off()
    words = [f"{value:g}" if isinstance(value, int | float) else value for value in values]
    axes.set_xticks(numbers if numeric else range(len(values)), words)
    axes.set_xlabel(axis)
    axes.set_ylabel("accuracy, %")
    axes.grid(axis="y")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, fontsize=8.5)
    title(axes, f"Mean accuracy by {axis}", "bands: lowest and highest seed")
    return figure


def _published(study: Study, look: Look) -> "Figure":
    """Draw what was measured, with a line over its seeds, and hollow what the paper says."""
    members = [entry for entry in study.entries if entry.published is not None and entry.by_seed]
    figure = new_figure(9, 1.4 + 0.32 * len(members))
    axes = figure.subplots()
    for row, entry in enumerate(members):
        colour, sign = look[entry]
        measured = 100 * np.array(entry.by_seed)
        axes.hlines(row, measured.min(), measured.max(), color=colour)
        axes.plot(measured.mean(), row, MARKERS[sign], color=colour, ms=8)
        said = 100 * float(entry.published or 0.0)
        axes.plot(said, row, MARKERS[sign], mfc="none", mec=colour, mew=1.6, ms=8)
    _names(axes, members)
    axes.set_xlabel("accuracy, %")
    axes.grid(axis="x")
    title(axes, "Published and measured", "full: measured, with its seeds; hollow: published")
    return figure


def _cost(study: Study, look: Look, key: str, words: str) -> "Figure":
    figure = new_figure(7.5, 4.2)
    axes = figure.subplots()
    for entry in study.entries:
        cost = getattr(entry, key)
        if cost is None or entry.mean is None:
            continue
        colour, sign = look[entry]
        axes.plot([cost] * 2, [100 * min(entry.by_seed), 100 * max(entry.by_seed)], color=colour)
        axes.plot(cost, 100 * entry.mean, MARKERS[sign], color=colour, ms=7, label=entry.title)
    axes.set_xlim(left=0)
    axes.set_xlabel(words)
    axes.set_ylabel("accuracy, %")
    axes.grid()
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, fontsize=8.5)
    title(axes, "Accuracy against what it costs", "lines: lowest and highest seed")
    return figure


def _gains(study: Study, members: list[Entry], look: Look) -> "Figure":
    figure = new_figure(9, 1.2 + 0.36 * len(members))
    axes = figure.subplots()
    for row, entry in enumerate(members):
        colour, sign = look[entry]
        gains = 100 * np.array(list(entry.gain.values()))
        marks = [WORSE if gain < -1e-4 else colour for gain in gains]
        axes.vlines(gains, row - 0.3, row + 0.3, colors=marks, lw=1.2, alpha=0.6)
        axes.plot(gains.mean(), row, MARKERS[sign], color=colour, ms=8, mec="white")
    axes.axvline(0, color=INK, lw=1)
    _names(axes, members)
    axes.set_xlabel(f"gain over {study.reference}, points; a mark a client")
    axes.grid(axis="x")
    title(
        axes,
        f"Gain of each client over {study.reference}",
        study.populations[members[0].population],
    )
    return figure


def _ranks(study: Study, population: int, look: Look) -> "Figure | None":
    """Draw mean ranks; bars at the right join rows that do not differ."""
    found = study.ranks(population)
    if found is None:
        return None
    members = [study.entries[place] for place in found.methods]
    figure = new_figure(8, 1.4 + 0.32 * len(members))
    axes = figure.subplots()
    for row, (entry, rank) in enumerate(zip(members, found.mean, strict=True)):
        colour, sign = look[entry]
        axes.plot(rank, row, MARKERS[sign], color=colour, ms=8)
    edge = max(found.mean)
    lane = max(0.15, (edge - 1) / 30)
    for place, (first, last) in enumerate(found.alike, 1):
        axes.vlines(edge + lane * (place + 1), first - 0.25, last + 0.25, color=INK, lw=3)
    axes.hlines(-0.75, 1, 1 + found.difference, color=INK, lw=2)
    axes.annotate(
        f"critical difference {found.difference:.2f}",
        (1 + found.difference, -0.75),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
    )
    _names(axes, members)
    axes.set_ylim(len(members) - 0.4, -1.3)
    axes.set_xlabel("mean rank over clients")
    axes.grid(axis="x")
    title(axes, "Ranks", "bars join rows that do not differ (Nemenyi, 5 %)")
    return figure


def _word(text: str) -> str:
    """Return a text as a part of a file's name."""
    return re.sub(r"[^\w.=+-]+", "-", text).strip("-")


def _names(axes: "Axes", entries: list[Entry]) -> None:
    axes.set_yticks(range(len(entries)), [entry.title for entry in entries])
    axes.set_ylim(len(entries) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
