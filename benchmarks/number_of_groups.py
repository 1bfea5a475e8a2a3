"""Rules for the number of groups, side by side: how well each finds the true kinds of clients.

Three description lengths that differ in what they make of the likelihood (``RULES``), on made-up
vectors (25 clients with 30 channels, of five kinds or of one) or on those of finished runs. All
pairs of clients are compared.

  python benchmarks/number_of_groups.py
  python benchmarks/number_of_groups.py runs/seed1 runs/seed2 --layer first --q 30 --draws 5
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.grouping_privacy import measured
from fedadapt.client.statistics.sparsity import Layer
from fedadapt.errors import FedadaptError
from fedadapt.server.clustering import number_of_clusters
from fedadapt.server.clustering.grouping import group_clients

CLIENTS, CHANNELS = 25, 30
WIDTHS = (1.0, 1.5, 2.0, 4.0)  # of the kinds' centres, where a client scatters by 1 in a channel

Cost = Callable[[int, int, float, float], float]
"""(clients, groups, independent numbers, scatter) -> minus log-likelihood, up to a constant.

The scatter is the sum of squares inside groups, a mean over channels.
"""


def shipped(clients: int, groups: int, numbers: float, scatter: float) -> float:
    """The unbiased variance in the logarithm, without the quadratic term."""
    return clients * numbers / 2 * np.log(scatter / (clients - groups))


def quadratic(clients: int, groups: int, numbers: float, scatter: float) -> float:
    """The likelihood at the unbiased variance, its quadratic term kept (X-means' own formula)."""
    return shipped(clients, groups, numbers, scatter) + numbers * (clients - groups) / 2


def most_likely(clients: int, groups: int, numbers: float, scatter: float) -> float:
    """The likelihood at its maximum, the biased variance."""
    return clients * numbers / 2 * np.log(scatter / clients)


RULES: dict[str, Cost] = {
    "unbiased variance": shipped,
    "quadratic term kept": quadratic,
    "maximum likelihood": most_likely,
}


def length_by(cost: Cost) -> Callable[..., float]:
    """A ``code_length`` whose likelihood is ``cost``; names and free numbers are as shipped."""

    def code_length(vectors: np.ndarray, labels: np.ndarray, numbers: float) -> float:
        count, channels = vectors.shape
        members = np.bincount(labels)
        groups = len(members)
        if groups == count:
            return np.inf
        centred = vectors - vectors.mean(axis=0)
        means = number_of_clusters.group_means(centred, labels)
        total = float((centred**2).sum())
        within = total - float(members @ (means**2).sum(axis=1))
        scatter = max(within, number_of_clusters.EXACT * total) / channels
        names = -float(members @ np.log(members / count))
        free = (groups * numbers + 1) / 2 * np.log(count)
        return float(cost(count, groups, numbers, scatter) + names + free)

    return code_length


def made_up(width: float, kinds: int, seed: int) -> tuple[Tensor, list[int]]:
    """25 clients that scatter by 1 in every channel around centres that scatter by ``width``."""
    generator = torch.Generator().manual_seed(seed)
    centres = width * torch.randn(kinds, CHANNELS, generator=generator, dtype=torch.float64)
    truth = torch.arange(kinds).repeat_interleave(CLIENTS // kinds)
    noise = torch.randn(len(truth), CHANNELS, generator=generator, dtype=torch.float64)
    return centres[truth] + noise, truth.tolist()


Sets = list[tuple[Tensor, Sequence[object]]]


def synthetic(count: int) -> Iterator[tuple[str, Sets]]:
    for width in WIDTHS:
        name = f"5 x 5, centres {width:g} deviations wide"
        yield name, [made_up(width, 5, seed) for seed in range(count)]
    yield "one blob of 25", [made_up(0.0, 1, seed) for seed in range(count)]


def of_runs(
    folders: Sequence[Path], layer: Layer, q: int, draws: int, root: str
) -> tuple[str, Sets]:
    """Vectors of finished runs, with channels drawn as PFA draws them."""
    every = [measured(folder, layer, root) for folder in folders]
    sets = [
        (clients.vectors[:, clients.channels(draw, q, layer)], clients.kinds)
        for clients in every
        for draw in range(draws)
    ]
    return f"{every[0].name}, layer {layer}, q {q}", sets


def compare(sets: Sets) -> list[str]:
    """For each rule: mean adjusted Rand index, share of perfect groupings, number of groups."""
    from sklearn.metrics import adjusted_rand_score

    cells = []
    for cost in RULES.values():
        with patch.object(number_of_clusters, "code_length", length_by(cost)):
            found = [group_clients(vectors, method="exact") for vectors, _ in sets]
        rand = [
            adjusted_rand_score([str(kind) for kind in truth], grouping.labels.numpy())
            for grouping, (_, truth) in zip(found, sets, strict=True)
        ]
        groups = np.mean([grouping.num_groups for grouping in found])
        perfect = np.mean([r == 1 for r in rand])
        cells.append(f"{np.mean(rand):.2f}  {perfect:.0%}  {groups:.1f}")
    return cells


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("runs", nargs="*", type=Path, help="folders of finished runs, one network")
    parser.add_argument("--layer", default="first")
    parser.add_argument("--q", type=int, default=30)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--count", type=int, default=100, help="made-up sets of each sort")
    parser.add_argument("--data-root", default="")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    table = Table("vectors", *RULES, title="Rand index, perfect, number of groups")
    if given.runs:
        layer = int(given.layer) if given.layer.isdecimal() else given.layer
        try:
            name, sets = of_runs(given.runs, layer, given.q, given.draws, given.data_root)
        except FedadaptError as error:
            sys.exit(str(error))
        table.add_row(name, *compare(sets))
    else:
        for name, sets in synthetic(given.count):
            table.add_row(name, *compare(sets))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
