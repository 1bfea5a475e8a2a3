"""The file of tuning: what was chosen for each strategy, and every trial. No torch."""

import csv
import io
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from fedadapt.errors import InputError
from fedadapt.files import write_atomically
from fedadapt.parameters import Scalar
from fedadapt.simulations.studies.space import Point

TUNED = "tuned.toml"
TRIALS = "trials.csv"
COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"


class Trial(NamedTuple):
    """One point that was tried."""

    number: int
    state: str  # complete, pruned (given up early) or failed
    score: float | None  # on adapt images, in [0, 1]; None unless complete
    point: Point


class Choice(NamedTuple):
    """What was chosen for a strategy."""

    strategy: str  # as it was listed, with arguments that were not tuned
    score: float
    point: Point
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Tuned:
    """The result of tuning."""

    select: str  # what points are chosen by
    budget: int  # trials of each strategy
    seeds: tuple[int, ...]
    space: str
    settings: dict[str, Scalar]  # that all trials had, where they are not the defaults
    choices: tuple[Choice, ...]

    def choice_for(self, strategy: str, where: str) -> Choice:
        """Return what was chosen for a strategy, as it was listed.

        Raises:
            InputError: It was not tuned.

        """
        for choice in self.choices:
            if choice.strategy.split() == strategy.split():
                return choice
        known = "; ".join(choice.strategy for choice in self.choices)
        raise InputError(f"strategies: {strategy} is not in {where}, which has: {known}")

    def trials_as_csv(self) -> str:
        """Return every trial, a row each: what was tried, what came of it, what was chosen."""
        axes = dict.fromkeys(name for c in self.choices for t in c.trials for name in t.point)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["strategy", "trial", "state", "score", "chosen", *axes])
        for choice in self.choices:
            for trial in choice.trials:
                chosen = trial.state == COMPLETE and trial.point == choice.point
                score = "" if trial.score is None else round(trial.score, 6)
                values = [trial.point.get(name, "") for name in axes]
                row = [choice.strategy, trial.number, trial.state, score, int(chosen), *values]
                writer.writerow(row)
        return text.getvalue()

    @property
    def note(self) -> str:
        """A line below a table."""
        seeds = ", ".join(map(str, self.seeds))
        return (
            f"Settings were chosen on adapt images, {self.budget} trials a strategy, with seeds "
            f"{seeds}: every trial is in {TRIALS}"
        )

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write ``tuned.toml`` and ``trials.csv``; their paths."""
        document: dict[str, Any] = {
            "tuned": {
                "select": self.select,
                "budget": self.budget,
                "seeds": list(self.seeds),
                "space": self.space,
            },
            "settings": self.settings,
            "strategies": [
                {
                    "strategy": choice.strategy,
                    "score": choice.score,
                    "chosen": dict(choice.point),
                    "trials": [
                        {k: v for k, v in trial._asdict().items() if v is not None}
                        for trial in choice.trials
                    ],
                }
                for choice in self.choices
            ],
        }
        write_atomically(folder / TUNED, tomli_w.dumps(document).encode())
        write_atomically(folder / TRIALS, self.trials_as_csv().encode())
        return folder / TUNED, folder / TRIALS


def read_tuned(path: Path) -> Tuned:
    """Read a ``tuned.toml``; a folder is one that has it.

    Raises:
        InputError: It cannot be read, or is none.

    """
    if path.is_dir():
        path = path / TUNED
    try:
        document = tomllib.loads(path.read_text("utf-8"))
        how = document["tuned"]
        return Tuned(
            select=how["select"],
            budget=how["budget"],
            seeds=tuple(how["seeds"]),
            space=how["space"],
            settings=document["settings"],
            choices=tuple(_choices(document["strategies"])),
        )
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"settings: {path}: {error}") from None
    except (KeyError, TypeError) as error:
        raise InputError(
            f"settings: {path}: {error} is missing or malformed; give a file that "
            "`fedadapt tune` has written"
        ) from None


def _choices(entries: Sequence[Any]) -> Iterable[Choice]:
    for entry in entries:
        trials = tuple(
            Trial(t["number"], t["state"], t.get("score"), t["point"]) for t in entry["trials"]
        )
        yield Choice(entry["strategy"], entry["score"], entry["chosen"], trials)
