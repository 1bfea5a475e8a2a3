"""Train one method of ours; the result has the form of that of ``theirs.py``."""

import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.beside_fluke.setting import METHODS, config
from fedadapt.simulations.assembly import assemble
from fedadapt.simulations.results.parquet import read_evaluations
from fedadapt.simulations.run import simulate


def run(method: str, seed: int) -> dict[str, object]:
    settings = config(method, seed)
    manifest = assemble(settings).benchmark.manifest.hash
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        simulate(settings, Path(folder))
        seconds = time.perf_counter() - began
        rows = read_evaluations(Path(folder))
    accuracy: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda row: row.client):
        if row.split == "test" and row.round == settings.rounds:
            name = "shared" if row.model == "base" else row.model
            label = name if row.adaptation == "none" else "personal"
            accuracy.setdefault(label, []).append(row.accuracy)
    return {
        "method": method,
        "variant": "ours",
        "seed": seed,
        "manifest": manifest,
        "versions": {n: version(n) for n in ("fedadapt", "torch")},
        "settings": METHODS[method],
        "seconds": round(seconds, 1),
        "accuracy": accuracy,
    }
