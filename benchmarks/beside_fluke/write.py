"""Write what another implementation needs to train exactly what we train, to one .npz file.

The clients' images, already scaled, and labels; the network's initial weights; all numbers of the
methods; and the order in which clients go through their images, by what it is for: fluke can be
run with orders of its own, or with ours, and then only the arithmetic is left to differ.

  python -m benchmarks.beside_fluke.write --seed 1 --out seed1.npz
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.beside_fluke.setting import ALA, NUMBERS, SETTING, TUNING, config
from fedadapt.simulations.assembly import Assembly, assemble, initial


def arrays(seed: int) -> dict[str, np.ndarray]:
    assembly = assemble(config("fedavg", seed))
    benchmark = assembly.benchmark
    found: dict[str, np.ndarray] = {}
    for d in range(benchmark.num_clients):
        split = benchmark.split(d)
        for part in ("train", "test"):
            examples = getattr(split, part)
            found[f"{part}/{d}/images"] = benchmark.scaling(examples.inputs).numpy()
            found[f"{part}/{d}/labels"] = examples.labels.numpy()
    for name, tensor in initial(assembly.model).items():
        found[f"weights/{name}"] = tensor.numpy()
    facts = SETTING | {
        "seed": seed,
        "tuning": TUNING,
        "ala_epochs": ALA,
        "numbers": NUMBERS,
        "manifest": benchmark.manifest.hash,
    }
    return found | orders(assembly) | {"setting": np.array(json.dumps(facts))}


def orders(assembly: Assembly) -> dict[str, np.ndarray]:
    """Places of each client's training images, [rounds, epochs, images]."""
    settings = assembly.config
    every = range(1, settings.rounds + 1)
    last = [settings.rounds]
    share = NUMBERS["fedala.share"]
    wanted: tuple[tuple[str, str, Sequence[int], int, float], ...] = (
        ("train", "train", every, settings.local_epochs, 1),
        ("fedrep", "fedrep", every, settings.local_epochs, 1),
        ("ditto", "ditto", every, settings.local_epochs, 1),
        ("fedbabu", "fedbabu", last, TUNING, 1),
        ("fine-tune", "fine-tune", last, TUNING, 1),
        # The first mixture is made in round 2, the last one for the evaluation after the last.
        ("ala-first", "ala", [2], ALA, share),
        ("ala", "ala", [*every[2:], *last], 1, share),
    )
    return {
        f"order/{name}/{client}": np.stack(
            [_of_client(assembly, purpose, number, client, epochs, part) for number in rounds]
        ).astype(np.int16)
        for name, purpose, rounds, epochs, part in wanted
        for client in assembly.benchmark.seen
    }


def _of_client(
    assembly: Assembly, purpose: str, number: int, client: int, epochs: int, share: float
) -> np.ndarray:
    """As ``Schedule`` draws them; a part of the images as ``Cohort.subset`` draws it."""
    cohort = assembly.worker.cohort([client], number)
    size = len(cohort.splits[0].train)
    images = np.arange(size)
    if share < 1:
        count = max(1, round(share * size))
        images = np.sort(cohort.generator(0, purpose).permutation(size)[:count])
    generator = cohort.generator(0, purpose)
    return np.stack([images[generator.permutation(len(images))] for _ in range(epochs)])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    np.savez_compressed(given.out, **arrays(given.seed))


if __name__ == "__main__":
    main()
