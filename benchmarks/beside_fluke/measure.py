"""Run both sides, as far as they have not been run yet; a line of JSON for each run.

python -m benchmarks.beside_fluke.measure --fluke-python path/to/python --results runs.jsonl
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.beside_fluke import ours
from benchmarks.beside_fluke.setting import METHODS
from benchmarks.beside_fluke.write import arrays

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "runs.jsonl"
THEIRS = [name for name in METHODS if name != "fedproto, classifier"]  # a look at the same run
MENDED = ["ditto", "fedbabu", "apfl", "fedproto"]


def done(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fluke-python", required=True, help="of an environment with fluke-fl")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--variants", nargs="+", default=["ours", "as-it-is", "batches", "mended"])
    given = parser.parse_args(arguments)
    given.results.touch()
    known = {(r["method"], r["variant"], r["seed"]) for r in done(given.results)}
    for seed in given.seeds:
        wanted = [
            (method, variant)
            for variant in given.variants
            for method in given.methods
            if _has(method, variant) and (method, variant, seed) not in known
        ]
        theirs = [f"{method}:{variant}" for method, variant in wanted if variant != "ours"]
        for method in (method for method, variant in wanted if variant == "ours"):
            print(f"{method}, ours, seed {seed}", file=sys.stderr, flush=True)
            found = json.dumps(ours.run(method, seed))
            with given.results.open("a") as file:
                file.write(found + "\n")
        if theirs:
            with tempfile.TemporaryDirectory() as folder:
                written = Path(folder) / f"seed{seed}.npz"
                np.savez_compressed(written, **arrays(seed))
                script = [given.fluke_python, str(HERE / "theirs.py")]
                subprocess.run([*script, str(written), str(given.results), *theirs], check=True)


def _has(method: str, variant: str) -> bool:
    if variant == "ours":
        return True
    return method in (MENDED if variant == "mended" else THEIRS)


if __name__ == "__main__":
    main()
