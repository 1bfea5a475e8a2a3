"""What became of a run, by Flower's own word for it; ``flwr run`` exits with 0 whatever happens."""

import re
from typing import NamedTuple

from fedadapt.deploy.folder import Deployment
from fedadapt.deploy.server.superlink import CONNECTION, SuperLinkLostError, flwr
from fedadapt.errors import FedadaptError, InterruptedRunError

WITH_FLOWER = re.compile(r"(?:resume|go on) with: flwr run [^;]*$")
"""How a run itself says that it goes on, where only Flower is known."""

LOST = ("Task failed with unknown error.", "No heartbeat received from the task")
"""What Flower says of a run whose ServerApp or SuperLink was killed."""


class RunStatus(NamedTuple):
    """One line of ``flwr list``."""

    run: str
    status: str  # "pending", "starting", "running", "finished:completed", ":failed", ":stopped"
    details: str
    bytes_up: int  # what clients sent, counted by Flower
    bytes_down: int

    @property
    def is_finished(self) -> bool:
        return self.status.startswith("finished")


def run_status(deployment: Deployment, run: str) -> RunStatus:
    """Ask for the status of a run.

    Raises:
        SuperLinkLostError: the SuperLink does not answer, or does not know the run.

    """
    runs = flwr(deployment, "list", CONNECTION, "--run-id", run)["runs"]
    if not runs:
        raise SuperLinkLostError(f"run {run}: the SuperLink does not know it")
    return _status(runs[0])


def all_runs(deployment: Deployment) -> list[RunStatus]:
    """Every run that the SuperLink remembers."""
    return [_status(row) for row in flwr(deployment, "list", CONNECTION)["runs"]]


def _status(row: dict[str, object]) -> RunStatus:
    traffic = row.get("network-traffic")
    numbers = traffic if isinstance(traffic, dict) else {}
    details = str(row["status-details"])
    return RunStatus(
        str(row["run-id"]),
        str(row["status"]),
        "" if details == "N/A" else details,
        int(numbers.get("inbound-bytes", 0)),
        int(numbers.get("outbound-bytes", 0)),
    )


class RunFailedError(FedadaptError):
    """The run ended with an error, whose exit code is this one's too."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def judge(status: RunStatus, go_on: str) -> None:
    """Return for a run that is complete, and raise for any other.

    Args:
        status: of a run that is finished.
        go_on: the command with which it could go on.

    Raises:
        FedadaptError: with the exit code of the run.

    """
    from fedadapt.flower.real_clients.exit_codes import exit_code_in

    if status.status == "finished:completed":
        return
    if status.status == "finished:stopped":
        raise InterruptedRunError(f"the run was stopped; go on with: {go_on}")
    details = status.details.removeprefix("ServerApp failed with exception:").strip()
    text, code = exit_code_in(details)
    if code is not None:
        raise RunFailedError(WITH_FLOWER.sub(lambda _: f"go on with: {go_on}", text), code)
    if not details or details in LOST:
        raise SuperLinkLostError(f"the server was ended in the middle of it; go on with: {go_on}")
    raise RunFailedError(" ".join(details.split()))
