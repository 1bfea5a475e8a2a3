"""How far models are right where they are sure, as a figure."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fedadapt.simulations.report.style import INK, colour_of, new_figure, styled, title
from fedadapt.simulations.results.calibration import COVERAGES, Sureness

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def coverage_and_calibration(by_label: Mapping[str, Sureness]) -> "Figure":
    """Draw accuracy against coverage, and how sure the models are beside how often they are right.

    In the second panel each label has two marks, hollow as the model is and full at the clients'
    own temperatures; on the diagonal a model is as sure as it is right.
    """
    labels = tuple(by_label)
    figure = new_figure(10, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for label, found in by_label.items():
        colour = colour_of(label, labels)
        accuracy = [100 * share for share in found.by_coverage]
        left.plot(100 * COVERAGES, accuracy, "o-", ms=4, color=colour, label=label)
        for sure, filled in ((found.raw, False), (found.calibrated, True)):
            face = colour if filled else "none"
            right.plot(100 * sure, 100 * found.accuracy, "o", ms=8, color=colour, mfc=face)
    left.set_xlabel("images that are answered, the surest first, %")
    left.set_ylabel("accuracy on them, %")
    left.legend(loc="lower left")
    title(left, "Accuracy against coverage", "mean over clients")
    low = 100 * min(min(s.raw, s.calibrated, s.accuracy) for s in by_label.values())
    right.plot([low - 3, 100], [low - 3, 100], lw=1, color=INK, zorder=0)
    right.set_xlabel("mean probability of the prediction, %")
    right.set_ylabel("accuracy, %")
    title(right, "As sure as right?", "hollow: as it is; full: at each client's temperature")
    return figure
