"""A data set divided among clients, as a file that every engine reads: who has which images.

The file has the clients' training images one after the other and how many each has, all clients'
test images together, the scaling, and the work: network, batches and learning rate. A client's
training images are cut to whole batches, since the public libraries leave out a last small one, and
a client without a whole batch is left out.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from benchmarks.works import Work
from fedadapt.config import RunConfig
from fedadapt.datasets.load import load_benchmark
from fedadapt.errors import InputError

TEST_SHARE = 0.25
UNUSED_SHARE = 0.05  # adapt images, which nobody needs here


def written(config: RunConfig, path: Path) -> Work:
    """Write the clients of a run to ``path``, an .npz file; the work that every engine is given.

    Raises:
        InputError: No client has a whole batch, or the data cannot be loaded.

    """
    benchmark, batch = load_benchmark(config), config.batch_size
    everybody = [benchmark.split(d) for d in range(benchmark.num_clients)]
    splits = [split for split in everybody if len(split.train) >= batch]
    if not splits:
        raise InputError(f"batch-size: {batch}; no client has as many images to train on")
    sizes = [len(split.train) // batch * batch for split in splits]
    work = Work(
        name=benchmark.name,
        title=f"{config.model}, {config.partition}, batches of {batch}: train",
        clients=len(splits),
        model=config.model,
        shape=benchmark.image_shape,  # type: ignore[arg-type]
        examples=max(sizes),
        batch=batch,
        lr=config.lr,
        momentum=config.momentum,
        data=str(path),
    )
    train = [(s.train.inputs[:n], s.train.labels[:n]) for s, n in zip(splits, sizes, strict=True)]
    test = [(s.test.inputs, s.test.labels) for s in splits]
    arrays = {
        f"{part}{name}": torch.cat([own[place] for own in pairs]).numpy()
        for part, pairs in (("", train), ("test/", test))
        for place, name in enumerate(("images", "labels"))
    }
    np.savez(
        path,
        **arrays,
        sizes=np.array(sizes),
        mean=np.array(benchmark.scaling.mean),
        std=np.array(benchmark.scaling.std),
        work=np.array(json.dumps(asdict(work))),
    )
    return work
