"""PFA's figures 4 and 5 over all seeds: convergence, and the gain of each client."""

from pathlib import Path

import numpy as np

from fedadapt.reproductions.pfa.curves import curves
from fedadapt.reproductions.pfa.plan import Experiment
from fedadapt.reproductions.pfa.results import Results
from fedadapt.simulations.report.style import (
    BEFORE,
    COLOURS,
    INK,
    new_figure,
    save_png,
    styled,
    title,
)

NAMES = ("Fine-tune", "KD", "EWC", "PFA", "PFA, number found", "Random")
COLOUR = dict(zip(NAMES, COLOURS[1:4] + COLOURS[:1] + COLOURS[5:6] + COLOURS[4:5], strict=True))


@styled
def draw(experiment: Experiment, results: Results, path: Path) -> Path:
    """Draw two panels into one PNG."""
    figure = new_figure(11, 8)
    above, below = figure.subplots(2, 1)
    _convergence(above, experiment, results)
    _gains(below, results)
    return save_png(figure, path)


def _convergence(axes, experiment: Experiment, results: Results) -> None:  # type: ignore[no-untyped-def]
    begin = experiment.rounds.federated

    def line(method: str, colour: str) -> None:
        drawn = curves(experiment, results, method)
        means = 100 * np.array([curve.values for curve in drawn])
        # Dashes: where the number found is the true one, this curve lies on PFA's.
        dashes = (0, (3, 2)) if method == "PFA, number found" else "-"
        steps = drawn[0].steps
        axes.plot(steps, means.mean(0), color=colour, label=method, lw=2, ls=dashes)
        if len(means) > 1:
            axes.fill_between(steps, means.min(0), means.max(0), color=colour, alpha=0.18, lw=0)

    line("Baseline", BEFORE)
    for method in [name for name in NAMES if name in results.curves]:
        line(method, COLOUR[method])
    axes.axvline(begin, color=INK, lw=0.8, ls=":")
    axes.set_xlabel(f"rounds ({experiment.base.local_epochs} local epochs each)")
    axes.set_ylabel("accuracy, %")
    axes.grid(axis="y")
    axes.legend(ncols=2, fontsize=9, loc="best")
    bands = "bands: lowest and highest seed" if len(results.seeds) > 1 else ""
    title(axes, "Mean accuracy on the clients' own test", bands)


def _gains(axes, results: Results) -> None:  # type: ignore[no-untyped-def]
    methods = [m for m in NAMES if m in results.accuracy]
    base = results.accuracy["Baseline"]["last"]
    positions = np.arange(base.shape[1])
    width = 0.8 / len(methods)
    for number, method in enumerate(methods):
        gain = 100 * (results.accuracy[method]["last"] - base).mean(0)
        left = positions + (number - (len(methods) - 1) / 2) * width
        axes.bar(left, gain, width, color=COLOUR[method], label=method)
    kinds = np.array(results.kinds, dtype=object)
    for kind in results.kind_names:
        members = np.flatnonzero(kinds == kind)
        axes.annotate(
            kind, (members.mean(), 0), xytext=(0, -30), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="center", fontsize=9,
        )  # fmt: skip
        axes.axvline(members.max() + 0.5, color=INK, lw=0.5, alpha=0.3)
    axes.axhline(0, color=INK, lw=0.8)
    axes.set_xlim(-0.6, len(positions) - 0.4)
    axes.set_xticks(positions, [str(d + 1) for d in positions], fontsize=8)
    axes.set_ylabel("gain, points")
    axes.grid(axis="y")
    axes.legend(ncols=3, fontsize=9, loc="lower right", bbox_to_anchor=(1, 1))
    title(axes, "Gain over the federated model, client by client", "last round, mean over seeds")
