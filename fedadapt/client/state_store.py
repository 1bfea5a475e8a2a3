"""What a client keeps between rounds, on its own disk: its personal model, its statistics.

Flower forgets a node's state when the node restarts. A store is found again by experiment and
client, and remembers a few rounds, so that a server which fell back to an earlier round gets the
same answer as the first time.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedadapt.client.differential_privacy import KEPT
from fedadapt.errors import InputError
from fedadapt.files import write_atomically
from fedadapt.weights import Weights

FORMAT = 1
KEEP = 3  # rounds: a server keeps two checkpoints, and a third round may be under way
APART = (KEPT,)  # parts of what was told: they stay as they are when a server goes back
ATTEMPT = "attempt"


class ClientStateStore:
    """The parts one client keeps in one experiment; one process at a time writes to it.

    Files are ``<folder>/<experiment>/<client>/round-<number>-<step>-<action>.safetensors``,
    readable by their owner only, written atomically: what the client kept after each exchange of
    the last rounds. What was told to the server cannot be taken back by going back: the parts in
    ``APART`` are in ``apart.safetensors``, the same for all rounds.
    """

    def __init__(self, folder: Path, experiment: str, client: str) -> None:
        """Find the client's place; nothing is written yet.

        Args:
            folder: the client's state folder.
            experiment: the same as long as the client is to find again what it kept.
            client: what stays the same when the client restarts: its key's fingerprint, its number.
        """
        self.folder = folder / _file_name("experiment", experiment) / _file_name("client", client)

    def begin(self, attempt: int, *, after: int) -> None:
        """Forget what was kept after a round, once for each attempt of the server to go on.

        Args:
            attempt: Counts the starts of the server; later ones are larger.
            after: The round that the server goes on after.

        Raises:
            InputError: What was kept then is no longer remembered.

        """
        if attempt <= self._attempt():
            return
        exchanges = self._exchanges()
        if exchanges and exchanges[0].round > after:
            self._refuse_forgotten(exchanges[0], after + 1)
        for exchange in reversed(exchanges):  # a crash meanwhile leaves the earlier ones
            if exchange.round > after:
                exchange.path.unlink()
        if attempt > 1:
            write_atomically(self.make() / ATTEMPT, str(attempt).encode(), mode=0o600)

    def load(self, round: int | None = None, action: str = "train") -> dict[str, Weights]:
        """Part name -> weights of this client as last saved; {} if nothing was.

        Args:
            round: as it was before this exchange, should it be done again.
            action: of the exchange: a message type.

        Raises:
            InputError: the file is damaged, of a newer format, or older than what is remembered.
        """
        exchanges = self._exchanges()
        usable = exchanges if round is None else _before(exchanges, round, action)
        apart = _read(self._apart)[0] if self._apart.exists() else {}
        if usable:
            return _read(usable[-1].path)[0] | apart
        if exchanges:
            self._refuse_forgotten(exchanges[0], round)
        return apart

    def save(self, states: dict[str, Weights], round: int, action: str = "train") -> None:
        """Keep ``states`` as the state after an exchange; saving it again changes nothing.

        Later exchanges are forgotten: the server has gone back to before them.
        """
        self.make()
        apart = {part: weights for part, weights in states.items() if part in APART}
        if apart:
            write_atomically(self._apart, _encode(apart, 0, None), mode=0o600)
        states = {part: weights for part, weights in states.items() if part not in APART}
        earlier = _before(self._exchanges(), round, action)
        step = sum(exchange.round == round for exchange in earlier)
        content = _encode(states, round, earlier[-1].round if earlier else None)
        path = self.folder / f"round-{round:08d}-{step}-{quote(action, safe='')}.safetensors"
        write_atomically(path, content, mode=0o600)
        rounds = sorted({exchange.round for exchange in earlier} | {round})[-KEEP:]
        kept = {exchange.path for exchange in earlier if exchange.round in rounds} | {path}
        for exchange in self._exchanges():
            if exchange.path not in kept:
                exchange.path.unlink()
        for unfinished in self.folder.glob(".*.tmp"):  # of a crash: there is no other writer
            unfinished.unlink()

    def make(self) -> Path:
        """The client's folder, made if need be; readable by its owner only."""
        _make_private(self.folder.parent)
        _make_private(self.folder)
        return self.folder

    @property
    def _apart(self) -> Path:
        return self.folder / "apart.safetensors"

    def _refuse_forgotten(self, first: "_Exchange", round: int | None) -> None:
        """Refuse to begin afresh where something was kept before the first that is remembered."""
        if _read(first.path)[1] is not None:
            raise InputError(
                f"{self.folder}: nothing kept before round {round}, what is remembered begins at "
                f"round {first.round}; remove the folder to start this client afresh"
            )

    def _attempt(self) -> int:
        try:
            return int((self.folder / ATTEMPT).read_text("ascii"))
        except (OSError, ValueError):
            return 1

    def _exchanges(self) -> "list[_Exchange]":
        """The exchanges that are remembered, in their order."""
        found = []
        for path in self.folder.glob("round-*.safetensors"):
            match = re.fullmatch(r"round-(\d{8,})-(\d+)-(.+)", path.stem)
            if match:
                found.append(_Exchange(int(match[1]), int(match[2]), unquote(match[3]), path))
        return sorted(found)


class _Exchange(NamedTuple):
    """After which a client kept something."""

    round: int
    step: int  # of those of the round
    action: str
    path: Path


def _before(exchanges: "list[_Exchange]", round: int, action: str) -> "list[_Exchange]":
    """Those before an exchange, whether it is done for the first time or again."""
    for at, exchange in enumerate(exchanges):
        again = (exchange.round, exchange.action) == (round, action)
        if again or exchange.round > round:
            return exchanges[:at]
    return exchanges


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
