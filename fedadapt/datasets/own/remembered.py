"""The cut as it is remembered on the device: one file, with a hash of its own."""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from fedadapt.datasets.own.cut import SIDES, Known, Shares
from fedadapt.datasets.own.looks import BITS, Look
from fedadapt.errors import InputError
from fedadapt.files import write_atomically

FORMAT = 1
FILE = "cut.json"


def read_cut(folder: Path, shares: Shares) -> tuple[dict[str, Known], Shares]:
    """What was decided before, and for which shares; nothing and ``shares`` at the first time.

    Raises:
        InputError: The file is damaged, or of a newer version.

    """
    path = folder / FILE
    if not path.exists():
        return {}, shares
    try:
        document = json.loads(path.read_text("utf-8"))
        content = document["content"]
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']}, this fedadapt reads {FORMAT}")
        if _digest(content) != document["sha256"]:
            raise ValueError("its content is not what was written")
        known = {
            digest: Known(Look(digest, bytes.fromhex(bits), taken, scene), side)
            for digest, (side, bits, taken, scene) in content["pictures"].items()
        }
        if any(
            k.side not in SIDES or len(k.look.bits) * 8 not in (0, BITS) for k in known.values()
        ):
            raise ValueError("it has a side or a look that there is not")
        return known, Shares(float(content["adapt"]), float(content["test"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: damaged ({error}); without it nobody knows which pictures are for the test: "
            "bring it back from a copy, or remove it together with the models of this device"
        ) from None


def write_cut(folder: Path, known: Mapping[str, Known], shares: Shares) -> None:
    """Remember what was decided."""
    content = _content(known, shares)
    text = json.dumps({"content": content, "sha256": _digest(content)}, indent=0)
    write_atomically(folder / FILE, text.encode(), mode=0o600)


def cut_digest(known: Mapping[str, Known], shares: Shares) -> str:
    """A hash that changes with any decision; it is the one that is written with them."""
    return _digest(_content(known, shares))


def _content(known: Mapping[str, Known], shares: Shares) -> dict[str, object]:
    return {
        "format": FORMAT,
        "adapt": shares.adapt,
        "test": shares.test,
        "pictures": {
            digest: [k.side, k.look.bits.hex(), k.look.taken, k.look.scene]
            for digest, k in sorted(known.items())
        },
    }


def _digest(content: object) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
