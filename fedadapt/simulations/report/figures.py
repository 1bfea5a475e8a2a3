"""The figures of a run, one function each, for one client as well as for ten thousand."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedadapt.records import LOCAL, Evaluation, RoundLoss
from fedadapt.simulations.report.convergence import draw_accuracy_by_round, draw_loss_by_round
from fedadapt.simulations.report.panels import draw_before_after, draw_gains, draw_row
from fedadapt.simulations.report.style import (
    colour_of,
    legend_columns,
    new_figure,
    save_png,
    shortened,
    styled,
    title,
)
from fedadapt.simulations.results.accuracies import Accuracies, last_accuracies
from fedadapt.simulations.results.groups import FoundGroups
from fedadapt.simulations.results.parquet import read_evaluations
from fedadapt.simulations.results.summary import per_kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_KINDS = 16  # groups of bars that a picture holds
PICTURE = "gain.png"


@styled
def convergence(
    evaluations: Iterable[Evaluation],
    losses: Sequence[RoundLoss],
    final: Accuracies,
    groups: FoundGroups | None = None,
) -> "Figure":
    """Draw two panels: the base model's accuracy over rounds, and the training loss.

    The first one also shows the final models and, where there are groups, when they were made and
    how their models developed.
    """
    figure = new_figure(10, 3.8)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    draw_accuracy_by_round(left, evaluations, final, groups)
    draw_loss_by_round(right, losses, groups)
    return figure


@styled
def distribution(accuracies: Accuracies) -> "Figure":
    """Draw how accuracy is distributed over clients, a row for each label.

    Unseen clients have rows of their own. Up to 400 clients are drawn as dots; more are drawn as an
    area whose height is the number of clients.
    """
    parts = [
        ("", accuracies.where(accuracies.seen)),
        (", unseen", accuracies.where(~accuracies.seen)),
    ]
    rows = [(part, label, after) for after, part in parts for label in part.labels]
    figure = new_figure(10, 1.5 + 0.75 * len(rows))
    axes = figure.subplots()
    for y, (part, label, after) in enumerate(rows):
        values = part.by_label[label]
        draw_row(
            axes,
            y,
            100 * values[~np.isnan(values)],
            colour_of(label, accuracies.labels),
            filled=not after,
        )
    axes.set_yticks(range(len(rows)), [f"{label}{after}" for _, label, after in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel("accuracy on the client's own test images, %")
    title(
        axes,
        "Accuracy, client by client",
        "bar: mean over clients; triangle: mean of the worst 10 %",
    )
    return figure


@styled
def gains(accuracies: Accuracies, label: str) -> "Figure":
    """Draw the gain of ``label`` over the base on each client, sorted, in blocks by kind.

    The axis is that of all labels, so that their figures can be compared.
    """
    others = [other for other in accuracies.labels if other != LOCAL]
    reach = np.concatenate([accuracies.gain(other) for other in others])
    figure = new_figure(10, 3.8)
    draw_gains(figure.subplots(), accuracies, label, reach)
    return figure


@styled
def kinds(accuracies: Accuracies) -> "Figure":
    """Draw the mean accuracy by kind of client and label.

    If there are too many kinds, those with the most clients are shown.
    """
    rows = per_kind(accuracies)
    large = sorted(rows, key=lambda row: -row.num_clients)[:MAX_KINDS]
    shown = [row for row in rows if row in large]
    labels = accuracies.labels
    figure = new_figure(10, 1.5 + len(shown) * (0.22 * len(labels) + 0.22))
    axes = figure.subplots()
    for i, label in enumerate(labels):
        offset = (i - (len(labels) - 1) / 2) * 0.8 / max(len(labels), 1)
        bars = axes.barh(
            [y + offset for y in range(len(shown))],
            [100 * row.accuracy.get(label, 0.0) for row in shown],
            height=0.74 / len(labels),
            color=colour_of(label, labels),
            label=label,
        )
        for bar, row in zip(bars, shown, strict=True):
            bar.set_alpha(1.0 if row.seen else 0.5)
        values = [row.accuracy.get(label) for row in shown]
        texts = ["" if value is None else f"{100 * value:.1f}" for value in values]
        axes.bar_label(bars, texts, padding=4, fontsize=8)
    names = [
        f"{shortened(r.kind, 24)}{'' if r.seen else ', unseen'} ({r.num_clients})" for r in shown
    ]
    axes.set_yticks(range(len(shown)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(shown) - 0.45, -0.55)
    axes.set_xlim(0, 106)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("mean accuracy over the kind's clients, %")
    columns = legend_columns(labels, 8)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2)
    if len(shown) < len(rows):
        axes.annotate(
            f"the {len(shown)} kinds with most clients, of {len(rows)}",
            (1, 1),
            xycoords="axes fraction",
            ha="right",
            va="bottom",
            fontsize=9,
        )
    return figure


@styled
def before_and_after(accuracies: Accuracies, label: str | None = None) -> "Figure":
    """Draw two panels: each client's accuracy before and after, and its gain.

    "Before" is the base model. "After" is ``label``, which by default is ``Accuracies.final``.
    """
    label = label or accuracies.final
    if label is None:
        figure = new_figure(8, 4.4)
        draw_before_after(figure.subplots(), accuracies, None)
        return figure
    figure = new_figure(14, 5)
    left, right = figure.subplots(1, 2)
    draw_before_after(left, accuracies, label)
    draw_gains(right, accuracies, label, accuracies.gain(label))
    figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr,call-arg]
    return figure


def picture(
    folder: Path, adaptations: Sequence[str] = (), rows: Iterable[Evaluation] | None = None
) -> Path:
    """Write ``gain.png`` into a run folder and return its path.

    It shows what the final model was worth to each client.

    Args:
        folder: The run folder.
        adaptations: In the order in which the run names them; the last one is shown (see
            ``Accuracies.final``).
        rows: The evaluations; by default those of ``clients.parquet``.

    """
    evaluations = read_evaluations(folder) if rows is None else rows
    return save_png(before_and_after(last_accuracies(evaluations, adaptations)), folder / PICTURE)
