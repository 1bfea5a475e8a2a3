"""The server: Flower's SuperLink and the guard in front of it, started again whenever they end."""

import datetime
import socket
import time
from collections.abc import Callable
from pathlib import Path

from fedadapt.deploy.backoff import Backoff
from fedadapt.deploy.certificates import RENEW_BEFORE, expires
from fedadapt.deploy.folder import Deployment, only_one
from fedadapt.deploy.processes import Running, environment, module_command
from fedadapt.deploy.server.init import renew
from fedadapt.deploy.server.registration import register, told_of
from fedadapt.deploy.server.superlink import SuperLinkLostError, is_up, superlink_command
from fedadapt.errors import FedadaptError, InputError
from fedadapt.simulations.endings import stopped_by_signals

START_WITHIN = 90.0  # seconds for the SuperLink to answer
LOOK_EVERY = 0.5

Say = Callable[[str], None]


def serve(deployment: Deployment, host: str, say: Say) -> None:
    """Run the server until it is told to end (Ctrl-C, SIGTERM).

    Args:
        deployment: what to serve.
        host: the address that the guard listens on; 0.0.0.0 is all.
        say: takes a line for the operator.

    Raises:
        InputError: a port is in use, the certificate has ended, or a server runs already.

    """
    deployment.make_folders()
    lock = deployment.folder / "state" / "server.lock"
    with only_one(lock, f"{deployment.folder}: its server is running already"):
        _check_certificate(deployment, say)
        _check_port(host, deployment.port, "port")
        _check_port("127.0.0.1", deployment.control_port, "control port")
        with stopped_by_signals():
            _keep_running(deployment, host, say)


def _keep_running(deployment: Deployment, host: str, say: Say) -> None:
    env = environment(deployment.flower_home)
    guard = module_command("fedadapt.deploy.server.guard", str(deployment.folder), host)
    services = (
        _Service(
            "SuperLink", superlink_command(deployment), deployment.logs / "superlink.log", env
        ),
        _Service("guard", guard, deployment.logs / "guard.log", env),
    )
    try:
        services[0].start()
        _wait_for_superlink(deployment, services[0])
        registered = register(deployment)
        if registered.added:
            say(f"registered {', '.join(registered.added)}")
        if registered.revoked:
            say(told_of(registered.revoked, deployment))
        services[1].start()
        say(
            f"server is up: {len(deployment.clients())} clients may connect to "
            f"{deployment.address}; logs in {deployment.logs}"
        )
        while True:
            time.sleep(LOOK_EVERY)
            for service in services:
                service.revive(say)
    except KeyboardInterrupt:
        say("server ends")
    finally:
        for service in reversed(services):  # clients see the guard go, and try again
            service.end()


class _Service:
    """A program that is started again whenever it ends, sooner at first and later if it insists."""

    def __init__(self, name: str, command: list[str], log: Path, env: dict[str, str]) -> None:
        self.name = name
        self._command, self._log, self._env = command, log, env
        self._backoff = Backoff()
        self._running: Running | None = None
        self._start_at = 0.0

    def start(self) -> None:
        self._running = Running(self._command, self._log, self._env)
        self._backoff.started()

    @property
    def exit_code(self) -> int | None:
        return None if self._running is None else self._running.exit_code

    def revive(self, say: Say) -> None:
        """Start it again if it has ended and has waited."""
        if self._running is None:
            if time.monotonic() >= self._start_at:
                self.start()
        elif (code := self._running.exit_code) is not None:
            self._running.end()  # whatever it has started
            self._running = None
            wait = self._backoff.next()
            self._start_at = time.monotonic() + wait
            say(f"{self.name} ended ({code}); again in {wait:g} s, its log is {self._log}")

    def end(self) -> None:
        if self._running is not None:
            self._running.end()


def _wait_for_superlink(deployment: Deployment, superlink: _Service) -> None:
    deadline = time.monotonic() + START_WITHIN
    while not is_up(deployment):
        log = deployment.logs / "superlink.log"
        if (code := superlink.exit_code) is not None:
            raise FedadaptError(f"the SuperLink ended at its start ({code}); its log is {log}")
        if time.monotonic() > deadline:
            raise SuperLinkLostError(f"no SuperLink after {START_WITHIN:g} s; its log is {log}")
        time.sleep(LOOK_EVERY)


def _check_certificate(deployment: Deployment, say: Say) -> None:
    """Renew a certificate that ends soon, where the authority's key is at hand."""
    left = expires(deployment.certificate) - datetime.datetime.now(datetime.UTC)
    if left > RENEW_BEFORE:
        return
    if deployment.authority_key.is_file():
        renew(deployment)
        say("the server's certificate was renewed")
    elif left <= datetime.timedelta(0):
        raise InputError(
            f"{deployment.certificate}: has ended, and {deployment.authority_key} is not there to "
            "renew it; put it back"
        )
    else:
        say(
            f"the server's certificate ends in {left.days} days; put {deployment.authority_key} "
            "back and start the server again"
        )


def _check_port(host: str, port: int, what: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            raise InputError(
                f"{what}: {host}:{port} cannot be used ({error.strerror}); end what uses it, or "
                "choose another in deployment.toml"
            ) from None
