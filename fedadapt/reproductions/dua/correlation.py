"""DUA's figure 3: whether importance follows the model or the data.

Omega(M, D) is MAS importance of the parameters of expert M on a user's images D, heads left out.
Tasks 1 and 2 make two models and two data sets, so four vectors; of each two that share a model or
the data, Pearson's correlation. MAS needs no labels: a task's images go through the other task's
expert with that expert's own head.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch

from fedadapt.client.statistics.importance import importances
from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.reproductions.dua.plan import Experiment
from fedadapt.reproductions.dua.published import FIGURE_3
from fedadapt.reproductions.table import Grid
from fedadapt.selectors import head
from fedadapt.simulations.assembly import assemble, compute_device, server_side
from fedadapt.simulations.report.style import INK, new_figure, save_png, styled, title
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.dua.experts.training import Epoch, Expert
from fedadapt.strategies.dua.strategy import MergedExperts
from fedadapt.weights import Weights, repeat, row

PAIRS = {"M1": (0, 1), "M2": (2, 3), "D1": (0, 2), "D2": (1, 3)}
"""What two of the four vectors share; they are in the order of ``Quartet``."""
NAMES = ("M1 on D1", "M1 on D2", "M2 on D1", "M2 on D2")
SAME_MODEL, SAME_DATA = ("M1", "M2"), ("D1", "D2")
POINTS = 200_000  # points drawn in a panel, at most


class Quartet(NamedTuple):
    """A user's importances: each names the same parameters, [...]."""

    m1_d1: Weights
    m1_d2: Weights
    m2_d1: Weights
    m2_d2: Weights

    def rho(self) -> dict[str, float]:
        """Return Pearson's correlation of each pair that shares the model or the data."""
        return {name: pearson(self[a], self[b]) for name, (a, b) in PAIRS.items()}


@dataclass(frozen=True, eq=False)
class Correlations:
    """Correlations of every seed's users, and one user's importances for the picture."""

    seeds: tuple[int, ...]
    rho: list[list[dict[str, float]]]  # by seed, by user
    first: Quartet  # of the first seed's first user

    def mean(self, seed: int | None = None, user: int | None = None) -> dict[str, float]:
        """Return the mean over seeds and users, or over the users of one seed."""
        chosen = [
            rho
            for number, users in zip(self.seeds, self.rho, strict=True)
            if seed in (None, number)
            for index, rho in enumerate(users)
            if user in (None, index)
        ]
        return {name: float(np.mean([rho[name] for rho in chosen])) for name in PAIRS}


def pearson(a: Weights, b: Weights) -> float:
    """Correlation of two models' numbers, as one vector each; NaN where one is constant.

    In float64, array by array: no second copy of a large network.
    """
    count = sum(t.numel() for t in a.values())
    means = [sum(t.double().sum().item() for t in w.values()) / count for w in (a, b)]
    sums = [0.0, 0.0, 0.0]
    for name in a:
        x, y = (w[name].double() - m for w, m in zip((a, b), means, strict=True))
        for i, product in enumerate((x * x, y * y, x * y)):
            sums[i] += product.sum().item()
    spread = (sums[0] * sums[1]) ** 0.5
    return sums[2] / spread if spread else float("nan")


def gate(rho: dict[str, float]) -> bool:
    """Whether the paper's finding holds: importance depends on the model more than on the data."""
    return min(rho[name] for name in SAME_MODEL) > max(rho[name] for name in SAME_DATA)


def correlate(
    experiment: Experiment, folder: Path, progress: Callable[[Epoch], None] | None = None
) -> Correlations:
    """Correlate the first two tasks' experts on all users and seeds; train missing experts."""
    first: Quartet | None = None
    rho = []
    for seed in experiment.seeds:
        config = experiment.run("mas-racl", seed, experiment.draws[0], folder).config
        users = []
        for quartet in quartets(config, progress):
            users.append(quartet.rho())
            first = first or quartet
        rho.append(users)
    if first is None:
        raise InputError("figure: 0 users; there must be one at least")
    return Correlations(experiment.seeds, rho, first)


def quartets(
    config: RunConfig, progress: Callable[[Epoch], None] | None = None
) -> Iterator[Quartet]:
    """Yield the importances of each user in client order; ``config`` is a run of MAS-RACL."""
    # Task Experts trains the same experts and does not merge them, so nothing else is computed.
    alone = replace(config, strategy="task-experts", rounds=2, adapt="none", adapt_args="")
    assembly = assemble(alone)
    if assembly.tasks is None:
        raise InputError(f"benchmark: {config.benchmark}; figure 3 needs one with tasks")
    compute = compute_device(config.device)
    task_experts = cast(MergedExperts, assembly.worker.strategy)
    experts = task_experts.prepare(server_side(assembly, Path(config.out), progress)).experts
    asked = cast(MergedExperts, assemble(config).worker.strategy).importance_request
    workers = [assembly.worker.at(task) for task in (0, 1)]

    def omega(expert: Expert, model: Worker, data: Worker, client: int) -> Weights:
        cohort = data.cohort([client], 1)
        network = model.cohort([client], 1).model
        weights = {n: t.to(compute) for n, t in repeat(expert.weights, 1).items()}
        importance = importances(
            replace(cohort, model=network),
            weights,
            kind="mas",
            granularity=asked.granularity if asked else "sample",
            batch_size=asked.batch_size if asked else 20,
            exclude=head(network),
        )
        return {n: t.cpu() for n, t in row(importance, 0).items()}

    for client in range(assembly.tasks.num_clients):
        yield Quartet(
            *(
                omega(experts[model], workers[model], workers[data], client)
                for model in (0, 1)
                for data in (0, 1)
            )
        )


def table(experiment: Experiment, correlations: Correlations) -> Grid:
    """Return the table of published and measured correlations."""
    lines = [_line("published", "not said", FIGURE_3)]
    for seed in correlations.seeds:
        lines.append(_line(f"seed {seed}", "user 1", correlations.mean(seed, 0)))
        lines.append(_line(f"seed {seed}", "mean over users", correlations.mean(seed)))
    if len(correlations.seeds) > 1:
        lines.append(_line("all seeds", "mean over users", correlations.mean()))
    one, two = experiment.tasks[:2]
    heads = (
        "", "whose images", "M1: D1 and D2", "M2: D1 and D2", "D1: M1 and M2", "D2: M1 and M2",
        "same model above same data",
    )  # fmt: skip
    notes = (
        f"Pearson's correlation of MAS importances, heads left out. M1, D1: expert and images of "
        f"task {one}; M2, D2: of {two}.",
        "The paper's are of indoor scenes, home and leisure.",
    )
    title = f"Figure 3: {experiment.name}, {experiment.base.model}, preset {experiment.preset}"
    return Grid(title, heads, lines, notes)


def _line(seed: str, users: str, rho: dict[str, float]) -> tuple[str, ...]:
    holds = "yes" if gate(rho) else "no"
    return (seed, users, *(f"{rho[name]:.2f}" for name in PAIRS), holds)


@styled
def draw(experiment: Experiment, correlations: Correlations, path: Path) -> Path:
    """Draw four panels with a point for each parameter, for the first user and seed."""
    figure = new_figure(9, 8)
    rho = correlations.first.rho()
    for axes, (shared, (a, b)) in zip(figure.subplots(2, 2).flat, PAIRS.items(), strict=True):
        x, y = (_flat(correlations.first[index]) for index in (a, b))
        both = np.flatnonzero((x > 0) & (y > 0))
        share = len(both) / len(x)
        both = both[:: max(1, len(both) // POINTS)]
        if len(both):
            axes.hexbin(
                x[both], y[both], xscale="log", yscale="log", bins="log", gridsize=40,
                cmap="Blues", mincnt=1, linewidths=0.1,
            )  # fmt: skip
            middle = np.median(x[both])
            axes.axline((middle,) * 2, (2 * middle,) * 2, color=INK, lw=0.6, ls=":")
        for axis, index in ((axes.xaxis, a), (axes.yaxis, b)):
            axis.set_major_formatter(lambda value, _: f"{value:.0e}")
            axis.set_label_text(f"importance, {NAMES[index]}")
        title(axes, f"same {shared}: rho {rho[shared]:.2f}", f"{share:.0%} above 0 in both")
    return save_png(figure, path)


def _flat(weights: Weights) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return torch.cat([t.flatten() for t in weights.values()]).double().numpy()


def metadata(correlations: Correlations) -> dict[str, object]:
    """Return the correlations as JSON."""
    return {
        "seeds": correlations.seeds,
        "rho": correlations.rho,
        "mean": correlations.mean(),
        "holds": gate(correlations.mean()),
    }
