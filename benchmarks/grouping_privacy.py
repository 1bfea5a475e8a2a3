"""How well PFA's groups survive differential privacy: adjusted Rand index against epsilon.

Takes finished runs (config.toml and models/base.safetensors). Every client's exact vector under the
base model is measured once; then, draw by draw, channels are drawn as PFA draws them, the vectors
are released at each epsilon, and clients are grouped by both methods, their number found or given.
Runs of the same benchmark and model are taken together.

  python benchmarks/grouping_privacy.py runs/seed1 runs/seed2 --draws 5 --out privacy
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fedadapt.client.cohort import Cohort
from fedadapt.client.differential_privacy import (
    Guarantee,
    check,
    check_independent,
    noise_source,
    release,
)
from fedadapt.client.statistics.sparsity import Layer, sparsity_vectors
from fedadapt.config import RunConfig
from fedadapt.errors import FedadaptError, InputError
from fedadapt.server.clustering.grouping import METHODS, group_clients
from fedadapt.simulations.assembly import assemble
from fedadapt.simulations.report.style import COLOURS, new_figure, save_png, styled, title
from fedadapt.simulations.results.parquet import put
from fedadapt.strategies.pfa.strategy import PFA
from fedadapt.weights import repeat

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EPSILONS = "inf,1000,300,100,30,10,3,1,0.3,0.1"
NUMBERS = ("found", "given")


@dataclass(frozen=True, eq=False)
class Clients:
    """The exact vectors of one run's clients, and what else a release depends on."""

    name: str  # benchmark and model
    folder: str
    kinds: list[str]  # [D]
    images: list[int]  # [D]
    vectors: Tensor  # [D, C], float64: all channels of the layer
    model: nn.Module
    shape: tuple[int, ...]
    seed: int
    cohort: Cohort  # the last client, for its network and the scaling of its images

    def channels(self, draw: int, q: int, layer: Layer) -> list[int]:
        """As PFA draws them with the run's seed, the next draw from the next seed, ..."""
        return PFA(
            model=self.model, image_shape=self.shape, q=q, layer=layer, seed=self.seed + draw
        ).channels


class Try(NamedTuple):
    """One grouping."""

    folder: str
    draw: int
    epsilon: float
    method: str
    number: str  # of groups: found or given
    rand: float  # adjusted Rand index against the kinds
    groups: int
    fell_back: bool  # one reference was not enough: efficient ended as exact


def measured(folder: Path, layer: Layer, data_root: str) -> Clients:
    """Exact vectors under a run's base model.

    Raises:
        InputError: no finished run, no data, other data than the run's.

    """
    for name in ("config.toml", "manifest.json", "models/base.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: no {name}; expected the folder of a finished run")
    config = RunConfig.from_toml(folder / "config.toml")
    plain = {"strategy": "fedavg", "strategy_args": "", "adapt": "none", "adapt_args": ""}
    given = {"data_root": data_root} if data_root else {}
    config = replace(config, device="auto", **plain, **given)
    assembly = assemble(config, on_client=True)
    worker, benchmark = assembly.worker, assembly.benchmark
    if benchmark.manifest.hash != json.loads((folder / "manifest.json").read_text())["hash"]:
        raise InputError(f"{folder}: the data are not those of the run; its manifest differs")
    try:
        base = load_file(folder / "models" / "base.safetensors", device=str(worker.compute))
    except SafetensorError as error:
        raise InputError(f"{folder}/models/base.safetensors: {error}; it is damaged") from None
    vectors, images = [], []
    for client in benchmark.seen:
        cohort = worker.cohort([client], round=0)
        vectors.append(sparsity_vectors(cohort, repeat(base, 1), layer=layer)[0])
        images.append(benchmark.num_train_examples(client))
    return Clients(
        name=f"{config.benchmark.split('/')[-1]} {config.model}",
        folder=str(folder),
        kinds=[benchmark.kinds[d] for d in benchmark.seen],
        images=images,
        vectors=torch.stack(vectors),
        model=assembly.model,
        shape=benchmark.image_shape,
        seed=config.seed,
        cohort=cohort,
    )


def tried(
    clients: Clients, epsilons: Sequence[float], delta: float, draws: int, q: int, layer: Layer
) -> list[Try]:
    """Group at every epsilon, draw by draw; all ways of grouping see the same vectors."""
    from sklearn.metrics import adjusted_rand_score

    found = []
    count = len(set(clients.kinds))
    for draw in range(draws):
        exact = clients.vectors[:, clients.channels(draw, q, layer)]
        for epsilon in epsilons:
            said = released(exact, clients.images, epsilon, delta, clients.seed, draw)
            for method, number in product(METHODS, NUMBERS):
                groups = count if number == "given" else None
                grouping = group_clients(said, groups=groups, method=method, seed=clients.seed)
                rand = float(adjusted_rand_score(clients.kinds, grouping.labels.numpy()))
                how = (clients.folder, draw, epsilon, method, number)
                found.append(Try(*how, rand, grouping.num_groups, grouping.aliased))
    return found


def released(
    exact: Tensor, images: Sequence[int], epsilon: float, delta: float, seed: int, draw: int
) -> Tensor:
    """What the server gets, [D, q], float32; at epsilon = inf without noise."""
    if math.isinf(epsilon):
        return exact.float()
    guarantee = Guarantee(epsilon, delta)
    return torch.stack(
        [
            release(vector, n, guarantee, noise_source(seed, draw, d))
            for d, (vector, n) in enumerate(zip(exact, images, strict=True))
        ]
    ).float()


def smallest_perfect(tries: Sequence[Try], method: str, number: str) -> float | None:
    """The least epsilon at which, and above which, every single grouping was perfect."""
    mine = [t for t in tries if (t.method, t.number) == (method, number)]
    best = None
    for epsilon in sorted({t.epsilon for t in mine}, reverse=True):
        if min(t.rand for t in mine if t.epsilon == epsilon) < 1:
            break
        best = epsilon
    return best


def show(name: str, tries: Sequence[Try], clients: Sequence[Clients], console: Console) -> None:
    """The table of a benchmark, and the smallest epsilon with perfect groups."""
    ways = list(product(METHODS, NUMBERS))
    table = Table("epsilon", *(f"{m}, {n}" for m, n in ways), title=name)
    for epsilon in sorted({t.epsilon for t in tries}, reverse=True):
        cells = []
        for variant in ways:
            mine = [t for t in tries if t.epsilon == epsilon and (t.method, t.number) == variant]
            rand = np.array([t.rand for t in mine])
            groups = np.median([t.groups for t in mine])
            cells.append(
                f"{rand.mean():.2f} ± {rand.std():.2f}  {(rand == 1).mean():.0%}  {groups:g}"
            )
        table.add_row(f"{epsilon:g}", *cells)
    console.print(table)
    sizes = sorted({n for d in clients for n in d.images})
    kinds, runs = len(set(clients[0].kinds)), len(clients)
    console.print(
        f"{runs} runs of {len(clients[0].kinds)} clients of {kinds} kinds, "
        f"{sizes[0]} to {sizes[-1]} images each; "
        "cells: adjusted Rand index ± std, share of perfect groupings, median number of groups"
    )
    fell = np.mean([t.fell_back for t in tries if t.method == "efficient"])
    console.print(f"efficient fell back on all pairs in {fell:.0%} of groupings")
    for variant in ways:
        best = smallest_perfect(tries, *variant)
        word = "none" if best is None else f"{best:g}"
        console.print(
            f"smallest epsilon with perfect groups, {variant[0]}, number {variant[1]}: {word}"
        )


@styled
def picture(name: str, tries: Sequence[Try], first: Clients, q: int, layer: Layer) -> "Figure":
    """Left: the index over epsilon, band from worst to best. Right: exact distances, by kind."""
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    epsilons = sorted({t.epsilon for t in tries})
    places = range(len(epsilons))
    for (method, number), colour in zip(product(METHODS, NUMBERS), COLOURS, strict=False):
        mine = [t for t in tries if (t.method, t.number) == (method, number)]
        rand = [np.array([t.rand for t in mine if t.epsilon == e]) for e in epsilons]
        label = f"{method}, number {number}"
        style = "o-" if method == "exact" else "s:"  # dots on lines: they often are the same
        left.plot(places, [r.mean() for r in rand], style, color=colour, label=label, ms=4)
        low, high = [r.min() for r in rand], [r.max() for r in rand]
        left.fill_between(places, low, high, color=colour, alpha=0.08, linewidth=0)
    left.set_xticks(places, ["none" if math.isinf(e) else f"{e:g}" for e in epsilons])
    left.set_xlabel("epsilon of a client's vector (none: no noise)")
    left.set_ylabel("adjusted Rand index")
    left.grid(axis="y")
    left.legend(loc="upper left")
    title(left, f"Groups and kinds, {name}", "line: mean; band: worst to best")
    order = sorted(range(len(first.kinds)), key=lambda d: first.kinds[d])
    vectors = first.vectors[order][:, first.channels(0, q, layer)]
    image = right.imshow(torch.cdist(vectors, vectors), cmap="viridis")
    kinds = [first.kinds[d] for d in order]
    names = sorted(set(kinds))
    middles = [float(np.mean([i for i, k in enumerate(kinds) if k == n])) for n in names]
    right.set_yticks(middles, names)
    right.set_xticks([])
    figure.colorbar(image, ax=right, shrink=0.8)
    title(right, "Distances of exact vectors", "clients sorted by kind, first run")
    return figure


def epsilons_of(text: str) -> list[float]:
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or any(math.isnan(e) or e <= 0 for e in found):
        raise InputError(f"--epsilons: {text!r}; expected numbers above 0, e.g. inf,10,1")
    return found


def compare(given: argparse.Namespace) -> None:
    epsilons = epsilons_of(given.epsilons)
    if given.draws < 1 or given.q < 1:
        raise InputError(f"--draws, --q: {given.draws}, {given.q}; both must be at least 1")
    private = not all(map(math.isinf, epsilons))
    if private:
        check(Guarantee(min(epsilons), given.delta))
    given.out.mkdir(parents=True, exist_ok=True)
    layer = int(given.layer) if given.layer.isdecimal() else given.layer
    runs: dict[str, list[Clients]] = {}
    for folder in given.runs:
        clients = measured(folder, layer, given.data_root)
        if private:
            check_independent(clients.cohort)
        runs.setdefault(clients.name, []).append(clients)
    console = Console()
    results = {}
    for name, several in runs.items():
        tries = [
            t for d in several for t in tried(d, epsilons, given.delta, given.draws, given.q, layer)
        ]
        show(name, tries, several, console)
        file = "".join(c if c.isalnum() else "-" for c in name)
        save_png(picture(name, tries, several[0], given.q, layer), given.out / f"{file}.png")
        results[name] = {
            "smallest_perfect": {
                f"{m}, {n}": smallest_perfect(tries, m, n) for m, n in product(METHODS, NUMBERS)
            },
            "images": {d.folder: d.images for d in several},
            "tries": [t._replace(epsilon=str(t.epsilon))._asdict() for t in tries],
        }
    metadata = {"delta": given.delta, "q": given.q, "layer": layer, "results": results}
    put(given.out / "grouping-privacy.json", json.dumps(metadata, indent=1).encode())
    console.print(f"written  {given.out}")


def main(arguments: Sequence[str] | None = None) -> None:
    described = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=described)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument("--epsilons", default=EPSILONS, help=f"default: {EPSILONS}")
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--draws", type=int, default=5, help="of channels and noise, a run")
    parser.add_argument("--q", type=int, default=30, help="channels")
    parser.add_argument("--layer", default="first", help="as in PFA's arguments")
    parser.add_argument("--data-root", default="", help="where the data are, if not as in the run")
    parser.add_argument("--out", type=Path, default=Path("grouping-privacy"))
    torch.set_num_threads(1)
    try:
        compare(parser.parse_args(arguments))
    except FedadaptError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
