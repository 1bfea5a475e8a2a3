"""Accuracy and training loss over rounds, and when groups were made.

Accuracies are drawn in percent.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedadapt.records import Evaluation, RoundLoss
from fedadapt.simulations.report.style import BEFORE, INK, colour_of, title
from fedadapt.simulations.results.accuracies import Accuracies
from fedadapt.simulations.results.groups import FoundGroups

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_accuracy_by_round(
    axes: "Axes",
    evaluations: Iterable[Evaluation],
    final: Accuracies,
    groups: FoundGroups | None = None,
) -> None:
    """Draw the mean accuracy of seen clients over rounds, with a band from 10 to 90 % of clients.

    The base is drawn in every round that was evaluated, and so are the personal models of groups.
    Adapted models are evaluated at the end only. ``evaluations`` are read more than once.
    """
    by_round: dict[bool, dict[int, list[float]]] = {
        True: defaultdict(list),
        False: defaultdict(list),
    }
    for row in evaluations:
        if row.split == "test" and row.label == "base":
            by_round[row.seen][row.round].append(100 * row.accuracy)
    for seen, accuracies in by_round.items():
        rounds = sorted(accuracies)
        if not rounds:
            continue
        style: dict[str, Any] = {"marker": "o", "markersize": 3.5, "color": INK}
        if seen:
            low, high = np.array([np.quantile(accuracies[r], (0.1, 0.9)) for r in rounds]).T
            if len(accuracies[rounds[-1]]) > 1:
                band = "10-90 % of clients"
                axes.fill_between(rounds, low, high, color=BEFORE, alpha=0.28, lw=0, label=band)
            axes.plot(rounds, [np.mean(accuracies[r]) for r in rounds], label="base", **style)
        else:
            means = [np.mean(accuracies[r]) for r in rounds]
            axes.plot(rounds, means, "--", label="base, unseen clients", mfc="none", **style)
    of_seen = final.where(final.seen)
    over_rounds = {"base"}
    if groups is not None and _draw_personal(axes, evaluations, final, groups):
        over_rounds.add("personal")
    for label in of_seen.labels:
        if label not in over_rounds:
            colour, mean = colour_of(label, final.labels), 100 * np.nanmean(of_seen.by_label[label])
            axes.plot(final.round, mean, "D", color=colour, ms=6.5, label=label, clip_on=False)
    _rounds_axis(axes)
    axes.set_ylabel("accuracy, %")
    if axes.get_legend_handles_labels()[0]:
        legend: dict[str, Any] = {"loc": "lower right"}
        if groups is not None:  # two bands leave no corner free
            legend = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "borderaxespad": 0}
        axes.legend(**legend, fontsize=8.5)
    title(axes, "Mean accuracy on the clients' own test", _mark_grouping(axes, groups))


def _draw_personal(
    axes: "Axes", evaluations: Iterable[Evaluation], final: Accuracies, groups: FoundGroups
) -> bool:
    """Draw the mean accuracy of personal models over rounds, with its band.

    Groups begin with the base model, so after a first grouping the curve begins with the base too.

    Returns:
        Whether it is drawn: False where personal models were not evaluated in several rounds.

    """
    accuracies: dict[int, list[float]] = defaultdict(list)
    before: list[float] = []
    for row in evaluations:
        if row.split == "test" and row.seen and row.epoch == 0:
            if row.label == "personal":
                accuracies[row.round].append(100 * row.accuracy)
            elif row.label == "base" and row.round == groups.round - 1:
                before.append(100 * row.accuracy)
    if len(accuracies) < 2:
        return False
    if before and min(accuracies) >= groups.round:
        accuracies[groups.round - 1] = before
    rounds, colour = sorted(accuracies), colour_of("personal", final.labels)
    low, high = np.array([np.quantile(accuracies[r], (0.1, 0.9)) for r in rounds]).T
    axes.fill_between(rounds, low, high, color=colour, alpha=0.18, lw=0)
    means = [np.mean(accuracies[r]) for r in rounds]
    axes.plot(rounds, means, marker="o", markersize=3.5, color=colour, label="personal")
    return True


def _mark_grouping(axes: "Axes", groups: FoundGroups | None) -> str:
    """Draw a line where groups continued from the federated model; return a subtitle for it."""
    if groups is None:
        return ""
    axes.axvline(groups.round - 1, color=INK, lw=1, ls=":", zorder=1)
    return f"dotted: {groups.num_groups} groups from round {groups.round} on"


def draw_loss_by_round(
    axes: "Axes", losses: Sequence[RoundLoss], groups: FoundGroups | None = None
) -> None:
    """Draw the training loss that clients reported; a round that diverged leaves a gap."""
    ordered = sorted(losses)
    axes.plot([row.round for row in ordered], [row.loss for row in ordered], color=INK, lw=1.6)
    if len(ordered) == 1:
        axes.plot(ordered[0].round, ordered[0].loss, "o", color=INK)
    _rounds_axis(axes)
    axes.set_ylabel("cross-entropy, nats")
    title(axes, "Training loss", _mark_grouping(axes, groups))


def _rounds_axis(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("round")
    axes.grid(axis="y")
