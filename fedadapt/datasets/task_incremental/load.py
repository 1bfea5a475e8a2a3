"""``load_tasks``: from the settings of a run to a server's tasks and its users' images."""

from fedadapt.config import RunConfig
from fedadapt.datasets.own.names import is_own
from fedadapt.datasets.own.rehearsal import load_own_tasks
from fedadapt.datasets.task_incremental.benchmark import TaskBenchmark
from fedadapt.datasets.task_incremental.class_pairs import make_pairs
from fedadapt.datasets.task_incremental.dua_indoor import make_indoor
from fedadapt.datasets.task_incremental.dua_numbers import make_numbers
from fedadapt.datasets.task_incremental.task_spec import DomainUsers, check_tasks


def load_tasks(config: RunConfig) -> TaskBenchmark:
    """Find the images of a task-incremental benchmark and assign them to server and users.

    A function of the data, ``benchmark, partition, shift, clients, examples, image_size`` and
    ``seed``. ``examples`` caps the server's training images of a task; 0: the benchmark's own.

    Raises:
        InputError: Bad words, missing or damaged files, impossible numbers: one line.

    """
    if is_own(config.benchmark):
        return load_own_tasks(config)
    spec = check_tasks(config)
    if spec.entry.indoor:
        return make_indoor(spec)
    return make_numbers(spec) if isinstance(spec.users, DomainUsers) else make_pairs(spec)
