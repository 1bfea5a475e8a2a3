"""Upload importances only where a client's differ most from the server's.

Importance depends more on the model than on the data (De Lange et al. 2020, fig. 3), so the
server's importances are close to a user's. The server sends them down; a client sends back the
entries that are farthest from them, and their positions. All other entries are taken from the
server's, multiplied by a scale for each tensor, since the images of a user may raise all
importances of a tensor alike.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fedadapt.strategies.dua.compression import RANGE, from_log8, impossible, to_log8
from fedadapt.weights import Weights, row

VALUES = "differing"  # the entries, in log8: [D, k] uint8
PLACES = "differing/at"  # their positions: bits [D, bytes] uint8, or numbers [D, k] int32
SCALES = "differing/scale"  # client / server for the other entries: [D, tensors] float64
SHARED = "shared/"  # prefix of the names of the server's importances, sent in log8


@dataclass(frozen=True, eq=False)
class Difference:
    """A code like those in ``compression.CODES``, relative to ``shared``.

    Entries are numbered consecutively through all tensors, in the order of their names.
    """

    shared: Mapping[str, Tensor]  # importances, [...]: the same on both sides
    share: float  # of entries that travel, in (0, 1]

    @staticmethod
    def sent_down(shared: Mapping[str, Tensor]) -> Weights:
        """Encode importances [...] for sending to all clients: one byte an entry."""
        coded = to_log8({n: t.unsqueeze(0) for n, t in shared.items()})
        return {SHARED + n: t for n, t in row(coded, 0).items()}

    @staticmethod
    def received(sent: Mapping[str, Tensor], share: float) -> "Difference":
        """Make the code from what one client received; other tensors are ignored."""
        shared = {
            n.removeprefix(SHARED): t.unsqueeze(0) for n, t in sent.items() if n.startswith(SHARED)
        }
        return Difference(row(from_log8(shared), 0), share)

    def encode(self, importances: Weights) -> Weights:
        """Encode importances: ``share`` bytes an entry, and a bit or 4 ``share`` bytes as position.

        Clients are encoded one after the other, in the memory of one client beside the result.

        Args:
            importances: Tensors with the names of ``shared``, each [D, ...].

        """
        clients = range(len(importances[self._names[0]]))
        alone = [self._encoded({n: t[d] for n, t in importances.items()}) for d in clients]
        return {n: torch.stack([each[n] for each in alone]) for n in alone[0]}

    def _encoded(self, importances: Mapping[str, Tensor]) -> Weights:
        own = torch.cat([importances[n].double().flatten() for n in self._names])
        own = own.masked_fill(
            own < 0, torch.nan
        )  # otherwise the entry could be replaced by a shared one
        shared = self._flat.to(own.device)
        gap = (own - self._spread(self._usual_ratio(own, shared)) * shared).abs()
        # NaN counts as the largest difference, so it is sent and the server's check rejects it.
        at = gap.nan_to_num(torch.inf).topk(self._count).indices.sort().values
        rest = torch.ones_like(own).index_fill(0, at, 0)
        scales = _ratio(self._sums(own * rest), self._sums(shared * rest))
        values = row(to_log8({VALUES: own[at].unsqueeze(0)}), 0)
        return {**values, PLACES: self._packed(at), SCALES: scales}

    def decode(self, coded: Weights) -> Weights:
        """Decode an upload without ``validation_errors`` to float32, each tensor [D, ...]."""
        shared, at = self._flat.to(coded[SCALES].device), self._unpacked(coded[PLACES])
        flat = (self._spread(coded[SCALES].double()) * shared).float()
        values = {n: coded[n] for n in (VALUES, VALUES + RANGE)}
        flat = flat.scatter(1, at, from_log8(values)[VALUES])
        parts = flat.split(self._sizes, dim=1)
        return {
            n: part.unflatten(1, self.shared[n].shape) if self.shared[n].dim() else part[:, 0]
            for n, part in zip(self._names, parts, strict=True)
        }

    def validation_errors(self, coded: Weights) -> dict[int, str]:
        """Describe the faults of an upload by row; any client may send anything."""
        places, entries = coded[PLACES], self._flat.numel()
        if self._as_bits:
            bits = _bits(places)
            fine = (bits.sum(1) == self._count) & (bits[:, entries:].sum(1) == 0)
        else:
            fine = (places >= 0).all(1) & (places < entries).all(1)
            fine &= (places.diff(dim=1) > 0).all(1)
        reason = f"array {PLACES!r}: it must name {self._count} of {entries} entries"
        wrong = dict.fromkeys((~fine).nonzero().flatten().tolist(), reason)
        rows = fine.nonzero().flatten().tolist()
        reasons = impossible(self.decode({n: t[rows] for n, t in coded.items()}))
        return wrong | {rows[d]: why for d, why in reasons.items()}

    @cached_property
    def _names(self) -> list[str]:
        return sorted(self.shared)

    @cached_property
    def _sizes(self) -> list[int]:
        return [self.shared[n].numel() for n in self._names]

    @cached_property
    def _flat(self) -> Tensor:
        return torch.cat([self.shared[n].double().flatten() for n in self._names])

    @cached_property
    def _count(self) -> int:
        """The number of entries that travel."""
        return max(1, round(self.share * self._flat.numel()))

    @cached_property
    def _as_bits(self) -> bool:
        """Whether positions take fewer bytes as bits than as numbers."""
        return math.ceil(self._flat.numel() / 8) <= 4 * self._count

    def _sums(self, flat: Tensor) -> Tensor:
        """Sum the entries of each tensor: [..., entries] -> [..., tensors]."""
        return torch.stack([part.sum(-1) for part in flat.split(self._sizes, dim=-1)], dim=-1)

    def _usual_ratio(self, own: Tensor, shared: Tensor) -> Tensor:
        """Return the median of own / shared in each tensor; outliers do not change it."""
        ratios = (own / shared).nan_to_num(torch.nan, torch.nan).split(self._sizes)
        return torch.stack([part.nanmedian() for part in ratios]).nan_to_num(1.0)

    def _spread(self, scales: Tensor) -> Tensor:
        """Repeat a scale for each entry of its tensor: [..., tensors] -> [..., entries]."""
        sizes = torch.tensor(self._sizes, device=scales.device)
        return scales.repeat_interleave(sizes, dim=-1)

    def _packed(self, at: Tensor) -> Tensor:
        if not self._as_bits:
            return at.int()
        size = 8 * math.ceil(self._flat.numel() / 8)
        bits = torch.zeros(size, dtype=torch.uint8, device=at.device).index_fill(0, at, 1)
        return (bits.unflatten(0, (-1, 8)) << _shifts(at)).sum(1, dtype=torch.uint8)

    def _unpacked(self, places: Tensor) -> Tensor:
        """Return the numbers of the entries, ascending: [D, k]."""
        if not self._as_bits:
            return places.long()
        return _bits(places).nonzero()[:, 1].view(len(places), self._count)


def _ratio(own: Tensor, shared: Tensor) -> Tensor:
    """Return own / shared, and 1 where ``shared`` is 0."""
    return torch.where(shared > 0, own / shared.clamp(min=1e-300), 1.0)


def _shifts(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)


def _bits(places: Tensor) -> Tensor:
    """Unpack bits: [D, bytes] -> [D, 8 * bytes], each 0 or 1."""
    bits: Tensor = (places.unsqueeze(2) >> _shifts(places)) & 1
    return bits.flatten(1)
