"""The manifest of a task-incremental benchmark: facts and a hash over all rows."""

import json
from collections.abc import Mapping
from hashlib import sha256

import numpy as np

from fedadapt.datasets.benchmark import Manifest
from fedadapt.datasets.task_incremental.benchmark import DRAWS, ServerRows, TaskImages, Users
from fedadapt.datasets.task_incremental.task_spec import TaskSpec


def describe(
    spec: TaskSpec,
    kinds: tuple[str, ...],
    classes: Mapping[str, tuple[str, ...]],
    images: TaskImages,
    server: tuple[ServerRows, ...],
    users: Users,
    **metadata: object,
) -> Manifest:
    """Hash the facts, the server's rows and all users' rows in all draws.

    Args:
        classes: The classes of each task, by its name.
        metadata: More facts, JSON; ``content`` is a digest of the images.

    """
    first = [users(task, 1) for task in range(len(server))]
    facts: dict[str, object] = {
        "benchmark": spec.name,
        "seed": spec.seed,
        "clients": len(kinds),
        **spec.written,
        "examples": spec.examples,
        "image-size": images.shape[2],
        "tasks": {name: list(of) for name, of in classes.items()},
        "images": len(images.labels),
        "train-images": [len(rows.train) for rows in server],
        "validation-images": [len(rows.validation) for rows in server],
        "adapt-images": [sum(len(user.adapt) for user in task) for task in first],
        "test-images": [sum(len(user.test) for user in task) for task in first],
        **metadata,
    }
    digest = sha256(json.dumps(facts, sort_keys=True).encode())
    parts = [part for rows in server for part in rows]
    for task in range(len(server)):
        for draw in range(1, DRAWS + 1):
            parts += [part for user in users(task, draw) for part in user]
    digests: dict[int, bytes] = {}  # users who hold the same images hold the same arrays
    for part in parts:
        if id(part) not in digests:
            bytes_of = np.ascontiguousarray(part, dtype="<i8").data
            digests[id(part)] = sha256(bytes_of).digest()
        digest.update(digests[id(part)])
    return Manifest(digest.hexdigest(), facts)
