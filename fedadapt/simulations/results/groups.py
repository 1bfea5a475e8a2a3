"""``groups.json``: the groups of clients, how they were made, and their agreement with kinds."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

GROUPS = "groups.json"


class GroupRow(NamedTuple):
    """One group: how many clients of each kind are in it."""

    group: int  # counts from 1
    num_clients: int
    kinds: tuple[tuple[str, int], ...]  # most frequent first


@dataclass(frozen=True, eq=False)
class FoundGroups:
    """The groups of a run; clients are in ascending order in all arrays."""

    round: int  # the first one in groups; what was compared is the model before it
    method: str  # "efficient", "exact", "random"
    quality: float | None  # silhouette in [-1, 1]
    agreement: float | None  # adjusted Rand index with the kinds; None for one kind
    clients: NDArray[np.int64]  # [n]
    labels: NDArray[np.int64]  # [n], from 0
    kinds: tuple[str, ...]  # [n]
    vectors: NDArray[np.float64]  # [n, q], what clients reported; q is 0 where that is not told
    found_by: str = "sparsity"  # what was compared
    between: NDArray[np.float64] | None = None  # [n, n]: distances, where no vectors are told
    unit: str = "Euclidean distance"
    compares_layers: bool = False  # they were found by the activations of a layer

    @property
    def num_groups(self) -> int:
        return len(np.unique(self.labels))

    @property
    def how(self) -> str:
        """How the groups came about, in words."""
        return "drawn at random" if self.method == "random" else f"found by {self.found_by}"

    @property
    def has_distances(self) -> bool:
        return self.between is not None or self.vectors.size > 0

    def distances(self, order: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return those between the clients at these places, [m, m]."""
        from scipy.spatial.distance import pdist, squareform

        if self.between is not None:
            return self.between[np.ix_(order, order)]
        return squareform(pdist(self.vectors[order])) if len(order) > 1 else np.zeros((1, 1))

    @property
    def headline(self) -> dict[str, int | float | None]:
        """The entry about groups in ``summary.json``."""
        return {
            "round": self.round,
            "num_groups": self.num_groups,
            "quality": self.quality,
            "adjusted_rand_index": self.agreement,
        }

    @property
    def rows(self) -> list[GroupRow]:
        rows = []
        for label in np.unique(self.labels):
            kinds = [self.kinds[d] for d in np.flatnonzero(self.labels == label)]
            counts = sorted(Counter(kinds).items(), key=lambda pair: (-pair[1], pair[0]))
            rows.append(GroupRow(int(label) + 1, len(kinds), tuple(counts)))
        return rows

    @staticmethod
    def parse(text: str) -> "FoundGroups":
        """Read the text of ``groups.json``.

        Raises:
            ValueError: The text is not what a run writes.

        """
        try:
            metadata: dict[str, Any] = json.loads(text)
            count = len(metadata["clients"])
            kinds = tuple(map(str, metadata.get("kinds", [""] * count)))
            index = metadata.get("adjusted_rand_index")
            groups = FoundGroups(
                round=int(metadata["round"]),
                method=str(metadata.get("method", "")),
                quality=None if metadata["quality"] is None else float(metadata["quality"]),
                agreement=float(index) if index is not None and len(set(kinds)) > 1 else None,
                clients=np.array(metadata["clients"], dtype=np.int64),
                labels=np.array(metadata["labels"], dtype=np.int64),
                kinds=kinds,
                vectors=np.array(metadata.get("vectors", []), dtype=np.float64).reshape(count, -1),
                found_by=str(metadata.get("found_by", "sparsity")),
                between=_matrix(metadata.get("distances"), count),
                unit=str(metadata.get("unit", "Euclidean distance")),
                compares_layers="layer" in metadata,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no groups: {error}") from None
        if not count or not count == len(groups.labels) == len(groups.kinds):
            raise ValueError("no groups: as many labels and kinds as clients")
        return groups


def read_groups(folder: Path) -> FoundGroups | None:
    """Read the groups of a run; None where it made none.

    Raises:
        OSError, ValueError: The file cannot be read, or is damaged.

    """
    path = folder / GROUPS
    return FoundGroups.parse(path.read_text("utf-8")) if path.is_file() else None


def _matrix(rows: Any, count: int) -> NDArray[np.float64] | None:
    return None if rows is None else np.array(rows, dtype=np.float64).reshape(count, count)


def as_text(groups: FoundGroups) -> str:
    """Return one line: how many groups of how many clients, since which round, and how good."""
    count, clients = groups.num_groups, len(groups.clients)
    said = f"{count} group{'s' * (count != 1)} of {clients} clients, {groups.how}, from round "
    parts = [f"{said}{groups.round} on"]
    if groups.quality is not None:
        parts.append(f"silhouette {groups.quality:.2f}")
    if groups.agreement is not None:
        parts.append(f"adjusted Rand index {groups.agreement:.2f} against the kinds")
    return "; ".join(parts)
