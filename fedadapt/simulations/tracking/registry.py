"""The trackers by name. No torch, and none of their libraries."""

from fedadapt.errors import InputError, need
from fedadapt.registry import Registry
from fedadapt.simulations.tracking.tracker import Tracker

TRACKERS = Registry(
    "track",
    "fedadapt.trackers",
    {
        "tensorboard": "fedadapt.simulations.tracking.to_tensorboard:TensorBoard",
        "mlflow": "fedadapt.simulations.tracking.to_mlflow:MLflow",
        "wandb": "fedadapt.simulations.tracking.to_wandb:WandB",
    },
)


def trackers_of(track: str) -> tuple[str, ...]:
    """Return the names in the setting ``track``: ``"tensorboard, mlflow"`` has two."""
    return tuple(name.strip() for name in track.split(",") if name.strip())


def check_trackers(track: str) -> None:
    """Refuse trackers that are not there, or whose library is not installed.

    Raises:
        InputError: One line.

    """
    names = trackers_of(track)
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"track: {name} is given twice")
        TRACKERS.path(name)
        if name in TRACKERS.ours:
            need(name, f"track={name}", extra=name)
        else:
            find_tracker(name)


def find_tracker(name: str) -> type[Tracker]:
    """Return the class of a tracker.

    Raises:
        InputError: It cannot be imported, or is none.

    """
    found = TRACKERS.find(name)
    if not (isinstance(found, type) and issubclass(found, Tracker)):
        raise InputError(
            f"track: {name}: is no tracker; derive it from "
            "fedadapt.simulations.tracking.tracker.Tracker"
        )
    return found
