"""Tuning on adapt images: as many trials for every strategy, chosen by nothing that is reported.

Optuna proposes the points and keeps the study on disk, so that it goes on after an interruption.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from rich.console import Console

from fedadapt.config import RunConfig, adaptations_of
from fedadapt.errors import (
    DivergedError,
    EvaluationFailedError,
    FedadaptError,
    InputError,
    InterruptedRunError,
    QuorumLostError,
)
from fedadapt.parameters import Scalar
from fedadapt.random_streams import stream
from fedadapt.records import HELD_OUT, Evaluation
from fedadapt.simulations.compare import finished
from fedadapt.simulations.results.parquet import table_rows
from fedadapt.simulations.results.run_lock import only_writer
from fedadapt.simulations.results.summary import told_apart_by
from fedadapt.simulations.studies.space import (
    Axis,
    Choices,
    Point,
    Range,
    applied,
    axes_of,
    grid,
    short,
    size,
)
from fedadapt.simulations.studies.tuned import COMPLETE, FAILED, PRUNED, Choice, Trial, Tuned

STUDY = "study.log"
SPREAD = 4  # trials before others are proposed by what came of them, or given up
OF_THE_POINT = (DivergedError, QuorumLostError, EvaluationFailedError, InputError)
"""Errors that say something of a point; others, such as a full disk, end the study for now."""

STATES = {
    TrialState.COMPLETE: COMPLETE,
    TrialState.PRUNED: PRUNED,
    TrialState.FAIL: FAILED,
}

log = logging.getLogger(__name__)


class _GivenUp(Exception):
    """A trial does worse than the others did at this point of theirs."""


@dataclass(frozen=True)
class Tuning:
    """A study: what is tried, how often, and what it is chosen by."""

    base: RunConfig  # what all runs have in common
    axes: tuple[Axis, ...]
    space: str  # the axes, as they were given
    budget: int  # trials of each strategy
    seeds: tuple[int, ...]
    select: str  # ``adapt``, or ``adapt:LABEL``
    pruning: bool  # trials that do badly are given up early
    folder: Path

    def run(self, strategies: Sequence[str], console: Console) -> Tuned:
        """Carry out what is not there yet of the trials of each strategy.

        Raises:
            InputError: The folder holds another study.
            FedadaptError: No trial of a strategy has ended well.
            InterruptedRunError: Ctrl-C; the study goes on where it was.

        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with only_writer(self.folder):
                choices = tuple(self._choice(text, console) for text in strategies)
        except InterruptedRunError:
            raise InterruptedRunError(
                "interrupted; the same command goes on where it was"
            ) from None
        settings = told_apart_by(self.base)
        return Tuned(self.select, self.budget, self.seeds, self.space, settings, choices)

    def _choice(self, text: str, console: Console) -> Choice:
        config = self.of_strategy(text)
        axes = axes_of(self.axes, config.strategy, config)
        study = self._study(text)
        count = min(self.budget, size(axes) or self.budget)
        for number in range(count):
            trial = self._trial(study, axes, number)
            if trial is None:
                continue
            point = {axis.name: _suggested(trial, axis) for axis in axes}
            words = " ".join(f"{name}={value}" for name, value in point.items())
            console.out(f"{text}: trial {number + 1} of {count}: {words}", highlight=False)
            state, score = self._outcome(applied(config, point), _folder_name(text), study, trial)
            study.tell(trial, score, state)
        trials = tuple(_records(study, axes, count))
        done = [trial for trial in trials if trial.score is not None]
        if not done:
            raise FedadaptError(f"{text}: none of {count} trials has ended well; widen --space")
        best = max(done, key=lambda trial: trial.score or 0.0)  # of equal ones the first
        return Choice(text, best.score or 0.0, best.point, trials)

    def of_strategy(self, text: str) -> RunConfig:
        """Return the settings of a strategy's trials, without a point: what is scored, and fast."""
        name, _, arguments = text.partition(" ")
        return replace(
            self.base,
            strategy=name,
            strategy_args=arguments.strip(),
            serve="best-on-adapt",
            save_models="none",
            local=False,
            global_test="none",
        )

    def _study(self, text: str) -> optuna.Study:
        path = self.folder / STUDY
        backend = JournalFileBackend(str(path))
        median = optuna.pruners.MedianPruner(SPREAD, n_warmup_steps=self.base.rounds // 3)
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name=text,
            direction="maximize",
            load_if_exists=True,
            pruner=median if self.pruning else optuna.pruners.NopPruner(),
        )
        asked = {
            "settings": told_apart_by(self.of_strategy(text)),
            "space": self.space,
            "seeds": list(self.seeds),
            "select": self.select,
        }
        known = study.user_attrs.get("asked")
        if known is None:
            study.set_user_attr("asked", asked)
        elif known != asked:
            other = [key for key in asked if known.get(key) != asked[key]]
            raise InputError(
                f"out: {self.folder} holds a study with other {', '.join(other)}; name another "
                "--out, or give what it was begun with"
            )
        return study

    def _trial(self, study: optuna.Study, axes: Sequence[Axis], number: int) -> optuna.Trial | None:
        """Return the trial of a number, begun or gone on with; None if it has ended.

        Where all values are listed, points are tried in a random order, each once. Otherwise the
        first ones are spread over the space, and the others proposed by TPE (Bergstra et al. 2011).
        What is proposed depends on the number and on what came of the trials before, and not on
        interruptions.
        """
        known = study.get_trials(deepcopy=False)
        if number < len(known) and known[number].state.is_finished():
            return None
        if number < len(known) and known[number].state == TrialState.RUNNING:
            return optuna.Trial(study, known[number]._trial_id)
        if number == len(known):
            if size(axes) is not None:
                points = list(grid(axes, "space"))
                order = stream(self.base.seed, "tune").permutation(len(points))
                study.enqueue_trial(dict(points[order[number]]))
            elif number < SPREAD:
                study.enqueue_trial(dict(spread(axes, self.base.seed)[number]))
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=SPREAD, seed=number)
        return study.ask()

    def _outcome(
        self, config: RunConfig, name: str, study: optuna.Study, trial: optuna.Trial
    ) -> tuple[TrialState, float | None]:
        """Make the runs of a trial, one for each seed; how it ended, and its score."""
        scores = []
        for place, seed in enumerate(self.seeds):
            out = self.folder / name / f"trial-{trial.number:03d}-seed{seed}"
            try:
                watch = _watch(study, trial, place * config.rounds)
                run = replace(config, seed=seed, out=str(out))
                finished(run, Console(quiet=True), watch=watch, pictures=False)
            except _GivenUp:
                return TrialState.PRUNED, None
            except OF_THE_POINT as error:
                log.warning("%s: %s", out, error)
                return TrialState.FAIL, None
            rows = table_rows(out, Evaluation)
            scores.append(score_of(rows, self.select, adaptations_of(config.adapt)))
        return TrialState.COMPLETE, float(np.mean(scores))


def spread(axes: Sequence[Axis], seed: int) -> list[Point]:
    """Return points that cover each axis evenly: a Latin hypercube (McKay et al. 1979).

    An axis has as many parts as there are points, and a point in each, at random in its part.
    """
    random = stream(seed, "tune")
    columns = {
        axis.name: (random.permutation(SPREAD) + random.uniform(size=SPREAD)) / SPREAD
        for axis in axes
    }
    return [
        {axis.name: axis.domain.at(float(columns[axis.name][number])) for axis in axes}
        for number in range(SPREAD)
    ]


def score_of(rows: Iterator[Evaluation], select: str, adaptations: Sequence[str]) -> float:
    """Return what a run is chosen by: the mean over seen clients, each counting once.

    It is the accuracy on adapt images that the model was not adapted to (``HELD_OUT``), after the
    last round.

    Args:
        rows: Of the run.
        select: ``adapt``: the personal model where there is one, else the base model with the last
            of the run's adaptations. ``adapt:LABEL``: that label.
        adaptations: Those of the run, in the order given.

    Raises:
        InputError: No client has such a label.

    """
    of_label: dict[str, list[float]] = {}
    last = 0
    for row in rows:
        if row.split != HELD_OUT or row.epoch or not row.seen or row.round < last:
            continue
        if row.round > last:
            last, of_label = row.round, {}
        of_label.setdefault(row.label, []).append(row.accuracy)
    _, _, label = select.partition(":")
    if not label:
        adapted = "base" if adaptations[-1] == "none" else f"base+{adaptations[-1]}"
        label = "personal" if "personal" in of_label else adapted
    if label not in of_label:
        raise InputError(f"select: {label} has no results; there are: {', '.join(of_label)}")
    return float(np.mean(of_label[label]))


def _watch(study: optuna.Study, trial: optuna.Trial, before: int) -> Callable[[int, float], None]:
    """Return what tells Optuna the scores of a run, and ends it where they are too low.

    Args:
        before: Rounds of the trial's runs with other seeds.

    """
    reported = study.get_trials(deepcopy=False)[trial.number].intermediate_values

    def watch(round: int, score: float) -> None:
        if before + round not in reported:  # an interrupted run tells some of them again
            trial.report(score, before + round)
        if trial.should_prune():
            raise _GivenUp

    return watch


def _suggested(trial: optuna.Trial, axis: Axis) -> Scalar:
    domain = axis.domain
    if isinstance(domain, Choices):
        chosen: Scalar = trial.suggest_categorical(axis.name, domain.values)  # type: ignore[assignment]
        return chosen
    if domain.is_whole:
        return trial.suggest_int(axis.name, int(domain.low), int(domain.high), log=domain.is_log)
    return short(trial.suggest_float(axis.name, domain.low, domain.high, log=domain.is_log))


def _records(study: optuna.Study, axes: Sequence[Axis], count: int) -> Iterator[Trial]:
    for trial in islice(study.get_trials(deepcopy=False), count):
        score = trial.value if trial.state == TrialState.COMPLETE else None
        yield Trial(trial.number, STATES[trial.state], score, _point(trial.params, axes))


def _point(params: Mapping[str, Any], axes: Sequence[Axis]) -> Point:
    """The values as they were used."""
    return {
        axis.name: short(params[axis.name]) if isinstance(axis.domain, Range) else params[axis.name]
        for axis in axes
        if axis.name in params
    }


def _folder_name(text: str) -> str:
    return re.sub(r"[^\w.=-]+", "-", text)
