"""How well groups that were found agree with the kinds of devices there are."""

from collections.abc import Mapping, Sequence

from fedadapt.strategies.base import Facts


def compared(facts: Mapping[str, object], kinds: Sequence[str]) -> Facts:
    """The kinds of the grouped devices and the adjusted Rand index, where there are labels.

    Hubert & Arabie 1985: 1 for the same partition, about 0 for a random one.
    """
    if "labels" not in facts:
        return {}
    from sklearn.metrics import adjusted_rand_score

    mine = [kinds[d] for d in facts["devices"]]  # type: ignore[attr-defined]
    index = float(adjusted_rand_score(mine, facts["labels"]))
    return {"kinds": mine, "adjusted_rand_index": index}
