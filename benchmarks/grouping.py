"""Seconds and memory to group a million clients from their sparsity vectors.

Work: vectors of 30 float32 around 5 distributions. Each size in a process of its own, so that its
peak of memory is its own: MB are those beside the vectors; Rand is the adjusted index of the groups
found against the distributions.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

SIZES = (20, 1_000, 100_000, 1_000_000)
CHANNELS, KINDS, NOISE = 30, 5, 0.02


def vectors(count: int, aliased: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Made-up clients and the distribution each belongs to.

    Distributions in a row can be told apart from one end of it; scattered ones look equally far.
    """
    random = np.random.default_rng(1)
    kinds = random.integers(0, KINDS, count)
    middles = random.uniform(0.2, 0.8, (KINDS, CHANNELS)).astype(np.float32)
    if not aliased:
        middles = middles[0] + np.linspace(0, 0.5, KINDS, dtype=np.float32)[:, None] * middles[1]
    found = random.standard_normal((count, CHANNELS), dtype=np.float32)
    found *= NOISE
    for kind, middle in enumerate(middles):
        found[kinds == kind] += middle
    return torch.from_numpy(found), torch.from_numpy(kinds)


def measure(count: int, method: str, aliased: bool) -> None:
    """Print seconds, MB beyond the vectors, groups, adjusted Rand index."""
    from sklearn.metrics import adjusted_rand_score

    from fedadapt.server.clustering.grouping import group_clients

    group_clients(vectors(10, True)[0], method="exact")  # everything is imported
    given, kinds = vectors(count, aliased)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    found = group_clients(given, method=method)
    seconds = time.perf_counter() - began
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    index = adjusted_rand_score(kinds.numpy(), found.labels.numpy())
    print(f"{seconds:.2f} {extra:.0f} {found.num_groups} {index:.4f} {found.method}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.only:
        measure(int(given.only[0]), given.only[1], given.only[2] == "scattered")
        return
    table = Table("clients", "lie", "method", "s", "MB", "groups", "Rand", "ended with")
    work = [("efficient", "row"), ("efficient", "scattered"), ("exact", "scattered")]
    for count in SIZES:
        for method, lie in work:
            command = [sys.executable, __file__, "--only", str(count), method, lie]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            table.add_row(f"{count:,}", lie, method, *out.split())
    Console().print(table)


if __name__ == "__main__":
    main()
