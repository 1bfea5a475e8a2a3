"""Who a client is: the fingerprint of its node key, or of a secret that it made itself once."""

import base64
import binascii
import os
import re
import secrets
from hashlib import sha256
from pathlib import Path

from fedadapt.errors import RefusedError, shown

FILE = "identity"
SHORT = 8  # characters of a fingerprint that people read
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


def is_fingerprint(text: object) -> bool:
    """Whether it is the SHA-256 of a key, 64 hexadecimal digits."""
    return isinstance(text, str) and _FINGERPRINT.fullmatch(text) is not None


def fingerprint_of(key: Path) -> str:
    """The fingerprint of an OpenSSH key: what ``ssh-keygen -lf`` prints, in hexadecimal.

    Args:
        key: The file of the public key, or that of the private key beside ``<key>.pub``.

    Raises:
        RefusedError: There is no public key.

    """
    path = key if key.suffix == ".pub" else key.with_name(f"{key.name}.pub")
    try:
        words = path.read_text("ascii").split()
        return sha256(base64.b64decode(words[1], validate=True)).hexdigest()
    except (OSError, ValueError, IndexError, binascii.Error) as error:
        raise RefusedError(
            "bad-settings",
            f"key: {shown(path)} is no public key of OpenSSH ({type(error).__name__}); name that "
            "with which the node registers",
        ) from None


def own_identity(state: Path) -> str:
    """The identity of a client without a key, made at its first start and kept in its state folder.

    Raises:
        RefusedError: The file is damaged, or the folder cannot be written to.

    """
    path = state / FILE
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = state / f".{FILE}.{secrets.token_hex(6)}.tmp"
        if not path.exists():
            new.write_text(secrets.token_hex(32))
            new.chmod(0o600)
            try:
                os.link(new, path)  # of two processes that start at once, one is first
            except FileExistsError:
                pass
            finally:
                new.unlink()
        text = path.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise RefusedError("no-state-dir", f"state-dir: {shown(state)}: {error}") from None
    if not is_fingerprint(text):
        raise RefusedError(
            "bad-settings", f"{path}: is not what was written; bring it back from a copy"
        )
    return sha256(text.encode()).hexdigest()
