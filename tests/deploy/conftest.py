"""Fixtures of a deployment: its folder, the identity of a client, and time that passes at once."""

import socket
import time

import pytest
from fake_programs import Clock, Program
from signed_headers import headers_of

from fedadapt.deploy.bundle import install
from fedadapt.deploy.server.init import initialise


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A deployment with three clients and no server; tests do not change it."""
    folder = tmp_path_factory.mktemp("deployment") / "server"
    return initialise(folder, ("localhost",), 3, *closed_ports())


@pytest.fixture
def deployment(tmp_path):
    """A deployment with three clients, to be changed."""
    return initialise(tmp_path / "server", ("localhost",), 3, *closed_ports())


@pytest.fixture
def bundle(made, tmp_path):
    """The bundle of the first client, as it is unpacked on it."""
    return install(made.bundles / "client-1.tar", tmp_path / "identity")


@pytest.fixture
def signed(bundle):
    """The headers with which the first client calls."""
    return headers_of(bundle.key)


def closed_ports():
    """Two ports on which nobody listens."""
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        return one.getsockname()[1], two.getsockname()[1]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def programs(clock):
    """Make programs in place of ``Running``: how long the next ones live, by the names of logs."""
    Program.started = Program.ended = ()
    lives = {}

    def start(command, log, env, on_line=None):
        waiting = lives.get(log.stem, [])
        program = Program(clock, waiting.pop(0) if waiting else None, command, log, env, on_line)
        start.newest[log.stem] = program
        return program

    start.lives, start.newest = lives, {}
    return start
