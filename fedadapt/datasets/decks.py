"""Deal a small data set to any number of devices: images repeat only once the deck is used up.

Three decks a class, for train, adapt and test, share no image: nobody's test image is anybody's
training image, however many devices there are.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedadapt.datasets.divide import class_types, groups
from fedadapt.datasets.grammar import Rule
from fedadapt.datasets.strata import Rows, whole_counts


class Pools(NamedTuple):
    """The images each of a device's three sets is drawn from; no image is in two of them."""

    train: Rows
    adapt: Rows
    test: Rows


class Deck:
    """Shuffled cards that are dealt, and shuffled anew when they run out."""

    def __init__(self, cards: Rows, rng: np.random.Generator) -> None:
        self._cards = cards
        self._rng = rng
        self._left = rng.permutation(len(cards))  # places in ``cards``

    def draw(self, num: int) -> Rows:
        """``num`` different cards, [num]; fewer where the deck has fewer."""
        num = min(num, len(self._cards))
        hand, self._left = self._left[:num], self._left[num:]
        needed = num - len(hand)
        if needed:
            # The hand's own cards go to the bottom of the new deck: they cannot come twice.
            fresh = self._rng.permutation(len(self._cards))
            held = np.zeros(len(self._cards), bool)
            held[hand] = True
            fresh = np.concatenate((fresh[~held[fresh]], fresh[held[fresh]]))
            hand, self._left = np.concatenate((hand, fresh[:needed])), fresh[needed:]
        return self._cards[hand]


def class_shares(
    rule: Rule, num_devices: int, num_classes: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The share of each class on each device under a partition: rows sum to 1, [D, C]."""
    if rule.name == "iid":
        return np.full((num_devices, num_classes), 1 / num_classes)
    if rule.name == "dirichlet":
        return rng.dirichlet(np.full(num_classes, rule.value), num_devices)
    shares = np.zeros((num_devices, num_classes))
    if rule.name == "class-types":
        types = class_types(num_classes, rule)
        for device, group in enumerate(groups(len(types), num_devices)):
            shares[device, types[group]] = 1
    else:
        # Shards are drawn with repetition: two shards of one class are one class of double size.
        repeat = rule.name == "shards"
        for device in range(num_devices):
            chosen = rng.choice(num_classes, int(rule.value), replace=repeat)
            np.add.at(shares[device], chosen, 1)
    return shares / shares.sum(axis=1, keepdims=True)


def deal(
    pools: Pools,
    labels: Rows,
    shares: NDArray[np.float64],
    sizes: list[tuple[int, int, int]],
    rng: np.random.Generator,
) -> list[Pools]:
    """Each device's train, adapt and test images.

    Args:
        labels: Of all images in the store, [N].
        shares: From ``class_shares``, [D, C]; weighted by how often the pool for training has each
            class, so that a long tail reaches every device.
        sizes: Images for (train, adapt, test) of each device; a device gets fewer where its
            classes have fewer.

    """
    num_classes = shares.shape[1]
    weighted = shares * np.bincount(labels[pools.train], minlength=num_classes)
    weighted /= weighted.sum(axis=1, keepdims=True)
    decks = [[Deck(pool[labels[pool] == c], rng) for c in range(num_classes)] for pool in pools]
    counts = [
        whole_counts(weighted, np.array(numbers), rng) for numbers in zip(*sizes, strict=True)
    ]

    def hand(number: int, device: int) -> Rows:
        """The device's images of set ``number``, class by class."""
        wanted = counts[number][device]
        return np.concatenate(
            [decks[number][c].draw(int(wanted[c])) for c in np.flatnonzero(wanted)]
        )

    return [Pools(hand(0, d), hand(1, d), hand(2, d)) for d in range(len(sizes))]
