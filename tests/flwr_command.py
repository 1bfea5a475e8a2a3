"""``flwr run`` with a SuperLink of its own, ended afterwards by its process id."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import tiny

Command = Callable[..., str]


def run_flower(flwr: Command, nodes: int, settings: Mapping[str, object]) -> str:
    """The app of this repository on so many nodes, to its end; settings are as in a run config.

    Returns the number that Flower gave the run.
    """
    words = [f'{k}="{v}"' if isinstance(v, str | Path) else f"{k}={v}" for k, v in settings.items()]
    federation = f"num-supernodes={nodes} client-resources-num-cpus=1"
    answer = flwr("run", str(tiny.ROOT), "local", "--federation-config", federation,
                  "--run-config", " ".join(words), "--format", "json")  # fmt: skip
    run = str(json.loads(answer)["run-id"])
    deadline = time.monotonic() + 180
    while True:
        [state] = json.loads(flwr("list", "--run-id", run, "--format", "json"))["runs"]
        if state["status"].startswith("finished"):
            break
        assert time.monotonic() < deadline, state
        time.sleep(0.5)
    assert state["status"] == "finished:completed", flwr("log", run, "--show")
    return run


@contextlib.contextmanager
def flower_command(folder: Path) -> Iterator[Command]:
    """Calls ``flwr`` with words; everything it starts is gone afterwards."""
    api, control = _free_ports(2)
    home, neutral = folder / "flwr", folder / "cwd"
    home.mkdir()
    neutral.mkdir()
    path = os.pathsep.join([str(tiny.ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": path.rstrip(os.pathsep),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(api),
        "FLWR_LOCAL_CONTROL_API_PORT": str(control),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }

    def flwr(*words: str, timeout: float = 60) -> str:
        done = subprocess.run(
            ["flwr", *words], env=environment, cwd=neutral, text=True, timeout=timeout,
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        yield flwr
    finally:
        _end(_with_word(str(api)) + _with_home(home), signal.SIGTERM)
        deadline = time.monotonic() + 10
        while (left := _with_home(home)) and time.monotonic() < deadline:
            time.sleep(0.1)
        _end(left, signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _with_word(word: str) -> list[int]:
    """Processes whose command line holds ``word``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # gone meanwhile
            if word in entry.read_bytes().decode(errors="replace").split("\0"):
                found.append(int(entry.parent.name))
    return found


def _with_home(home: Path) -> list[int]:
    """Processes that were started with this FLWR_HOME: Ray's, and others."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"FLWR_HOME={home}".encode() in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
    return [pid for pid in found if pid != os.getpid()]


def _end(processes: list[int], how: signal.Signals) -> None:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
