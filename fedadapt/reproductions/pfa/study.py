"""The page of a reproduction of PFA: its methods, measured and published."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedadapt.reproductions.model_selection import RULES
from fedadapt.reproductions.pfa.curves import curves
from fedadapt.reproductions.pfa.plan import LOCAL, Experiment
from fedadapt.reproductions.pfa.results import METHODS, Results
from fedadapt.reproductions.pfa.tables import methods_of
from fedadapt.reproductions.table import Grid
from fedadapt.simulations.report.study import study as shown
from fedadapt.simulations.report.study.page import REPORT
from fedadapt.simulations.report.study.study import Entry, Link, Shown, Study
from fedadapt.simulations.studies.study_of_runs import address

REFERENCE = "the federated model"
RULE = "last"  # nothing is chosen; the table has the other rules as well


def study(experiment: Experiment, results: Results, grids: Sequence[Grid], folder: Path) -> Study:
    """Return the study of an experiment; accuracies are those of the last round."""
    methods = methods_of(results)
    best = max(float(results.accuracy[method][RULE].mean()) for method in methods)
    seeds = ", ".join(map(str, results.seeds))
    return Study(
        what="Reproduction",
        title=f"{experiment.name}, {experiment.base.model}",
        line=f"seeds {seeds} · {len(results.kinds)} clients · {experiment.rounds.federated} + "
        f"{experiment.rounds.grouped} rounds",
        notes=(),
        settings=(),
        columns=(*(f"{RULES[rule]}, %" for rule in RULES), "published, %"),
        entries=tuple(_entry(experiment, results, method, folder, best=best) for method in methods),
        reference=REFERENCE,
        grids=tuple(shown.Grid(*grid) for grid in grids),
    )


def _entry(
    experiment: Experiment, results: Results, method: str, folder: Path, *, best: float
) -> Entry:
    by_rule = results.accuracy[method]
    published = None
    if experiment.published and method in experiment.published.clients:
        published = float(np.mean(experiment.published.clients[method])) / 100
    cells = [_shown(by_rule[rule]) for rule in RULES]
    at = list(RULES).index(RULE)
    cells[at] = cells[at]._replace(best=bool(by_rule[RULE].mean() >= best - 1e-9))
    said = Shown("-") if published is None else Shown(f"{100 * published:.2f}", published)
    gain = (by_rule[RULE] - results.accuracy["Baseline"][RULE]).mean(0)
    return Entry(
        name=method,
        cells=(*cells, said),
        by_seed=tuple(by_rule[RULE].mean(1).tolist()),
        published=published,
        accuracy=dict(enumerate(by_rule[RULE].mean(0).tolist())),
        gain={} if method == "Baseline" else dict(enumerate(gain.tolist())),
        curves=curves(experiment, results, method),
        links=tuple(_links(experiment, results, method, folder)),
    )


def _shown(values: "np.ndarray[tuple[int, int], np.dtype[np.float64]]") -> Shown:
    """Return the mean over clients of [seeds, clients], with its spread over seeds."""
    of_seeds = 100 * values.mean(1)
    text = f"{of_seeds.mean():.2f}"
    if len(of_seeds) > 1:
        text += f" ± {of_seeds.std(ddof=1):.2f}"
    return Shown(text, float(of_seeds.mean()))


def _links(experiment: Experiment, results: Results, method: str, folder: Path) -> list[Link]:
    name = "federated" if method in LOCAL else METHODS[method][0]
    links = []
    for seed in results.seeds:
        page = Path(dict(experiment.runs(seed, folder))[name].out) / REPORT
        if page.is_file():
            links.append(Link(str(seed), address(page, folder)))
    return links
