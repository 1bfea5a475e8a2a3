"""Tables of DUA: published and measured results side by side."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fedadapt.reproductions.dua.claims import claims
from fedadapt.reproductions.dua.plan import Experiment
from fedadapt.reproductions.dua.results import Results, can_forget
from fedadapt.reproductions.table import Grid

NOTHING = "-"


def grids(experiment: Experiment, results: Results) -> Iterator[Grid]:
    """Return tables of accuracy and forgetting, accuracy by task, and the paper's rankings."""
    yield _scores(experiment, results)
    yield _by_task(experiment, results)
    yield _claims(experiment, results)


def _scores(experiment: Experiment, results: Results) -> Grid:
    lines: list[tuple[str, ...]] = []
    for row, measured in zip(results.rows, results.measured, strict=True):
        published = experiment.published.get(row.key)
        forgets = can_forget(row)
        lines.append(
            (
                row.method,
                f"{row.strategy}: {row.label}",
                f"{published.accuracy:.2f}" if published else NOTHING,
                spread(measured.accuracy),
                _points(published.forgetting if published else None),
                spread(measured.forgetting_over_all) if forgets else NOTHING,
                spread(measured.forgetting) if forgets else NOTHING,
            )
        )
    tasks = len(experiment.tasks)
    heads = (
        "method", "run: client model", "accuracy published", "measured",
        f"forgetting published (over {tasks})", f"measured (over {tasks})",
        f"measured (over {tasks - 1})",
    )  # fmt: skip
    title = f"{experiment.name}, {experiment.base.model}, preset {experiment.preset}: table "
    return Grid(title + experiment.table, heads, lines, tuple(_notes(experiment, results)))


def _notes(experiment: Experiment, results: Results) -> Iterator[str]:
    yield (
        "Accuracy after the last task, %, and forgetting in points: means over users and tasks, "
        f"{_over(results)}."
    )
    if not experiment.published:
        yield f"The paper has no numbers of {experiment.name} with {experiment.base.model}."
    elif results.domains and "svhn" not in results.domains:
        yield (
            f"Images are of {' and '.join(map(str.upper, results.domains))}, the paper's of MNIST "
            "and SVHN: the numbers cannot be compared, their order can."
        )
    if experiment.table == "4":
        yield (
            "Task Experts and joint training cannot forget; 'forgetting' published of Task Experts "
            "is what the next task's expert loses."
        )
    if experiment.table == "4" and experiment.published:
        yield (
            "AdaBN as published copied no statistics into the model that was tested, and batch "
            "norm was made new before each task; preset released does the second only."
        )


def _over(results: Results) -> str:
    if len(results.runs) == 1:
        seed, draw = results.runs[0]
        return f"of seed {seed}, draw {draw}"
    seeds, draws = (sorted({run[which] for run in results.runs}) for which in (0, 1))
    return (
        f"± the standard deviation over {len(results.runs)} runs "
        f"(seeds {', '.join(map(str, seeds))}; draws {', '.join(map(str, draws))})"
    )


def _by_task(experiment: Experiment, results: Results) -> Grid:
    lines = [
        (row.method, row.label, *(spread(values) for values in measured.by_task.T))
        for row, measured in zip(results.rows, results.measured, strict=True)
    ]
    heads = ("method", "client model", *experiment.tasks)
    return Grid("Accuracy by task after the last, %", heads, lines, ())


def _claims(experiment: Experiment, results: Results) -> Grid:
    digits = experiment.base.benchmark in ("dua-numbers", "digits-tasks")
    published = {c.text: c for c in claims(experiment.published, digits=digits)}
    every = range(len(results.runs))
    held = Counter(
        c.text for r in every for c in claims(results.scores(r), digits=digits) if c.holds
    )
    lines: list[tuple[str, ...]] = []
    for claim in claims(results.scores(), digits=digits):
        said = published.get(claim.text)
        lines.append(
            (
                claim.text,
                "holds" if claim.holds else "does not hold",
                f"{held[claim.text]} of {len(every)}",
                _points(said.points if said else None),
                _points(claim.points),
            )
        )
    heads = ("what the paper shows", "on average", "runs", "points published", "measured")
    note = "The smallest difference in accuracy between what should be above and what below."
    return Grid("Does it hold?", heads, lines, (note,))


def _points(value: float | None) -> str:
    return NOTHING if value is None else f"{value:+.2f}"


def spread(values: NDArray[np.float64]) -> str:
    """Return shares [R] in percent, as mean ± sample standard deviation."""
    text = f"{100 * values.mean():.2f}"
    return text if len(values) < 2 else f"{text} ± {100 * values.std(ddof=1):.2f}"


def metadata(experiment: Experiment, results: Results) -> dict[str, object]:
    """Return all results as JSON; measured shares are in [0, 1], None above the diagonal."""
    rows = []
    for row, measured in zip(results.rows, results.measured, strict=True):
        published = experiment.published.get(row.key)
        mean = measured.matrix.mean(0)
        rows.append(
            {
                **row._asdict(),
                "published": published._asdict() if published else None,
                "accuracy": measured.accuracy.tolist(),
                "forgetting": measured.forgetting.tolist(),
                "forgetting_over_all": measured.forgetting_over_all.tolist(),
                "matrix": [[None if np.isnan(v) else float(v) for v in line] for line in mean],
            }
        )
    return {
        "experiment": experiment.name,
        "table": experiment.table,
        "preset": experiment.preset,
        "model": experiment.base.model,
        "runs": [{"seed": seed, "draw": draw} for seed, draw in results.runs],
        "rows": rows,
    }
