"""Trackers of somebody else's: one that remembers, and some that fail."""

import json
from pathlib import Path

from fedadapt.simulations.tracking.tracker import Tracker


class Recording(Tracker):
    """Writes down what it is told, a line for each call, beside the run folder."""

    def _note(self, *words):
        with self.file.open("a") as file:
            file.write(json.dumps(words) + "\n")

    def begin(self, run):
        self.file = run.folder.parent / f"{run.folder.name}.tracked"
        self._note("begin", run.id, run.round, dict(run.settings))
        return run.id or f"id-of-{run.folder.name}"

    def log(self, round, metrics):
        self._note("log", round, dict(metrics))

    def finish(self, summary, files):
        self._note("finish", dict(summary), [Path(file).name for file in files])

    def stop(self, reason):
        self._note("stop", reason)


class FailsAtBegin(Recording):
    def begin(self, run):
        raise ConnectionError("no server\nat all")


class FailsAtLog(Recording):
    def log(self, round, metrics):
        super().log(round, metrics)
        raise SystemExit(3)


class FailsAtFinish(Recording):
    def finish(self, summary, files):
        raise OSError("disk")


class NotATracker:
    pass
