"""What a client keeps between rounds, on its own disk: its personal model, its statistics.

Flower forgets a node's state when the node restarts. A store is found again by experiment and
client, and remembers a few rounds, so that a server which fell back to an earlier round gets the
same answer as the first time.
"""

import hashlib
import json
import re
from pathlib import Path
from urllib.parse import quote, unquote

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedadapt.errors import InputError
from fedadapt.files import write_atomically
from fedadapt.weights import Weights

FORMAT = 1
KEEP = 3  # a server keeps two checkpoints, and a third round may be under way


class ClientStateStore:
    """The parts one client keeps in one experiment; one process at a time writes to it.

    Files are ``<folder>/<experiment>/<client>/round-<number>.safetensors``, readable by their owner
    only, written atomically.
    """

    def __init__(self, folder: Path, experiment: str, client: str) -> None:
        """Find the client's place; nothing is written yet.

        Args:
            folder: the client's state folder.
            experiment: the same as long as the client is to find again what it kept.
            client: what stays the same when the client restarts: its key's fingerprint, its number.
        """
        self.folder = folder / _file_name("experiment", experiment) / _file_name("client", client)

    def load(self, before: int | None = None) -> dict[str, Weights]:
        """Part name -> weights of this client as last saved; {} if nothing was.

        Args:
            before: as it was before this round, for a round that is computed again.

        Raises:
            InputError: the file is damaged, of a newer format, or older than what is remembered.
        """
        rounds = self._rounds()
        usable = [r for r in rounds if before is None or r < before]
        if usable:
            return _read(self._path(usable[-1]))[0]
        if rounds and _read(self._path(rounds[0]))[1] is not None:
            raise InputError(
                f"{self.folder}: nothing kept before round {before}, what is remembered begins at "
                f"round {rounds[0]}; remove the folder to start this client afresh"
            )
        return {}

    def save(self, states: dict[str, Weights], round: int) -> None:
        """Keep ``states`` as the state after ``round``; saving it again changes nothing.

        Rounds after ``round`` are forgotten: the server has gone back to before them.
        """
        self.make()
        earlier = [r for r in self._rounds() if r < round]
        content = _encode(states, round, earlier[-1] if earlier else None)
        write_atomically(self._path(round), content, mode=0o600)
        remembered = {*earlier[-(KEEP - 1) :], round}
        for r in self._rounds():
            if r not in remembered:
                self._path(r).unlink()
        for unfinished in self.folder.glob(".*.tmp"):  # of a crash: there is no other writer
            unfinished.unlink()

    def make(self) -> Path:
        """The client's folder, made if need be; readable by its owner only."""
        _make_private(self.folder.parent)
        _make_private(self.folder)
        return self.folder

    def _path(self, round: int) -> Path:
        return self.folder / f"round-{round:08d}.safetensors"

    def _rounds(self) -> list[int]:
        matches = (
            re.fullmatch(r"round-(\d{8,})", p.stem) for p in self.folder.glob("*.safetensors")
        )
        return sorted(int(match[1]) for match in matches if match)


def _file_name(what: str, text: str) -> str:
    """``text`` as one path component that is neither ``..`` nor hidden, one for each text."""
    name = f"{what}-{quote(text, safe='')}"
    if not text or len(name) > 200:
        raise InputError(f"{what}: {text[:40]!r} is empty or too long; 1 to about 190 characters")
    return name


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def _encode(states: dict[str, Weights], round: int, previous: int | None) -> bytes:
    """One safetensors file; names are ``part/array``, where the part has no slash of its own."""
    tensors = {
        f"{quote(part, safe='')}/{name}": tensor.detach().cpu().contiguous().clone()
        for part, weights in states.items()
        for name, tensor in weights.items()
    }
    # The order of the names is kept as well: sums over them depend on it in the last bit.
    metadata = {"parts": list(states), "names": list(tensors), "round": round, "previous": previous}
    text = json.dumps({"format": FORMAT, "facts": metadata, "sha256": _digest(tensors, metadata)})
    return save(tensors, {"fedadapt": text})


def _read(path: Path) -> tuple[dict[str, Weights], int | None]:
    """The parts in a file, and the round of the state that they replaced (None: the first)."""
    try:
        data = path.read_bytes()
        header_size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + header_size])
        about = json.loads(header["__metadata__"]["fedadapt"])
        if about["format"] != FORMAT:
            raise InputError(f"{path}: format {about['format']}; this fedadapt reads {FORMAT}")
        tensors = load(data)
        if _digest(tensors, about["facts"]) != about["sha256"]:
            raise ValueError("its content is not what was written")
        metadata = about["facts"]
        states: dict[str, Weights] = {part: {} for part in metadata["parts"]}
        for key in metadata["names"]:
            part, _, name = key.partition("/")
            states[unquote(part)][name] = tensors[key]
        return states, metadata["previous"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path}: damaged, {what}; remove the file to fall back to an earlier round"
        ) from None


def _digest(tensors: dict[str, Tensor], metadata: dict[str, object]) -> str:
    """A hash of all that matters: the facts, and every tensor with its name, type and shape."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
