"""Train one method of ours and write what ``theirs.py`` writes, in the same form.

  python -m benchmarks.beside_fluke.ours apfl --seed 1 --out results/ours-apfl-1.json
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", nargs="+", choices=list(METHODS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="folder")
    given = parser.parse_args(arguments)
    for method in given.method:
        found = run(method, given.seed)
        path = given.out / f"{method.replace(', ', '-')}.ours.{given.seed}.json"
        path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
