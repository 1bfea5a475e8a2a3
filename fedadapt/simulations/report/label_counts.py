"""``labels.json``: how many images of which class each client trains, adapts and is tested on.

It is written where the benchmark knows, which is in simulations. Nobody tells the server of a real
client's own images, so a run on real clients has no such file.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from fedadapt.datasets.benchmark import Benchmark
from fedadapt.files import write_atomically

LABELS = "labels.json"
MOST = 10_000  # clients: of a million it would take minutes, and be larger than any page


class LabelCounts(NamedTuple):
    """Images by class."""

    classes: tuple[str, ...]
    # client -> (class, train, adapt, test), one for each class that it has images of
    of_client: Mapping[int, list[tuple[int, int, int, int]]]


def write_label_counts(folder: Path, benchmark: Benchmark) -> None:
    """Write the file, unless the benchmark does not know, or has more than ``MOST`` clients."""
    if benchmark.num_clients > MOST:
        return
    rows = {}
    for client in range(benchmark.num_clients):
        counts = benchmark.label_counts(client)
        if counts is None:
            return
        having = counts.sum(0).nonzero()[0].tolist()
        rows[client] = [[label, *counts[:, label].tolist()] for label in having]
    text = json.dumps({"classes": benchmark.classes, "clients": rows}, separators=(",", ":"))
    write_atomically(folder / LABELS, text.encode())


def read_label_counts(folder: Path) -> LabelCounts | None:
    """Read the file; None where there is none, or it is damaged."""
    try:
        written = json.loads((folder / LABELS).read_text("utf-8"))
        return LabelCounts(
            tuple(map(str, written["classes"])),
            {
                int(client): [(int(a), int(b), int(c), int(d)) for a, b, c, d in rows]
                for client, rows in written["clients"].items()
            },
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
