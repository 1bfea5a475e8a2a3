"""What a user writes as ``partition``: the rule, and whether it holds inside every domain."""

from typing import NamedTuple

from fedadapt.datasets.entries import NATURAL
from fedadapt.datasets.partitioning.label_skew import (
    ClassTypes,
    Dirichlet,
    Iid,
    LabelSkew,
    Pathological,
    Shards,
)
from fedadapt.datasets.rules import read_rule, table
from fedadapt.errors import InputError
from fedadapt.registry import Registry

BY_DOMAIN = "by-domain"

PARTITIONS = table(Iid, Dirichlet, Pathological, Shards, ClassTypes)
OTHERS = Registry("partition", "fedadapt.partitions", {})
"""Rules of installed packages, and anybody's ``module:Class``."""


class Partition(NamedTuple):
    """Who gets which images.

    Attributes:
        by_domain: Labels are spread inside every domain, else over all images.
        rule: How they are spread.
        natural: The data belong to their clients: nothing is spread.

    """

    by_domain: bool
    rule: LabelSkew
    natural: bool = False


def parse_partition(text: str) -> Partition:
    """Read ``iid``, ``dirichlet:0.3``, ``by-domain``, ``by-domain+dirichlet:0.3``, ``natural``, ...

    ``NAME`` or ``NAME:VALUE`` is also a rule of an installed package (entry points of the group
    ``fedadapt.partitions``), and ``module:Class`` or ``module:Class:VALUE`` anybody's.
    """
    if text == NATURAL:
        return Partition(False, Iid(), natural=True)
    if text == BY_DOMAIN:
        return Partition(True, Iid())
    inner = text.removeprefix(f"{BY_DOMAIN}+")
    rule = _of_others(inner)
    if rule is None:
        others = (BY_DOMAIN, NATURAL, *OTHERS.theirs(), "module:Class")
        rule = read_rule("partition", inner, PARTITIONS, others)
    return Partition(inner != text, rule)


def _of_others(text: str) -> LabelSkew | None:
    """Read a rule that is not ours; None where ``text`` does not name one.

    Raises:
        InputError: It names something else than a rule, or a value is not allowed.

    """
    first, _, rest = text.partition(":")
    second, _, values = rest.partition(":")
    if first in PARTITIONS:
        return None
    if first in OTHERS.theirs():
        name, word, written = first, first, rest
    elif second.isidentifier():
        name, word, written = f"{first}:{second}", second, values
    else:
        return None
    found = OTHERS.find(name)
    if not (isinstance(found, type) and issubclass(found, LabelSkew)):
        raise InputError(
            f"partition: {name!r} is no rule; it must be a class that extends LabelSkew of "
            "fedadapt.datasets.partitioning.label_skew"
        )
    return read_rule("partition", ":".join(filter(None, (word, written))), {word: found})
