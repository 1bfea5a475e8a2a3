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
    vectors: NDArray[np.float64]  # [n, q]; q is 0 where groups are random

    @property
    def num_groups(self) -> int:
        return len(np.unique(self.labels))

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
                vectors=np.array(metadata["vectors"], dtype=np.float64).reshape(count, -1),
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


def as_text(groups: FoundGroups) -> str:
    """Return one line: how many groups of how many clients, since which round, and how good."""
    count, clients = groups.num_groups, len(groups.clients)
    how = "drawn at random" if groups.method == "random" else "found by sparsity"
    said = f"{count} group{'s' * (count != 1)} of {clients} clients, {how}, from round "
    parts = [f"{said}{groups.round} on"]
    if groups.quality is not None:
        parts.append(f"silhouette {groups.quality:.2f}")
    if groups.agreement is not None:
        parts.append(f"adjusted Rand index {groups.agreement:.2f} against the kinds")
    return "; ".join(parts)
