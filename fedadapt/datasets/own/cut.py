"""Which of an owner's pictures are for training, for adaptation and for the test, decided once.

Pictures that belong together (copies, the same scene, a burst) are on one side. New pictures join
without moving old ones: they go where their scene is, or else where pictures of their class are
wanting. Everything follows from the pictures' content, so that two devices with the same pictures
cut them alike, and a name or an order of files has no influence.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fedadapt.datasets.own.looks import Look, linked

Side = str
SIDES: tuple[Side, ...] = ("train", "adapt", "test")
_FIRST: tuple[Side, ...] = ("train", "test", "adapt")  # each gets a group before any has two


class Shares(NamedTuple):
    """What part of the pictures each side is to have; the rest is for training."""

    adapt: float = 0.2
    test: float = 0.2

    def of(self, side: Side) -> float:
        """The share of a side, in (0, 1)."""
        return {"adapt": self.adapt, "test": self.test, "train": 1 - self.adapt - self.test}[side]


class Known(NamedTuple):
    """A picture whose side is decided."""

    look: Look
    side: Side


class Cut(NamedTuple):
    """The outcome for the pictures that are there."""

    sides: tuple[Side | None, ...]  # one a picture; None: it is left out
    known: Mapping[str, Known]  # by digest: all that have ever been decided

    @property
    def left_out(self) -> int:
        """Pictures on no side: see ``cut``."""
        return sum(side is None for side in self.sides)


def cut(
    looks: Sequence[Look],
    labels: Sequence[str],
    known: Mapping[str, Known],
    shares: Shares = Shares(),  # noqa: B008, it cannot change
) -> Cut:
    """Decide the side of every picture; that of a known one is what it was.

    A picture is left out where it cannot be on one side: the same bytes lie in two classes, or it
    belongs together with pictures of which some train and some test.

    Args:
        looks: The pictures that are there, [n].
        labels: Their classes, [n].
        known: What earlier calls decided, pictures that are gone included.
        shares: Of pictures, class by class and in all.

    """
    label_of: dict[str, str] = {}
    contradicted = set()
    for look, label in zip(looks, labels, strict=True):
        if label_of.setdefault(look.digest, label) != label:
            contradicted.add(look.digest)
    here = {look.digest: look for look in looks if look.digest not in contradicted}
    decided = dict(known)
    counts = Counter((label_of[digest], known[digest].side) for digest in here if digest in known)
    new = [here[digest] for digest in sorted(here.keys() - known.keys())]
    old = [known[digest].look for digest in sorted(known)]
    for group, sides in _groups(old, new, [known[look.digest].side for look in old]):
        if len(sides) > 1:
            continue
        numbers = Counter(label_of[look.digest] for look in group)
        side = next(iter(sides)) if sides else _wanting(numbers, counts, shares)
        for look in group:
            decided[look.digest] = Known(look, side)
            counts[label_of[look.digest], side] += 1
    sides_of = {digest: decided[digest].side for digest in here if digest in decided}
    return Cut(tuple(sides_of.get(look.digest) for look in looks), decided)


def _groups(
    old: Sequence[Look], new: Sequence[Look], sides: Sequence[Side]
) -> list[tuple[list[Look], set[Side]]]:
    """New pictures that belong together, and the sides of the old ones they belong to."""
    leader = list(range(len(new)))

    def root(member: int) -> int:
        while leader[member] != member:
            leader[member] = leader[leader[member]]
            member = leader[member]
        return member

    beside: dict[int, set[Side]] = defaultdict(set)
    first = len(old)
    for one, other in linked([*old, *new], first):
        if other < first:
            beside[one - first].add(sides[other])
        else:
            low, high = sorted((root(one - first), root(other - first)))
            leader[high] = low
    groups: dict[int, tuple[list[Look], set[Side]]] = defaultdict(lambda: ([], set()))
    for member, look in enumerate(new):
        group, found = groups[root(member)]
        group.append(look)
        found |= beside[member]
    return [groups[key] for key in sorted(groups)]


def _wanting(numbers: Counter[str], counts: Counter[tuple[str, Side]], shares: Shares) -> Side:
    """The side that lacks most of what it should have together with a new group.

    Its lack of pictures of the group's class and of all pictures count alike. A side without any
    picture comes first.

    Args:
        numbers: Pictures of the group, by class.
        counts: Pictures so far, by class and side.

    """
    every = {side: sum(counts[key] for key in counts if key[1] == side) for side in SIDES}
    for side in _FIRST:
        if not every[side]:
            return side
    label = min(numbers, key=lambda name: (-numbers[name], name))
    size = numbers.total()
    in_class = sum(counts[label, side] for side in SIDES) + size

    def lacks(side: Side) -> float:
        return (
            shares.of(side) * (in_class + sum(every.values()) + size)
            - counts[label, side]
            - every[side]
        )

    return max(_FIRST, key=lacks)
