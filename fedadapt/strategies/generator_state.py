"""What a server knows that makes clients' tensors of codes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from torch import Tensor

from fedadapt.strategies.base import Metadata
from fedadapt.strategies.clusters import below
from fedadapt.weights import Weights

CODES = "codes"
NEW = "new"


class NewCode(NamedTuple):
    """The code of a client that never trains, which it learnt while everything else was held."""

    code: Tensor  # [c]
    memory: Weights  # of the optimiser, [1, ...]


@dataclass(frozen=True, eq=False)
class GeneratorState:
    """What the server knows."""

    start: Weights  # the initial model, [...]
    clients: tuple[int, ...]  # ascending
    generator: Weights  # [...]
    codes: Tensor  # [N, c], one a client
    generator_memory: Weights  # of the optimiser, [1, ...]
    code_memory: Weights  # the same for the codes, [N, ...]
    learnt: frozenset[int] = frozenset()  # clients whose code has learnt
    installed: frozenset[int] = frozenset()  # clients that hold what the server does not make
    new: Mapping[int, NewCode] = field(default_factory=dict)  # of clients that never train

    def code(self, client: int) -> Tensor:
        """Return the client's code, [c]; the mean code for a client that the server never met."""
        if client in self.new and client not in self.learnt:
            return self.new[client].code
        if client not in self.clients:
            return self.mean_code
        return self.codes[self.clients.index(client)]

    @property
    def mean_code(self) -> Tensor:
        """The mean over the clients whose code has learnt, or over all before the first has.

        Those that never train have no part in it.
        """
        chosen = [i for i, client in enumerate(self.clients) if client in self.learnt]
        return (self.codes[chosen] if chosen else self.codes).mean(0)

    def pack(self) -> tuple[dict[str, Tensor], Metadata]:
        """Return the state as named tensors and JSON, for a checkpoint."""
        parts = {
            "start": self.start,
            "generator": self.generator,
            "generator-memory": self.generator_memory,
            "code-memory": self.code_memory,
        }
        for client, new in self.new.items():
            parts[f"{NEW}/{client}"] = {CODES: new.code}
            parts[f"{NEW}-memory/{client}"] = new.memory
        tensors = {f"{part}/{n}": t for part, some in parts.items() for n, t in some.items()}
        return tensors | {CODES: self.codes}, {
            "clients": list(self.clients),
            "learnt": sorted(self.learnt),
            "installed": sorted(self.installed),
            "new": list(self.new),
        }

    @classmethod
    def unpack(cls, tensors: dict[str, Tensor], metadata: Metadata) -> Self:
        """Return the state that ``pack`` packed."""
        packed: dict[str, Any] = dict(metadata)
        new = {}
        for client in packed["new"]:
            code = below(tensors, f"{NEW}/{client}")[CODES].clone()
            new[client] = NewCode(code, below(tensors, f"{NEW}-memory/{client}"))
        return cls(
            start=below(tensors, "start"),
            clients=tuple(packed["clients"]),
            generator={n: t.clone() for n, t in below(tensors, "generator").items()},
            codes=tensors[CODES].clone(),
            generator_memory=below(tensors, "generator-memory"),
            code_memory=below(tensors, "code-memory"),
            learnt=frozenset(packed["learnt"]),
            installed=frozenset(packed["installed"]),
            new=new,
        )
