"""A deployment under test: server and clients as processes, started by the commands of the docs."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from fedadapt.deploy.folder import Deployment
from fedadapt.deploy.server.traffic import read_traffic

TESTS = Path(__file__).parent
PICTURES = "canary-of-a-path"
CONNECTED_WITHIN = 240.0  # seconds, on a machine that is busy with other things


class Machines:
    """One server and its clients, each a process of this machine; all end with the test.

    Clients reach the guard through ``recorder.py``, which writes down what they send. Each has its
    pictures in ``<folder>/<PICTURES>/<name>`` and allows the strategies of ``poison.py``.
    """

    def __init__(self, folder: Path, clients: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        quick = TESTS / "deployment" / "quick"
        paths = [str(quick), str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OMP_NUM_THREADS": "1",
            "HOME": str(folder / "home"),
        }
        for name in ("home", "tape"):
            (folder / name).mkdir()
        port, control_port, self.recorder_port = free_ports(3)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._starts: Counter[str] = Counter()
        code, said = self.deploy(
            "init", self.server, "--host", "localhost", "--clients", clients,
            "--port", self.recorder_port, "--control-port", control_port,
        )  # fmt: skip
        assert code == 0, said
        # The bundles lead to the recorder, and the guard listens elsewhere.
        self.deployment = replace(Deployment.read(self.server), port=port)
        self.deployment.save()

    @property
    def server(self) -> Path:
        return self.folder / "server"

    def home(self, client: str) -> Path:
        return self.folder / "clients" / client

    def deploy(self, *words: object, timeout: float = 900) -> tuple[int, str]:
        """Run a command to its end; exit code and all that it said."""
        done = subprocess.run(
            self.command(*words), env=self.environment, cwd=self.folder, text=True, timeout=timeout,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    def command(self, *words: object) -> list[str]:
        return [sys.executable, "-m", "fedadapt", "deploy", *map(str, words)]

    def start(self, name: str, *words: object) -> None:
        """Start a command of ``deploy`` that does not end."""
        self._start(name, self.command(*words))

    def _start(self, name: str, command: list[str]) -> None:
        """Start a process; what it says is in ``<name>.out``."""
        environment = self.environment | {"POISONED_AS": name, "POISON": str(self.folder)}
        self._starts[name] += 1
        with (self.folder / f"{name}.out").open("ab") as out:
            self.processes[name] = subprocess.Popen(
                command, env=environment, cwd=self.folder, stdout=out, stderr=subprocess.STDOUT
            )

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.out").read_text()

    def start_server(self) -> None:
        self.start("server", "server", self.server, "--listen", "127.0.0.1")
        self.wait(lambda: self.said("server").count("server is up"), "a server")
        words = [self.server, self.recorder_port, self.folder / "tape"]
        self._start("recorder", [sys.executable, str(TESTS / "recorder.py"), *map(str, words)])

    def pictures(self, client: str) -> Path:
        return self.folder / PICTURES / client

    def start_client(self, name: str, *words: object) -> None:
        self.start(
            name, "client", self.deployment.bundles / f"{name}.tar", "--home", self.home(name),
            "--images", self.pictures(name), "--node-config", 'modules="poison"', "--wait", *words,
        )  # fmt: skip

    def wait_connected(self, *names: str) -> None:
        """Until the guard has heard of each in the last seconds, and each can compute."""

        def all_there() -> bool:
            seen = read_traffic(self.deployment.traffic)
            return all(
                name in seen
                and seen[name].connected
                and self.said(name).count(" is connected to ") >= self._starts[name]
                and self.log(name).count("ready\n") >= self._starts[name]
                for name in names
            )

        self.wait(all_there, f"{', '.join(names)} to connect")

    def log(self, client: str) -> str:
        """What the answers of a client have logged, all of its life."""
        return (self.home(client) / "logs" / "client.log").read_text()

    def wait(self, condition, what: str, seconds: float = CONNECTED_WITHIN) -> None:
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(FileNotFoundError):
                if condition():
                    return
            for name, process in self.processes.items():
                assert process.poll() is None, f"{name} ended: {self.said(name)}"
            assert time.monotonic() < deadline, f"no {what} after {seconds:g} s"
            time.sleep(0.2)

    def kill(self, name: str) -> None:
        """As a power cut: the supervisor and all below it, at once."""
        process = self.processes.pop(name)
        for pid in [process.pid, *descendants(process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def end(self, name: str) -> None:
        """As Ctrl-C."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            self.processes[name] = process
            self.kill(name)
            raise

    def end_all(self) -> None:
        clients = [name for name in self.processes if name not in ("recorder", "server")]
        for name in (*clients, "recorder", "server"):
            with contextlib.suppress(KeyError, subprocess.TimeoutExpired):
                self.end(name)

    def pid_of(self, name: str, word: str) -> int:
        """The process below ``name`` that has ``word`` in its command line."""
        for pid in descendants(self.processes[name].pid):
            with contextlib.suppress(FileNotFoundError):
                if word in Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " "):
                    return pid
        raise AssertionError(f"no process of {name} has {word!r} in its command line")

    def children_of_executor(self, name: str) -> list[int]:
        """The processes that compute an answer on a client just now."""
        return descendants(self.pid_of(name, "device_executor"))


def descendants(pid: int) -> list[int]:
    """All processes below one, parents before children."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            words = entry.read_text().rpartition(")")[2].split()
            children.setdefault(int(words[1]), []).append(int(entry.parent.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
