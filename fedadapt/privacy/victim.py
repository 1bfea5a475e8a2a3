"""The network and the images that are attacked."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Benchmark, Scaling
from fedadapt.datasets.load import load_benchmark
from fedadapt.errors import InputError
from fedadapt.models.build import build_model
from fedadapt.models.initial import load_weights, read_weights


@dataclass(frozen=True, eq=False)
class Victim:
    """Training images of clients: the ones PFA takes its statistics of."""

    model: nn.Module
    scaling: Scaling
    images: Tensor  # uint8 [N, C, H, W]
    clients: tuple[int, ...]  # the owner of each image, [N]
    labels: tuple[str, ...]  # class names, [N]


def load_victim(config: RunConfig, base: Path | None, count: int, seed: int) -> Victim:
    """Load the benchmark and the network, and choose the images.

    Args:
        base: Weights of a run's base model, all of them; the configuration's own where None.

    Raises:
        InputError: Data, network or weights do not fit, or there are fewer images than asked for.

    """
    benchmark = load_benchmark(config)
    if benchmark.scaling.unit != 255.0:
        raise InputError(
            f"benchmark: {config.benchmark} has no images; what is inverted here are images"
        )
    wanted = config if base is None else replace(config, weights="")
    model = build_model(wanted, benchmark.image_shape, benchmark.num_classes)
    if base is not None:
        loaded = load_weights(model, read_weights(base), str(base))
        if loaded.initial:
            raise InputError(f"{base}: lacks {loaded.initial[0]!r}; it must hold the whole network")
    return _choose(benchmark, model, count, seed)


def _choose(benchmark: Benchmark, model: nn.Module, count: int, seed: int) -> Victim:
    """Draw ``count`` training images, as evenly from the clients as can be."""
    random = np.random.default_rng(seed)
    seen = benchmark.seen
    images, clients, labels = [], [], []
    for index, client in enumerate(seen):
        share = (index + 1) * count // len(seen) - index * count // len(seen)
        if not share:
            continue
        train = benchmark.split(client).train
        if share > len(train):
            raise InputError(
                f"images: {count} would take {share} of client {client}, which has {len(train)}; "
                "ask for fewer"
            )
        for row in random.choice(len(train), share, replace=False).tolist():
            images.append(train.inputs[row])
            clients.append(client)
            labels.append(benchmark.classes[int(train.labels[row])])
    return Victim(model, benchmark.scaling, torch.stack(images), tuple(clients), tuple(labels))
