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
    with tempfile.TemporaryDirectory() as folder:
        for seed in given.seeds:
            wanted = [
                (method, variant)
                for variant in given.variants
                for method in given.methods
                if _has(method, variant) and (method, variant, seed) not in known
            ]
            for method, variant in wanted:
                print(f"{method}, {variant}, seed {seed}", file=sys.stderr, flush=True)
                found: dict[str, Any]
                if variant == "ours":
                    found = ours.run(method, seed)
                else:
                    found = _theirs(given.fluke_python, Path(folder), method, variant, seed)
                with given.results.open("a") as file:
                    file.write(json.dumps(found) + "\n")


def _has(method: str, variant: str) -> bool:
    if variant == "ours":
        return True
    return method in (MENDED if variant == "mended" else THEIRS)


def _theirs(python: str, folder: Path, method: str, variant: str, seed: int) -> dict[str, Any]:
    written, out = folder / f"{seed}.npz", folder / "out.json"
    if not written.exists():
        np.savez_compressed(written, **arrays(seed))
    command = [python, str(HERE / "theirs.py"), str(written), method, variant, str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


if __name__ == "__main__":
    main()
