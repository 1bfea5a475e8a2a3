"""Programs of Flower, started so that they find each other, leave the user's files alone and end.

Each writes to a log file of its own, which never grows beyond two files of a few megabytes. On
Linux a program ends when the process that started it is killed.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fedadapt.errors import InputError

LARGEST_LOG = 8 * 1024 * 1024  # bytes; then the log is begun anew and the old one kept as .1
END_WITHIN = 15.0  # seconds between asking a program to end and ending it

TASK_POLL = "0.2"
"""Seconds between looks of Flower's executor for work (its default is 1)."""


def program(name: str) -> str:
    """The path of a command that came with a package, beside this Python or on the path.

    Raises:
        InputError: it is not installed.

    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise InputError(f"{name} is not installed; run pip install flwr")
    return found


def module_command(name: str, *words: str) -> list[str]:
    """The command that runs a module with this Python."""
    return [sys.executable, "-m", name, *words]


def environment(flower_home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What Flower's programs are started with: their own home, no telemetry, no installing."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": TASK_POLL,
        **os.environ,
        "PATH": path,
        "FLWR_HOME": str(flower_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        **(extra or {}),
    }


class Running:
    """One program and everything it starts; its output goes to a log, line by line."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        env: Mapping[str, str],
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self._log = log
        self._on_line = on_line
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=log.parent,  # not where the caller is: Python would import what lies there
            umask=0o077,
            start_new_session=True,  # Ctrl-C is for us; what it starts is in its group
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        code = self._process.poll()
        if code is not None:
            self._reader.join(timeout=1.0)  # its last words
        return code

    def end(self) -> None:
        """Ask it to end, and end it with all that it has started if it does not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_WITHIN)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(timeout=1.0)

    def _read(self) -> None:
        assert self._process.stdout is not None
        file = _opened(self._log)
        with self._process.stdout as lines:
            for line in lines:
                file.write(line)
                file.flush()
                if file.tell() > LARGEST_LOG:
                    file.close()
                    self._log.replace(self._log.with_suffix(".log.1"))
                    file = _opened(self._log)
                if self._on_line is not None:
                    self._on_line(line.decode("utf-8", "replace").rstrip())
        file.close()


def _opened(path: Path):  # type: ignore[no-untyped-def]  # a buffered binary file
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600))


def _end_with_parent() -> None:
    """In the new process: be asked to end when the thread that started it is gone."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
