"""Tables of PFA: published and measured accuracies side by side, in percent."""

from collections.abc import Iterator, Sequence

import numpy as np

from fedadapt.reproductions.model_selection import RULES
from fedadapt.reproductions.pfa.plan import Experiment
from fedadapt.reproductions.pfa.published import DOMAINS, METHODS
from fedadapt.reproductions.pfa.results import Results
from fedadapt.reproductions.table import Grid

ORDER = (*METHODS, "PFA, number found", "Random")


def grids(experiment: Experiment, results: Results, *, per_client: bool = False) -> Iterator[Grid]:
    """Return the tables of a reproduction: by kind, by client if asked for, and the groups."""
    yield _by_kind(experiment, results)
    if per_client:
        yield _by_client(experiment, results)
    yield _wins(results)
    yield _grouping(results)


def methods_of(results: Results) -> list[str]:
    """Return the methods that were measured, in the paper's order."""
    return [method for method in ORDER if method in results.accuracy]


def _by_kind(experiment: Experiment, results: Results) -> Grid:
    lines = []
    for method in methods_of(results):
        if experiment.published and method in experiment.published.clients:
            clients = np.array(experiment.published.clients[method])
            means = clients.reshape(len(DOMAINS), -1).mean(1)
            shown = [f"{v:.2f}" for v in (*means, means.mean())]
            lines.append((method, f"published, {RULES['test']}", *shown))
        for rule in RULES:
            values = 100 * results.by_kind(method, rule)
            lines.append((method, RULES[rule], *_spread(values)))
    heads = ("method", "which round", *results.kind_names, "average")
    return Grid(
        f"{experiment.name}, {experiment.base.model}: accuracy by kind of client, %",
        heads,
        lines,
        (
            _means(results),
            f"PFA is told that there are {experiment.groups} groups, unless the number is found"
            f"{_told(experiment)}.",
            f"{experiment.rounds.federated} + {experiment.rounds.grouped} rounds of "
            f"{experiment.base.local_epochs} local epochs; local baselines train as many epochs as "
            "PFA does in groups, from the same federated model (that of the last round).",
            "The paper's figures are of the round that is best on the test images, which is "
            "optimistic; validation images are the clients' adapt images, which nobody trains on.",
        ),
    )


def _means(results: Results) -> str:
    seeds = ", ".join(map(str, results.seeds))
    said = "Mean over the clients of a kind; average: mean over kinds"
    if len(results.seeds) == 1:
        return f"{said}. Seed {seeds}."
    return f"{said}. ± is the standard deviation over seeds {seeds}."


def _told(experiment: Experiment) -> str:
    return f"; its other arguments: {experiment.told}" if experiment.told else ""


def _by_client(experiment: Experiment, results: Results) -> Grid:
    lines = []
    for method in methods_of(results):
        if experiment.published and method in experiment.published.clients:
            shown = [f"{v:.2f}" for v in experiment.published.clients[method]]
            lines.append((method, "published", *shown))
        for rule in ("validation", "test"):
            values = 100 * results.accuracy[method][rule].mean(0)
            lines.append((method, f"measured, {rule}", *(f"{v:.2f}" for v in values)))
    heads = ("method", "which round", *(str(d + 1) for d in range(len(results.kinds))))
    return Grid("Accuracy by client, %; mean over seeds", heads, lines, ())


def _wins(results: Results) -> Grid:
    """Describe the gain of PFA over each other method, and on how many clients it gains."""
    lines = []
    for method in methods_of(results):
        if method == "PFA":
            continue
        cells = []
        for rule in RULES:
            gain = 100 * (results.accuracy["PFA"][rule] - results.accuracy[method][rule])
            means = gain.mean(1)
            better = (gain.mean(0) > 1e-9).sum()
            cells += [*_spread(means[:, None]), f"{better} of {gain.shape[1]}"]
        lines.append((method, *cells))
    heads = ["PFA minus"]
    for rule in RULES:
        heads += [f"points ({rule})", "clients better off"]
    return Grid("What PFA gains", tuple(heads), lines, ())


def _grouping(results: Results) -> Grid:
    def shown(value: object) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    keys = ("num_groups", "adjusted_rand_index", "quality", "method")
    lines = [
        (f"seed {seed}", how, *(shown(groups[run].get(key, "")) for key in keys))
        for seed, groups in zip(results.seeds, results.groups, strict=True)
        for run, how in (("pfa", "number given"), ("found", "number found"))
    ]
    heads = ("seed", "mode", "groups", "adjusted Rand index", "silhouette", "method")
    return Grid("Groups", heads, lines, ())


def _spread(values: "np.ndarray[tuple[int, int], np.dtype[np.float64]]") -> Sequence[str]:
    """Return mean ± sample standard deviation over seeds for each column."""
    means = values.mean(0)
    if len(values) < 2:
        return [f"{m:.2f}" for m in means]
    return [f"{m:.2f} ± {s:.2f}" for m, s in zip(means, values.std(0, ddof=1), strict=True)]
