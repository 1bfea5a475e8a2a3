"""A client: Flower's SuperNode, kept running, and told in one line why it cannot run.

The server counts a SuperNode that was killed as connected for another minute and refuses it
meanwhile, so whoever starts it must be patient; this does.
"""

import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from fedadapt.client.egress.policy import Policy
from fedadapt.deploy.backoff import Backoff
from fedadapt.deploy.bundle import KEY, Bundle, install, open_bundle
from fedadapt.deploy.device.checks import check_disk, check_images, check_packages
from fedadapt.deploy.device.connection import check_connection, stopped_runs
from fedadapt.deploy.folder import only_one, private
from fedadapt.deploy.processes import Running, environment, module_command
from fedadapt.errors import InputError
from fedadapt.simulations.endings import stopped_by_signals

LOOK_EVERY = 0.5
SHORTEST_WAIT, LONGEST_WAIT = 2.0, 15.0
ASK_EVERY = 15.0  # seconds between looks whether the run that is computed for was stopped
RETRY = 15.0  # seconds between looks for a server that is not there

Say = Callable[[str], None]


def default_home(name: str) -> Path:
    """Where a client keeps its key, its models and its logs."""
    return Path.home() / ".fedadapt" / name


def home_of(path: Path, home: Path | None) -> tuple[Path, str]:
    """The folder of the client that a bundle is of, and its name.

    Raises:
        InputError: the bundle is damaged.

    """
    settings, _ = open_bundle(path)
    return (home or default_home(settings["name"])).absolute(), settings["name"]


def run_client(
    path: Path,
    images: Path | None,
    home: Path | None,
    share: str,
    policy: Path | None,
    extra_config: str,
    say: Say,
    *,
    wait: bool = False,
) -> None:
    """Run the client of a bundle until it is told to end (Ctrl-C, SIGTERM).

    Args:
        path: the bundle.
        images: the folder with this client's pictures, one folder a class.
        home: where the client keeps what is its own; None: in the user's home.
        share: what else than models and numbers may be told, separated by commas.
        policy: the owner's file of what may leave.
        extra_config: more of Flower's node configuration, ``key=value`` words.
        say: takes a line for whoever started it.
        wait: whether to wait for a server that is not there at the start; one that was there is
            always waited for.

    Raises:
        InputError: something is wrong that waiting does not mend; one line says what.

    """
    home, _ = home_of(path, home)
    # A policy is refused now, not at the first message.
    privacy = policy is not None and Policy.from_toml(policy).privacy is not None
    for finding in (
        check_packages(privacy=privacy),
        *([check_images(images)] if images is not None else []),
        check_disk(home),
    ):
        if not finding.is_good:
            raise InputError(finding.line)
    private(home)
    bundle = install(path, private(home / "identity"))
    with only_one(home / "client.lock", f"{home}: this client is running already"):
        config = node_config(home, images, share, policy, extra_config)
        try:
            with stopped_by_signals():
                _Client(bundle, home, config, say).run(wait=wait)
        except KeyboardInterrupt:
            say("client ends")


def node_config(
    home: Path, images: Path | None, share: str, policy: Path | None, extra: str
) -> str:
    """Flower's node configuration: what the owner of this machine decides, not the run."""
    words = [
        f'state-dir="{_quotable(home / "state")}"',
        f'key="{_quotable(home / "identity" / KEY)}"',
    ]
    if share:
        words.append(f'share="{_quotable(Path(share))}"')
    if policy is not None:
        words.append(f'egress-policy="{_quotable(policy.absolute())}"')
    if images is not None:
        words.append(f'images="{_quotable(images.absolute())}"')
    return " ".join([*words, extra]).strip()


def supernode_command(bundle: Bundle, config: str, port: int) -> list[str]:
    """TLS with the deployment's authority, and this client's key: there is no other way in."""
    return [
        *module_command("fedadapt.flower.real_clients.supernode"),
        "--superlink", bundle.server,
        "--root-certificates", str(bundle.ca_certificate),
        "--auth-supernode-private-key", str(bundle.key),
        "--host", "127.0.0.1",
        "--port", str(port),
        "--isolation", "process",
        "--node-config", config,
    ]  # fmt: skip


def executor_command(port: int) -> list[str]:
    """What computes the answers of the SuperNode that listens on ``port``."""
    return module_command("fedadapt.flower.real_clients.device_executor", f"127.0.0.1:{port}")


class _Client:
    """The supervisor's loop."""

    def __init__(self, bundle: Bundle, home: Path, config: str, say: Say) -> None:
        self._bundle, self._home, self._config = bundle, home, config
        self._say_always = say
        self._said = ""
        self._refused = False  # the SuperNode was told that this client is connected already
        self._run = ""  # that the last message was of
        self._computing = ""  # the run for which something is being computed
        self._ask_at = 0.0  # when to ask whether that was stopped

    def run(self, *, wait: bool) -> None:
        backoff = Backoff(SHORTEST_WAIT, LONGEST_WAIT)
        is_first = not wait
        while True:
            self._wait_for_server(give_up=is_first)
            is_first = False
            running = self._start()
            backoff.started()
            try:
                while all(process.exit_code is None for process in running.values()):
                    time.sleep(LOOK_EVERY)
                    self._end_stopped_run(running["executor"])
            finally:
                for process in running.values():  # the SuperNode first: it says good-bye
                    process.end()
            pause = backoff.next()
            if self._refused:
                pause = LONGEST_WAIT
                self._say(
                    "the server still counts this client as connected, which takes a minute; "
                    "trying again"
                )
            else:
                codes = ", ".join(f"{name} {p.exit_code}" for name, p in running.items())
                self._say(f"ended ({codes}), again in {pause:g} s; logs in {self._logs}")
            time.sleep(pause)

    @property
    def _logs(self) -> Path:
        return self._home / "logs"

    def _start(self) -> dict[str, Running]:
        private(self._logs)
        private(self._home / "state")
        self._refused = False
        port = _free_port()
        env = environment(private(self._home / "flwr"))
        node = supernode_command(self._bundle, self._config, port)
        return {
            "SuperNode": Running(node, self._logs / "supernode.log", env, self._hear),
            "executor": Running(executor_command(port), self._logs / "client.log", env),
        }

    def _wait_for_server(self, *, give_up: bool) -> None:
        """Return when the server would let this client in.

        Raises:
            InputError: it would not, and waiting does not help or is not wanted.

        """
        while True:
            findings = list(check_connection(self._bundle))
            bad = next((finding for finding in findings if not finding.is_good), None)
            if bad is None:
                return
            if give_up or not bad.may_pass:
                raise InputError(bad.line)
            self._say(f"{bad.line}; trying again every {RETRY:g} s")
            time.sleep(RETRY)

    def _end_stopped_run(self, executor: Running) -> None:
        """End what is being computed for a run that the operator has stopped."""
        if not self._computing or time.monotonic() < self._ask_at:
            return
        self._ask_at = time.monotonic() + ASK_EVERY
        if self._computing in stopped_runs(self._bundle):
            self._say(f"run {self._computing} was stopped")
            os.kill(executor.pid, signal.SIGUSR1)
            self._computing = ""

    def _hear(self, line: str) -> None:
        """A line of the SuperNode's log; some are worth telling."""
        if match := re.search(r"\[RUN (\d+)", line):
            self._run = match[1]
        elif "Received successfully" in line:
            self._computing = self._run
            self._ask_at = time.monotonic() + ASK_EVERY
        elif "Sending:" in line:
            self._computing = ""
        if "2004" in line and "activate" in line.lower():
            self._refused = True
        elif "SuperNode ID:" in line:
            self._say(f"{self._bundle.name} is connected to {self._bundle.server}")
        elif match := re.search(r"\[RUN (\d+), ROUND (\d+)\]", line):
            self._say(f"run {match[1]}, round {match[2]}")

    def _say(self, line: str) -> None:
        """The same line is said once."""
        if line != self._said:
            self._said = line
            self._say_always(line)


def _free_port() -> int:
    """A port for the SuperNode and its ClientApp, on the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as trial:
        port: int = trial.getsockname()[1]
        return port


def _quotable(path: Path) -> str:
    """A path as it can stand between the quotes of a node configuration.

    Raises:
        InputError: it cannot.

    """
    text = str(path)
    if any(c in text for c in "\"'\\") or not text.isprintable():
        raise InputError(f"{text!r}: quotes, backslashes and control characters are not possible")
    return text
