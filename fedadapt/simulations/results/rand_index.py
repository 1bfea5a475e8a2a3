"""Agreement of the groups that were found with the kinds of clients that there are."""

from collections.abc import Mapping, Sequence

from fedadapt.strategies.base import Metadata


def compared(metadata: Mapping[str, object], kinds: Sequence[str]) -> Metadata:
    """Return the kinds of the grouped clients and the adjusted Rand index.

    The result is empty where ``metadata`` has no ``labels``. The index (Hubert & Arabie 1985) is
    1 if groups and kinds are the same partition, and about 0 for a random one.

    Args:
        metadata: Of a strategy: ``clients``, those that have a group, and ``labels``, their groups
            in the same order. A client that has not answered yet is in neither.
        kinds: Of all clients, by client number.

    """
    if "labels" not in metadata:
        return {}
    from sklearn.metrics import adjusted_rand_score

    grouped_kinds = [kinds[client] for client in metadata["clients"]]  # type: ignore[attr-defined]
    index = float(adjusted_rand_score(grouped_kinds, metadata["labels"]))
    return {"kinds": grouped_kinds, "adjusted_rand_index": index}
