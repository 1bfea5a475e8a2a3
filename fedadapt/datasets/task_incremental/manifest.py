"""What fixes the images of a task-incremental benchmark: facts and a hash over all rows."""

import json
from collections.abc import Mapping
from hashlib import sha256

import numpy as np

from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Manifest
from fedadapt.datasets.task_incremental.benchmark import DRAWS, ServerRows, TaskImages, Users
from fedadapt.datasets.task_incremental.catalog import UserRule


def describe(
    config: RunConfig,
    rule: UserRule,
    kinds: tuple[str, ...],
    classes: Mapping[str, tuple[str, ...]],
    pictures: TaskImages,
    server: tuple[ServerRows, ...],
    users: Users,
    **metadata: object,
) -> Manifest:
    """Hash the facts, the server's rows and all users' rows in all draws.

    Args:
        classes: Of each task, by its name.
        facts: More of them, JSON; ``content`` is a digest of the images.

    """
    first = [users(task, 1) for task in range(len(server))]
    told: dict[str, object] = {
        "benchmark": config.benchmark,
        "seed": config.seed,
        "clients": len(kinds),
        **rule.words,
        "examples": config.examples,
        "image-size": pictures.shape[2],
        "tasks": {name: list(of) for name, of in classes.items()},
        "images": len(pictures.labels),
        "train-images": [len(rows.train) for rows in server],
        "validation-images": [len(rows.validation) for rows in server],
        "adapt-images": [sum(len(user.adapt) for user in task) for task in first],
        "test-images": [sum(len(user.test) for user in task) for task in first],
        **metadata,
    }
    seen = sha256(json.dumps(told, sort_keys=True).encode())
    parts = [part for rows in server for part in rows]
    for task in range(len(server)):
        for draw in range(1, DRAWS + 1):
            parts += [part for user in users(task, draw) for part in user]
    digests: dict[int, bytes] = {}  # users who hold the same images hold the same arrays
    for part in parts:
        if id(part) not in digests:
            bytes_of = np.ascontiguousarray(part, dtype="<i8").data
            digests[id(part)] = sha256(bytes_of).digest()
        seen.update(digests[id(part)])
    return Manifest(seen.hexdigest(), told)
