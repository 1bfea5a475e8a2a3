"""What a process runs: versions, and a hash of the code of fedadapt."""

from functools import cache
from hashlib import sha256
from pathlib import Path

import flwr
import torch
from torch import nn

import fedadapt
from fedadapt.messages import Config


@cache
def software() -> Config:
    """The versions of this process; of Flower what must agree, major and minor."""
    return {
        "version": fedadapt.__version__,
        "code": code_hash(Path(fedadapt.__file__).parent),
        "flwr": ".".join(flwr.__version__.split(".")[:2]),
        "torch": torch.__version__,
    }


def code_hash(folder: Path) -> str:
    """A hash of all Python files below a folder, and of where they are in it; 16 digits."""
    digest = sha256()
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).parts):
        name = "/".join(path.relative_to(folder).parts)
        content = path.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def network_facts(model: nn.Module) -> Config:
    """Hashes of a network: of its tensors' names, shapes and types, and of its initial weights."""
    shape, start = sha256(), sha256()
    for name, tensor in model.state_dict().items():
        line = f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode()
        shape.update(line)
        start.update(line)
        start.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return {"network": shape.hexdigest()[:16], "initial": start.hexdigest()[:16]}


def differences(theirs: Config) -> tuple[list[str], list[str]]:
    """What a client runs other than this process: what forbids that it takes part; what does not.

    Args:
        theirs: What the client says of itself.

    """
    ours = software()
    words = {"version": "fedadapt", "code": "code of fedadapt", "flwr": "flwr", "torch": "torch"}
    forbidding: list[str] = []
    told: list[str] = []
    for key, name in words.items():
        if theirs.get(key) != ours[key]:
            said = str(theirs.get(key, "nothing"))[:40]
            line = f"{name} {said!r}, the server {ours[key]!r}"
            (told if key == "torch" else forbidding).append(line)
    return forbidding, told
