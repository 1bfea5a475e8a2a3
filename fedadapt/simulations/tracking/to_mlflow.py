"""MLflow: a run on the server, or in the file, that MLFLOW_TRACKING_URI names."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fedadapt.simulations.tracking.tracker import TrackedRun, Tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

EXPERIMENT = "fedadapt"  # default of MLFLOW_EXPERIMENT_NAME
AT_ONCE = 100  # parameters in a request; of metrics more are allowed
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Defaults: a server that is gone costs seconds, not the minutes that MLflow would wait."""


class MLflow(Tracker):
    """Parameters, metrics by round, and the files as artifacts.

    A metric's name has ``.`` where a label has ``+``, which MLflow does not allow.
    """

    _client: "MlflowClient"

    def begin(self, run: TrackedRun) -> str:
        """Create the run in MLflow, or go on with it."""
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient()
        if run.id:
            self._client.update_run(run.id, status="RUNNING")
            self._run = run.id
            return run.id
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self._run = self._client.create_run(number, run_name=run.folder.name).info.run_id
        params = [Param(key, str(value)) for key, value in run.settings.items()]
        for some in _portions(params):
            self._client.log_batch(self._run, params=some)
        return self._run

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics; the step is the round."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        entries = [Metric(name.replace("+", "."), v, now, round) for name, v in metrics.items()]
        for some in _portions(entries):
            self._client.log_batch(self._run, metrics=some)

    def finish(self, summary: Mapping[str, object], files: Sequence[Path]) -> None:
        """Attach the files and close the run as finished."""
        for file in files:
            self._client.log_artifact(self._run, str(file))
        self._client.set_terminated(self._run, "FINISHED")

    def stop(self, reason: str) -> None:
        """Close the run as failed, with the reason as a tag; it may be gone on with."""
        self._client.set_tag(self._run, "fedadapt.stopped", reason)
        self._client.set_terminated(self._run, "FAILED")


def _portions(entries: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield entries in pieces that fit in a request."""
    for first in range(0, len(entries), AT_ONCE):
        yield entries[first : first + AT_ONCE]
