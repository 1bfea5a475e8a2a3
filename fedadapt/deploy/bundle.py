"""What is carried to a client on a stick: one small file with its key and the server's address.

A tar file keeps the modes of what is inside on a stick that has none. It holds the certificate of
the deployment's authority, the client's private key and ``client.toml``; nothing else is read.
"""

import io
import tarfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from fedadapt import __version__
from fedadapt.deploy.certificates import load_client_key
from fedadapt.deploy.folder import check_name, private
from fedadapt.errors import InputError
from fedadapt.files import write_atomically

SETTINGS, CA, KEY = "client.toml", "ca.crt", "client.key"
LARGEST = 64 * 1024  # bytes of a file in a bundle


@dataclass(frozen=True)
class Bundle:
    """A client's identity, unpacked in a folder of its own."""

    folder: Path
    name: str
    server: str  # host:port
    flwr: str  # the server's version when the bundle was made

    @property
    def ca_certificate(self) -> Path:
        return self.folder / CA

    @property
    def key(self) -> Path:
        return self.folder / KEY

    @property
    def host(self) -> str:
        return self.server.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.server.rpartition(":")[2])


def write_bundle(path: Path, name: str, server: str, ca_certificate: bytes, key: bytes) -> None:
    """Write a client's bundle, readable by its owner only."""
    from importlib.metadata import version

    settings = {"name": name, "server": server, "fedadapt": __version__, "flwr": version("flwr")}
    files = {SETTINGS: tomli_w.dumps(settings).encode(), CA: ca_certificate, KEY: key}
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for member, data in files.items():
            info = tarfile.TarInfo(f"{name}/{member}")
            info.size, info.mode = len(data), 0o600
            archive.addfile(info, io.BytesIO(data))
    write_atomically(path, content.getvalue(), mode=0o600)


def open_bundle(path: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """The settings and the files of a bundle: a tar file, or a folder with the same files.

    Raises:
        InputError: something is missing, damaged, or too large.

    """
    files = _from_folder(path) if path.is_dir() else _from_tar(path)
    for member in (SETTINGS, CA, KEY):
        if member not in files:
            raise InputError(f"{path}: no bundle of a client, {member} is missing")
    try:
        settings = tomllib.loads(files[SETTINGS].decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: {SETTINGS}: {error}") from None
    for word in ("name", "server", "fedadapt", "flwr"):
        if not isinstance(settings.get(word), str):
            raise InputError(f"{path}: {SETTINGS} has no {word}")
    check_name(settings["name"])
    host, _, port = settings["server"].rpartition(":")
    if not host or not port.isdigit() or not 1 <= int(port) <= 65_535:
        raise InputError(f"{path}: the server's address {settings['server']!r} is not host:port")
    return settings, files


def install(path: Path, folder: Path) -> Bundle:
    """Unpack a bundle into ``folder``, private to its owner; the same bundle again is no harm.

    The public key is written beside the private one.

    Raises:
        InputError: the bundle is damaged, or the folder belongs to another client.

    """
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    settings, files = open_bundle(path)
    old = folder / KEY
    if old.is_file() and old.read_bytes() != files[KEY]:
        raise InputError(
            f"{folder}: holds the key of another client; choose another --home, or remove this "
            "one with: fedadapt deploy forget"
        )
    private(folder)
    for member in (SETTINGS, CA, KEY):
        write_atomically(folder / member, files[member], mode=0o600)
    public = load_client_key(old).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    write_atomically(folder / f"{KEY}.pub", public + b"\n", mode=0o600)
    return Bundle(folder, settings["name"], settings["server"], settings["flwr"])


def _from_folder(path: Path) -> dict[str, bytes]:
    files = {}
    for member in (SETTINGS, CA, KEY):
        file = path / member
        if file.is_file():
            if file.stat().st_size > LARGEST:
                raise InputError(f"{file}: larger than {LARGEST} bytes; not of a bundle")
            files[member] = file.read_bytes()
    return files


def _from_tar(path: Path) -> dict[str, bytes]:
    """The members by their last name: whatever else an archive names is not touched."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; a bundle is made by fedadapt deploy init")
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path, mode="r:") as archive:
            for info in archive:
                member = info.name.rpartition("/")[2]
                if member not in (SETTINGS, CA, KEY):
                    continue
                if not info.isfile() or info.size > LARGEST or member in files:
                    raise InputError(f"{path}: {info.name} is not as in a bundle")
                content = archive.extractfile(info)
                assert content is not None  # it is a file
                files[member] = content.read(LARGEST)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{path}: no bundle of a client ({error})") from None
    return files
