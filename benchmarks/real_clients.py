"""Methods on clients that are persons and cameras, and what a leak between sides is worth.

  python -m benchmarks.real_clients har --out real/har
  python -m benchmarks.real_clients iwildcam --out real/iwildcam

`har` runs every method twice: with whole recordings, and with windows of one recording on all sides
(split=ungrouped); their difference is what the leak is worth. `iwildcam` keeps bursts whole, leaves
12 of 72 cameras unseen, and draws a sheet of pictures for each group that PFA found. Every run is a
folder: what is there is not run again, so the script can be stopped at any time.

Learning rates and arguments are those of `--chosen`, the `table.json` that
`python -m benchmarks.fair_comparison` writes when it tunes on adapt data, else of `--settings`.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.fair_comparison import _typed, parse_words, scores
from fedadapt.config import RunConfig
from fedadapt.datasets.load import load_benchmark
from fedadapt.errors import FedadaptError
from fedadapt.records import Evaluation
from fedadapt.simulations.results.groups import read_groups
from fedadapt.simulations.results.parquet import table_rows
from fedadapt.simulations.run import simulate

METHODS = ("local", "fedavg", "fedbn", "fedrep", "ditto", "apfl", "pfa")
COMMON = "clients=0 workers=1 local=false save-models=none local-epochs=1 evaluate-every=1000"
SETTINGS = {
    "har": f"{COMMON} benchmark=har model=har-cnn rounds=20 lr=0.1 adapt=none,fine-tune "
    "adapt-args=fine-tune.epochs=5",
    "iwildcam": f"{COMMON} benchmark=iwildcam model=mobilenetv2-0.25 image-size=32 rounds=30 "
    "lr=0.05 unseen=0.1667 adapt=none,fine-tune,adabn,adabn-s adapt-args=fine-tune.epochs=5",
}
SPLITS = {"har": ("client", "ungrouped"), "iwildcam": ("client",)}
AT_ONCE, ACROSS = 6, 8  # cameras of a group that are shown, and pictures of each


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", choices=tuple(SETTINGS))
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs and the tables")
    parser.add_argument("--settings", default="", help='changes, "key=value key=value"')
    parser.add_argument("--methods", default=",".join(METHODS), help="separated by commas")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--chosen", type=Path, help="table.json of benchmarks.fair_comparison")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    settings = dict(parse_words(SETTINGS[given.data])) | dict(parse_words(given.settings))
    chosen = json.loads(given.chosen.read_text()) if given.chosen else {}
    seeds = [int(seed) for seed in given.seeds.split(",")]
    methods = given.methods.split(",")
    for seed in seeds:  # a table of one seed is there before the second begins
        for method in methods:
            for split in SPLITS[given.data]:
                run(given.out, method, split, seed, settings, chosen)
        table = {method: numbers(given.out, method, given.data, seeds) for method in methods}
        (given.out / "table.json").write_text(json.dumps(table, indent=1))
    print(as_markdown(table, SPLITS[given.data]))
    if given.data == "iwildcam" and "pfa" in methods:
        group_pictures(folder_of(given.out, "pfa", "client", seeds[0]), given.out)
    return 0


def folder_of(out: Path, method: str, split: str, seed: int) -> Path:
    return out / f"{method}-{split}-seed{seed}"


def run(
    out: Path,
    method: str,
    split: str,
    seed: int,
    settings: Mapping[str, str],
    chosen: Mapping[str, Mapping[str, Any]],
) -> None:
    """Make one run, unless it is there; FedBN takes FedAvg's learning rate where it has none."""
    folder = folder_of(out, method, split, seed)
    if (folder / "summary.json").is_file():
        return
    tuned = chosen.get(method) or (chosen.get("fedavg") if method == "fedbn" else None) or {}
    own = {"lr": str(tuned["lr"]), "strategy-args": tuned["arguments"]} if tuned else {}
    words = {**settings, **own, "strategy": method, "split": split, "seed": str(seed)}
    config = RunConfig.from_mapping({key: _typed(key, value) for key, value in words.items()})
    folder.mkdir(parents=True, exist_ok=True)
    try:
        simulate(config, folder, resume=(folder / "config.toml").is_file(), pictures=False)
    except FedadaptError as error:
        print(f"{folder.name}: {error}", file=sys.stderr)


def numbers(out: Path, method: str, data: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Test accuracy of each model by split: one number a seed; unseen clients apart."""
    found: dict[str, Any] = {}
    for split in SPLITS[data]:
        for seed in seeds:
            folder = folder_of(out, method, split, seed)
            whole = scores(folder)
            if whole is None:
                continue
            unseen = _unseen(folder)
            for label, accuracy in whole.test.items():
                seen = np.delete(accuracy, unseen) if len(accuracy) > len(unseen) else accuracy
                found.setdefault(f"{split}: {label}", []).append(float(seen.mean()))
                if unseen and len(accuracy) > max(unseen):
                    found.setdefault(f"unseen: {label}", []).append(float(accuracy[unseen].mean()))
    return found


def _unseen(folder: Path) -> list[int]:
    rows = table_rows(folder, Evaluation)
    return sorted({row.client for row in rows if row.client >= 0 and not row.seen})


def as_markdown(table: Mapping[str, Mapping[str, Sequence[float]]], splits: Sequence[str]) -> str:
    """A row for each method and model: mean and deviation over seeds, in percent."""
    columns = [*splits] if len(splits) > 1 else ["client", "unseen"]
    lines = ["| method | model | " + " | ".join(columns) + " |", "| --- | --- |" + " ---: |" * 2]
    for method, found in table.items():
        for label in dict.fromkeys(key.partition(": ")[2] for key in found):
            cells = []
            for column in columns:
                values = found.get(f"{column}: {label}")
                cells.append(f"{100 * np.mean(values):.2f} ± {100 * np.std(values):.2f}"
                             if values else "-")  # fmt: skip
            lines.append(f"| {method} | {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def group_pictures(folder: Path, out: Path) -> None:
    """Draw a sheet for each group that PFA found: a row of pictures for each of its cameras."""
    groups = read_groups(folder)
    if groups is None:
        print(f"{folder}: no groups", file=sys.stderr)
        return
    config = RunConfig.from_toml(folder / "config.toml")
    benchmark = load_benchmark(config)
    for group in np.unique(groups.labels):
        cameras = groups.clients[groups.labels == group]
        rows = []
        for camera in cameras[
            np.linspace(0, len(cameras) - 1, min(AT_ONCE, len(cameras))).astype(int)
        ]:
            images = benchmark.split(int(camera)).train.inputs
            places = np.linspace(0, len(images) - 1, ACROSS).astype(int)
            rows.append(np.concatenate(list(images[places].permute(0, 2, 3, 1).numpy()), axis=1))
        path = out / f"group-{int(group) + 1}-of-{len(cameras)}-cameras.png"
        Image.fromarray(np.concatenate(rows)).resize(
            (2 * rows[0].shape[1], 2 * sum(len(r) for r in rows)), Image.Resampling.NEAREST
        ).save(path)
        print(path)


if __name__ == "__main__":
    sys.exit(main())
