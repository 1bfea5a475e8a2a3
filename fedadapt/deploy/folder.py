"""The folder of a deployment on the server: what lies where, and what it was made with."""

import contextlib
import json
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from fedadapt.errors import InputError
from fedadapt.files import write_atomically

SETTINGS = "deployment.toml"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
"""What a client may be called: it is a file name, and a word of tables and logs."""


@dataclass(frozen=True)
class Deployment:
    """A folder that ``fedadapt deploy init`` has made, and its settings."""

    folder: Path  # absolute
    hosts: tuple[str, ...]  # names and addresses of the server; devices use the first
    port: int  # of the guard: the only port that devices reach
    control_port: int  # of the SuperLink, on the loopback interface only

    @property
    def address(self) -> str:
        """Where devices connect to, ``host:port``."""
        host = self.hosts[0]
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def authority_key(self) -> Path:
        """The key of the certificate authority; needed only to make certificates."""
        return self.folder / "authority" / "ca.key"

    @property
    def ca_certificate(self) -> Path:
        return self.folder / "certificates" / "ca.crt"

    @property
    def certificate(self) -> Path:
        return self.folder / "certificates" / "server.pem"

    @property
    def key(self) -> Path:
        return self.folder / "certificates" / "server.key"

    @property
    def public_keys(self) -> Path:
        """Of the clients that may take part, a file each."""
        return self.folder / "keys"

    @property
    def bundles(self) -> Path:
        """What is carried to the clients; may be removed when it has been."""
        return self.folder / "bundles"

    @property
    def database(self) -> Path:
        return self.folder / "state" / "superlink.db"

    @property
    def traffic(self) -> Path:
        """What the guard has seen of each client; ``traffic.py``."""
        return self.folder / "state" / "traffic.json"

    @property
    def nodes(self) -> Path:
        """Which node of the SuperLink has which key; ``registration.py``."""
        return self.folder / "state" / "nodes.json"

    @property
    def stopped(self) -> Path:
        """Runs that were stopped: clients that compute for one of them end that."""
        return self.folder / "state" / "stopped.json"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def flower_home(self) -> Path:
        """Flower's own folder (FLWR_HOME): nothing of the user's is touched."""
        return self.folder / "flwr"

    def clients(self) -> tuple[str, ...]:
        """The names of the clients that may take part, sorted as people count."""
        return tuple(sorted((p.stem for p in self.public_keys.glob("*.pub")), key=natural))

    def save(self) -> None:
        settings = {
            "hosts": list(self.hosts),
            "port": self.port,
            "control-port": self.control_port,
        }
        write_atomically(self.folder / SETTINGS, tomli_w.dumps(settings).encode(), mode=0o600)

    def make_folders(self) -> None:
        """Make what is missing; readable by the owner only."""
        private(self.folder)
        for path in (
            self.authority_key.parent,
            self.ca_certificate.parent,
            self.public_keys,
            self.bundles,
            self.database.parent,
            self.runs,
            self.logs,
            self.flower_home,
        ):
            private(path)

    @staticmethod
    def read(folder: Path) -> "Deployment":
        """Open a deployment.

        Raises:
            InputError: the folder is not one, or its settings are damaged.

        """
        path = folder / SETTINGS
        if not path.is_file():
            raise InputError(
                f"{folder}: no deployment ({SETTINGS} is not there); make one with: "
                f"fedadapt deploy init {folder} --host NAME"
            )
        try:
            settings = tomllib.loads(path.read_text("utf-8"))
            hosts, port, control = (settings[k] for k in ("hosts", "port", "control-port"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{path}: {error}") from None
        except KeyError as error:
            raise InputError(f"{path}: has no {error.args[0]}") from None
        if not (isinstance(hosts, list) and hosts and all(isinstance(h, str) for h in hosts)):
            raise InputError(f"{path}: hosts is {hosts!r}; a list of names is needed")
        for name, value in (("port", port), ("control-port", control)):
            if type(value) is not int or not 1 <= value <= 65_535:
                raise InputError(f"{path}: {name} is {value!r}; a number from 1 to 65535 is needed")
        return Deployment(folder.resolve(), tuple(hosts), port, control)


def private(folder: Path) -> Path:
    """Make a folder that its owner only can read."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key by which client-10 comes after client-9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def check_name(name: str) -> str:
    """The name, if a client may be called so.

    Raises:
        InputError: it may not.

    """
    if not NAME.fullmatch(name):
        raise InputError(
            f"client {name!r}: a name has 1 to 40 letters, digits, - and _, and begins with a "
            "letter or digit"
        )
    return name


@contextlib.contextmanager
def only_one(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock file for as long as this process lives, however it ends.

    Raises:
        InputError: another process holds it; ``what`` says what is running already.

    """
    import fcntl

    with lock.open("a+") as file:
        lock.chmod(0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise InputError(f"{what} (process {holder}); stop it first") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def read_json(path: Path) -> dict[str, object]:
    """What a file of ours holds; {} where it is missing or damaged."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
