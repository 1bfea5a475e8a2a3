"""One experiment over Flower, however many runs of Flower it takes.

Each ``flwr run`` has a number of its own. What clients keep belongs to the experiment, whose id is
in the run folder; a server that goes on from its checkpoint tells clients after which round, and
they forget what they kept later.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import tomli_w

from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.files import write_atomically
from fedadapt.messages import Config

FILE = "experiment.json"
RESUME_FILE = "resume.toml"  # the run's configuration for `flwr run`, to go on with it
RESUME = "resume"  # the key beside those of ``RunConfig``: the run folder to go on with
KEYS = ("experiment", "attempt", "goes-on-after")


@dataclass(frozen=True)
class Experiment:
    """What clients are told of it with every message."""

    id: str
    attempt: int = 1  # counts the starts of its server
    after: int = 0  # the round that this attempt goes on after

    @staticmethod
    def begin(folder: Path) -> "Experiment":
        """Begin a new one in a new run folder."""
        experiment = Experiment(secrets.token_hex(8))
        experiment._write(folder)
        return experiment

    @staticmethod
    def go_on(folder: Path, round: int) -> "Experiment":
        """Go on with that of a run folder, after a round.

        Raises:
            InputError: The folder is of no run over Flower.

        """
        path = folder / FILE
        try:
            told = json.loads(path.read_text("utf-8"))
            before = Experiment(str(told["id"]), int(told["attempt"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: {error}; resume goes on with the folder of a run over Flower"
            ) from None
        experiment = replace(before, attempt=before.attempt + 1, after=round)
        experiment._write(folder)
        return experiment

    def write_resume_file(self, folder: Path, config: RunConfig) -> None:
        """Write the settings with which ``flwr run`` goes on with this run."""
        settings = config.to_mapping() | {RESUME: str(folder.absolute())}
        write_atomically(folder / RESUME_FILE, tomli_w.dumps(settings).encode())

    def to_config(self) -> Config:
        """Return the settings that every message has."""
        return dict(zip(KEYS, (self.id, self.attempt, self.after), strict=True))

    def _write(self, folder: Path) -> None:
        write_atomically(folder / FILE, json.dumps(asdict(self)).encode())


def settings_of(run_config: Mapping[str, object]) -> dict[str, object]:
    """Return those settings of a ``flwr run`` that are a ``RunConfig``'s."""
    return {key: value for key, value in run_config.items() if key != RESUME}


def resumed(run_config: Mapping[str, object]) -> tuple[Path | None, RunConfig]:
    """Return the run folder to go on with, None for a new run, and the run's settings.

    Raises:
        InputError: The settings are wrong, or the folder is of no run.

    """
    config = RunConfig.from_mapping(settings_of(run_config))
    folder = str(run_config.get(RESUME, ""))
    if not folder:
        return None, config
    if not (Path(folder).expanduser() / FILE).is_file():
        raise InputError(f"resume: {folder}: no run over Flower is there")
    return Path(folder).expanduser(), config


def experiment_of(settings: Config) -> Experiment | None:
    """Return what a message says of its experiment; None if it says nothing of the kind."""
    name, attempt, after = (settings.get(key) for key in KEYS)
    if not isinstance(name, str) or type(attempt) is not int or type(after) is not int:
        return None
    return Experiment(name, attempt, after)


def without_experiment(settings: Config) -> Config:
    """Return the settings of a message that a strategy has set."""
    return {key: value for key, value in settings.items() if key not in KEYS}
