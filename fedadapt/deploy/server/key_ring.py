"""Which clients may take part: the public keys in a folder, looked up by what a request carries."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from fedadapt.deploy.certificates import load_public_key, public_bytes
from fedadapt.errors import InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

LOOK_EVERY = 1.0  # seconds between looks for keys that were added or taken away


class KeyRing:
    """The keys of the clients, read again when the folder has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[bytes, str] = {}
        self._keys: dict[str, ec.EllipticCurvePublicKey] = {}
        self._files: tuple[tuple[str, int], ...] | None = None
        self._looked = 0.0

    def name_of(self, public_key: bytes) -> str | None:
        """The client with this key (PEM), or None."""
        self._look()
        return self._names.get(public_key)

    def signed(self, name: str, text: str, signature: bytes) -> bool:
        """Whether the client ``name`` has signed ``text``."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        try:
            self._keys[name].verify(signature, text.encode("ascii"), ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, KeyError, UnicodeEncodeError):
            return False
        return True

    def _look(self) -> None:
        now = time.monotonic()
        if self._files is not None and now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        paths = sorted(self._folder.glob("*.pub"))
        files = tuple((path.name, path.stat().st_mtime_ns) for path in paths if path.is_file())
        if files == self._files:
            return
        keys = {}
        for path in paths:
            try:
                keys[path.stem] = load_public_key(path)
            except InputError:  # is being written, or was taken away: not a key
                continue
        self._keys, self._files = keys, files
        self._names = {public_bytes(key): name for name, key in keys.items()}
