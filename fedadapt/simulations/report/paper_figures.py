"""The figures of a run as files for a paper: each as SVG and as PDF."""

import io
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedadapt.errors import FedadaptError, InputError
from fedadapt.records import LOCAL
from fedadapt.simulations.report import figures as plots
from fedadapt.simulations.report.client_gains import client_gains
from fedadapt.simulations.report.confidence_figures import coverage_and_calibration
from fedadapt.simulations.report.group_figures import distance_matrix, layers
from fedadapt.simulations.report.layer_map import layer_map
from fedadapt.simulations.report.report import sureness_of
from fedadapt.simulations.report.style import styled
from fedadapt.simulations.report.task_figure import task_matrix
from fedadapt.simulations.results.accuracies import last_accuracies
from fedadapt.simulations.results.parquet import put
from fedadapt.simulations.results.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "figures"
FORMATS = {"svg": "Date", "pdf": "CreationDate"}
"""Format -> its date, which is left out: the same run gives the same files."""


@styled
def write_figures(folder: Path) -> list[Path]:
    """Write every figure of a run below ``folder/figures`` and return the paths.

    Raises:
        InputError: The folder holds nothing of a run, or nothing that can be drawn.

    """
    drawn = figures_of(RunFolder.read(folder))
    if not drawn:
        raise InputError(f"{folder}: nothing has been evaluated yet; there is no figure to draw")
    return write_drawn(folder, drawn)


@styled
def write_drawn(folder: Path, drawn: Mapping[str, "Figure"]) -> list[Path]:
    """Write figures by name below ``folder/figures``, in every format, and return the paths."""
    (folder / FOLDER).mkdir(exist_ok=True)
    paths = []
    for name, figure in drawn.items():
        for kind, date in FORMATS.items():
            file = io.BytesIO()
            figure.savefig(file, format=kind, metadata={date: None})
            paths.append(put(folder / FOLDER / f"{name}.{kind}", file.getvalue()))
    return paths


@styled
def figures_of(run: RunFolder) -> dict[str, "Figure"]:
    """Draw every figure of a run, by name; none where nothing has been evaluated."""
    accuracies = last_accuracies(run.evaluations, run.adaptations)
    drawn: dict[str, Figure] = {}
    if run.evaluations or run.losses:
        losses = list(run.losses)
        drawn["convergence"] = plots.convergence(run.evaluations, losses, accuracies, run.groups)
    if len(accuracies):
        drawn["before-and-after"] = plots.before_and_after(accuracies)
        drawn["distribution"] = plots.distribution(accuracies)
        drawn["kinds"] = plots.kinds(accuracies)
        for label in accuracies.labels:
            if label not in ("base", LOCAL) and not np.isnan(accuracies.gain(label)).all():
                drawn[f"gain-{label}"] = plots.gains(accuracies, label)
    if sureness := sureness_of(run, accuracies):
        drawn["confidence"] = coverage_and_calibration(sureness)
    if run.groups is not None:
        if (together := client_gains(accuracies)) is not None:
            drawn["gains-together"] = together
        if run.groups.has_distances:
            drawn["distances"] = distance_matrix(run.groups)
        if run.groups.compares_layers:
            with suppress(FedadaptError):  # it has not been measured, and the page says why
                drawn["layers"] = layers(layer_map(run, measure=False))
    for label, scores in run.summary.get("tasks", {}).items():
        drawn[f"tasks-{label}"] = task_matrix(scores["matrix"], "Accuracy task after task", label)
    return drawn
