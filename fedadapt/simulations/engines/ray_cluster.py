"""A Ray cluster of this run's own: on this machine only, with a token, and gone with the run.

Without further ado Ray listens on all addresses of the machine and runs the code of anybody who
reaches them. Some of its processes go on after a run that was killed.
"""

import logging
import os
import secrets
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedadapt.errors import FedadaptError, InputError, one_line

AUTHENTICATION = "RAY_AUTH_MODE"
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # no warning
}
OF_OUR_OWN = {
    AUTHENTICATION: "token",
    # Of this Ray depends whether it takes 127.0.0.1 for the address of its machine. Then all its
    # servers listen there and nowhere else.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
REAPER = Path(__file__).with_name("ray_reaper.py")

log = logging.getLogger(__name__)


class RayCluster:
    """Joins a cluster, or starts one of its own; ``leave`` undoes either."""

    def __init__(self, ray: Any, address: str) -> None:
        """Prepare to join the cluster at an address; "" stands for one of our own."""
        self._ray = ray
        self._address = address
        self._before: dict[str, str | None] = {}
        self._reaper: subprocess.Popen[bytes] | None = None
        self.is_joined = False

    def join(self, num_cpus: int | None) -> None:
        """Connect, unless this process is connected already.

        Args:
            num_cpus: Of a cluster of our own: one for each actor, however many cores there are.

        Raises:
            InputError: There is no cluster at the address.
        FedadaptError: One of our own cannot be started.

        """
        if self._ray.is_initialized():
            return
        how: dict[str, Any] = {"logging_level": logging.WARNING}
        if self._address:
            self._set({key: os.environ.get(key, value) for key, value in SETTINGS.items()})
            how |= {"address": self._address}
            if os.environ.get(AUTHENTICATION) != "token":
                log.warning(
                    "ray-address: %s runs the code of anybody who reaches it; set %s=token on its "
                    "machines and here",
                    *(self._address, AUTHENTICATION),
                )
        else:
            self._set(SETTINGS | OF_OUR_OWN | {"RAY_AUTH_TOKEN": secrets.token_hex(32)})
            self._read_again()
            how |= {"address": "local", "include_dashboard": False, "num_cpus": num_cpus}
        self.is_joined = True
        before = _descendants(os.getpid())
        try:
            self._ray.init(**how)
        except BaseException as error:  # of what has gone wrong, Ray says little by the type
            self._watch(before)
            self.leave()
            if not isinstance(error, Exception):
                raise
            raise self._trouble(error) from None
        self._watch(before)

    def leave(self) -> None:
        """Disconnect, if ``join`` has connected; a cluster of our own ends."""
        if not self.is_joined:
            return
        self.is_joined = False
        self._ray.shutdown()
        if self._reaper is not None:
            self._reaper.communicate()  # closes its input: it ends whatever is still there
            self._reaper = None
        for key, value in self._before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value
        self._before = {}
        self._read_again()

    def _watch(self, others: list[tuple[int, str]]) -> None:
        """Have the processes of a cluster of our own ended with this one.

        Args:
            others: Descendants of this process that are none of Ray's.

        """
        if not self._address:
            ours = [process for process in _descendants(os.getpid()) if process not in others]
            self._reaper = _reaper(ours)

    def _trouble(self, error: Exception) -> FedadaptError:
        words = one_line(error, 200)
        if not self._address:
            return FedadaptError(f"ray: no cluster of this run's own can be started ({words})")
        return InputError(
            f"ray-address: {self._address!r}: {words}; start a cluster with `ray start --head`, or "
            "leave it out for one of this run's own"
        )

    def _set(self, settings: Mapping[str, str]) -> None:
        self._before = {key: os.environ.get(key) for key in settings}
        os.environ.update(settings)

    def _read_again(self) -> None:
        """Have Ray read its settings now: it may have done so before they were there."""
        core, constants = self._ray._raylet, self._ray._private.ray_constants
        core.AuthenticationTokenLoader.instance().reset_cache()
        core.Config.initialize("")
        constants.ENABLE_RAY_CLUSTER = "RAY_AUTH_TOKEN" not in self._before


def _reaper(processes: list[tuple[int, str]]) -> "subprocess.Popen[bytes]":
    """Start a process that ends the given ones as soon as this one has ended."""
    reaper = subprocess.Popen(
        [sys.executable, "-I", str(REAPER)], stdin=subprocess.PIPE, start_new_session=True
    )
    assert reaper.stdin is not None
    reaper.stdin.write("".join(f"{pid} {began}\n" for pid, began in processes).encode())
    reaper.stdin.flush()
    return reaper


def _descendants(ancestor: int) -> list[tuple[int, str]]:
    """Processes that descend from one, and when each began; only Linux tells."""
    children: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = entry.read_text("utf-8", "replace").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        children[int(words[1])].append((int(entry.parent.name), words[19]))
    found, todo = [], [ancestor]
    while todo:
        here = children[todo.pop()]
        found += here
        todo += [pid for pid, _ in here]
    return found
