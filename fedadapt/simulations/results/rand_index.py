"""How well groups that were found agree with the kinds of clients there are."""

from collections.abc import Mapping, Sequence

from fedadapt.strategies.base import Metadata


def compared(metadata: Mapping[str, object], kinds: Sequence[str]) -> Metadata:
    """The kinds of the grouped clients and the adjusted Rand index, where there are labels.

    Hubert & Arabie 1985: 1 for the same partition, about 0 for a random one.
    """
    if "labels" not in metadata:
        return {}
    from sklearn.metrics import adjusted_rand_score

    mine = [kinds[d] for d in metadata["clients"]]  # type: ignore[attr-defined]
    index = float(adjusted_rand_score(mine, metadata["labels"]))
    return {"kinds": mine, "adjusted_rand_index": index}
