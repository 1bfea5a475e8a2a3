"""A run on real clients: submitted, followed, judged by its real status, and brought home."""

import contextlib
import re
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import tomli_w

from fedadapt.config import RunConfig
from fedadapt.datasets.own.names import OWN
from fedadapt.deploy.certificates import fingerprint, load_public_key
from fedadapt.deploy.folder import Deployment, private
from fedadapt.deploy.processes import Running, environment, program
from fedadapt.deploy.runs.app_folder import RESUME, write_app
from fedadapt.deploy.runs.run_status import RunStatus, judge, run_status
from fedadapt.deploy.server.stopped_runs import note_stopped
from fedadapt.deploy.server.superlink import CONNECTION, SuperLinkLostError, flwr, is_up
from fedadapt.errors import FedadaptError, InputError, InterruptedRunError
from fedadapt.files import write_atomically
from fedadapt.simulations.endings import stopped_by_signals

LOOK_EVERY = 1.0  # seconds between looks whether the server is there
ASK_EVERY = 60.0  # seconds between questions for the status, each of which starts a process
LOST_AFTER = 10.0  # seconds without a server after which the run counts as lost
BACK_WITHIN = 60.0  # seconds for a server that was killed to come back and say what is lost

TOLD = re.compile(r"round \d+\b|waiting for |\d+ clients are there|left out: ")
"""Lines of a run's log that are of ours and worth showing."""

Say = Callable[[str], None]


def run(
    deployment: Deployment,
    config: RunConfig,
    given: Collection[str],
    say: Say,
    *,
    out: Path | None = None,
    resume: Path | None = None,
) -> Path:
    """Run and wait for the end; the run folder.

    Args:
        deployment: whose clients.
        config: the settings.
        given: the keys that were given, of which each must have an effect.
        say: takes a line for the operator.
        out: where the run folder is brought; None: it stays in the deployment's.
        resume: the folder of a run to go on with, one of this deployment's.

    Raises:
        FedadaptError: with the exit code of the run; docs/reliability.md lists them.

    """
    from fedadapt.simulations.check import check

    check(config, given, flower=True)
    home = out.expanduser().absolute() if out is not None else None
    if home is not None and home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise InputError(f"out: {home} is in use; name a new folder")
    folder = resume.resolve() if resume is not None else _new_folder(deployment, config)
    settings = config.to_mapping() | {"out": str(folder)}
    if config.benchmark == OWN and not config.roster:
        settings["roster"] = str(_roster(deployment, folder.name))
    if resume is not None:
        settings |= {RESUME: str(folder)}
    go_on = f"fedadapt deploy run {deployment.folder} --resume {folder}"
    number = _submit(deployment, settings)
    say(f"run {number} -> {folder}")
    follower = _Follower(deployment, number, say)
    try:
        with stopped_by_signals():
            status = follower.follow(go_on)
    except KeyboardInterrupt:
        say("stopping the run")
        stop(deployment, number)
        raise InterruptedRunError(f"interrupted; go on with: {go_on}") from None
    finally:
        follower.end()
    judge(status, go_on)
    say(
        f"finished; Flower counted {status.bytes_up / 1e6:.1f} MB up and "
        f"{status.bytes_down / 1e6:.1f} MB down"
    )
    if home is not None:
        shutil.copytree(folder, home, dirs_exist_ok=True)
        return home
    return folder


def stop(deployment: Deployment, number: str) -> None:
    """Tell the SuperLink and the clients to stop a run.

    It is no error if it has ended, or if the SuperLink cannot be told.
    """
    note_stopped(deployment, number)
    with contextlib.suppress(FedadaptError):
        flwr(deployment, "stop", number, CONNECTION)


def _new_folder(deployment: Deployment, config: RunConfig) -> Path:
    """A name that no run of this deployment has; the run itself makes the folder."""
    name = re.sub(r"[^\w.-]+", "-", f"{config.benchmark}-{config.strategy}")[:80]
    private(deployment.runs)
    taken = (deployment.runs / f"{name}-{n}" for n in range(1, 1_000_000))
    return next(folder for folder in taken if not folder.exists())


def _roster(deployment: Deployment, run_name: str) -> Path:
    """Who may take part, in the order that numbers the clients.

    A run that goes on has the one that it began with: a client's number is its line.
    """
    path = private(deployment.folder / "state" / "rosters") / f"{run_name}.txt"
    if not path.exists():
        lines = [
            f"{fingerprint(load_public_key(deployment.public_keys / f'{name}.pub'))} {name}\n"
            for name in deployment.clients()
        ]
        write_atomically(path, "".join(lines).encode(), mode=0o600)
    return path


def _submit(deployment: Deployment, settings: Mapping[str, object]) -> str:
    """Submit the run; its number.

    Raises:
        SuperLinkLostError: there is no server.

    """
    if not is_up(deployment):
        raise SuperLinkLostError(
            f"the server is not running; start it: fedadapt deploy server {deployment.folder}"
        )
    app = write_app(deployment.folder / "app")
    overrides = private(deployment.folder / "state") / "run-config.toml"
    write_atomically(overrides, tomli_w.dumps(dict(settings)).encode(), mode=0o600)
    answer = flwr(deployment, "run", str(app), CONNECTION, "--run-config", str(overrides))
    return str(answer["run-id"])


class _Follower:
    """Shows what a run logs, and finds out when it has ended."""

    def __init__(self, deployment: Deployment, number: str, say: Say) -> None:
        self._deployment, self._number, self._say = deployment, number, say
        self._log: Running | None = None
        self._shown = 0
        self._lines = 0  # of the log that is being read: a new reader begins at the top

    def follow(self, go_on: str) -> RunStatus:
        """Wait until the run has ended.

        Raises:
            SuperLinkLostError: the server is gone, or has forgotten the run.

        """
        ask_at = time.monotonic() + ASK_EVERY
        seen_at = time.monotonic()
        while True:
            self._read_log()
            time.sleep(LOOK_EVERY)
            now = time.monotonic()
            if is_up(self._deployment):
                seen_at = now
            elif now - seen_at > LOST_AFTER:
                return self._after_loss(go_on)
            else:
                continue
            ended = self._log is not None and self._log.exit_code is not None
            if now < ask_at and not ended:
                continue
            try:
                status = run_status(self._deployment, self._number)
            except SuperLinkLostError:
                continue  # the look above will say so, if it stays away
            ask_at = time.monotonic() + ASK_EVERY
            if status.is_finished:
                self._drain()
                return status
            if ended:
                self._restart_log()

    def end(self) -> None:
        if self._log is not None:
            self._log.end()

    def _after_loss(self, go_on: str) -> RunStatus:
        """The server is gone: wait for it to come back, for then it knows what is lost."""
        self._say(f"the server does not answer; waiting {BACK_WITHIN:g} s for it")
        deadline = time.monotonic() + BACK_WITHIN
        while time.monotonic() < deadline:
            time.sleep(LOOK_EVERY)
            if not is_up(self._deployment):
                continue
            try:
                status = run_status(self._deployment, self._number)
            except SuperLinkLostError:
                continue
            if status.is_finished:
                return status
        raise SuperLinkLostError(f"the server is gone; start it, then go on with: {go_on}")

    def _read_log(self) -> None:
        if self._log is None:
            self._restart_log()

    def _restart_log(self) -> None:
        self.end()
        self._lines = 0
        command = [program("flwr"), "log", self._number, CONNECTION, "--stream"]
        env = environment(self._deployment.flower_home)
        log = self._deployment.logs / f"run-{self._number}.log"
        self._log = Running(command, log, env, self._hear)

    def _drain(self) -> None:
        """Wait a moment for the last lines."""
        deadline = time.monotonic() + 5.0
        while self._log is not None and self._log.exit_code is None:
            if time.monotonic() > deadline:
                return
            time.sleep(0.2)

    def _hear(self, line: str) -> None:
        """Show a line of ours once, whichever reader brings it."""
        if not TOLD.match(line):
            return
        self._lines += 1
        if self._lines > self._shown:
            self._shown = self._lines
            self._say(f"  {line}")
