"""``load_tasks``: from the settings of a run to a server's tasks and its users' images."""

from fedadapt.config import RunConfig
from fedadapt.datasets.task_incremental.benchmark import TaskBenchmark
from fedadapt.datasets.task_incremental.catalog import DOMAINS, check, find_tasks
from fedadapt.datasets.task_incremental.class_pairs import make_pairs
from fedadapt.datasets.task_incremental.dua_indoor import make_indoor
from fedadapt.datasets.task_incremental.dua_numbers import make_numbers


def load_tasks(config: RunConfig) -> TaskBenchmark:
    """Find the images of a task-incremental benchmark and say who holds which.

    A function of the data, ``benchmark, partition, shift, clients, examples, image_size`` and
    ``seed``. ``examples`` caps the server's training images of a task; 0: the benchmark's own.

    Raises:
        InputError: Bad words, missing or damaged files, impossible numbers: one line.

    """
    check(config)
    entry = find_tasks(config.benchmark)
    if entry.indoor:
        return make_indoor(config, entry)
    return (make_numbers if entry.partition == DOMAINS else make_pairs)(config, entry)
