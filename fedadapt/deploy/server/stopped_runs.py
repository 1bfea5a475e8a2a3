"""Runs that the operator has stopped: Flower does not tell devices, which would go on computing."""

import json

from fedadapt.deploy.folder import Deployment, read_json
from fedadapt.files import write_atomically

REMEMBERED = 50


def stopped_runs(deployment: Deployment) -> list[str]:
    """The numbers of the runs that were stopped last."""
    runs = read_json(deployment.stopped).get("runs")
    return [run for run in runs if isinstance(run, str)] if isinstance(runs, list) else []


def note_stopped(deployment: Deployment, run: str) -> None:
    """Let the clients know, the next time they ask."""
    runs = [*(r for r in stopped_runs(deployment) if r != run), run][-REMEMBERED:]
    write_atomically(deployment.stopped, json.dumps({"runs": runs}).encode(), mode=0o600)
