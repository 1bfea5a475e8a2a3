"""Deal a small data set to any number of clients: images repeat only once the deck is used up.

Three decks a class, for train, adapt and test, share no image: nobody's test image is anybody's
training image, however many clients there are.
"""

import numpy as np
from numpy.typing import NDArray

from fedadapt.datasets.partitioning.client_indices import (
    ClientIndices,
    RaggedIndices,
    SplitIndices,
    places,
)
from fedadapt.datasets.partitioning.partition import class_types, groups
from fedadapt.datasets.partitioning.spec import Rule
from fedadapt.datasets.partitioning.stratified import Rows, whole_counts


class SamplingPool:
    """Shuffled cards that are dealt client after client, and shuffled anew when they run out."""

    def __init__(self, cards: Rows, order: Rows, wanted: Rows) -> None:
        """Count out the hands; the first shuffle is given, the others are the caller's to ask for.

        Args:
            cards: All different, [n].
            order: Places in ``cards``, the first shuffle, [n].
            wanted: Cards for each client, [D]; none gets one twice, so at most n.

        """
        num = len(cards)
        self._cards = cards
        self._shuffles = [order]
        self.counts = np.minimum(wanted, num)
        self._ends = np.cumsum(self.counts)
        used_up = np.arange(num, self._ends[-1], num) if num else np.zeros(0, np.int64)
        self.runs_out_at = np.searchsorted(self._ends, used_up, side="right")
        """The clients for whose hands the cards must be shuffled anew, ascending."""
        hands = used_up - (self._ends - self.counts)[self.runs_out_at]
        self._hands = iter(hands.tolist())  # cards they hold by then

    def shuffle(self, rng: np.random.Generator) -> None:
        """Go through the cards once more."""
        fresh = rng.permutation(len(self._cards))
        if hand := next(self._hands):
            # The hand's own cards go to the bottom of the new deck: they cannot come twice.
            held = np.zeros(len(fresh), bool)
            held[self._shuffles[-1][-hand:]] = True
            fresh = fresh[held[fresh].argsort(kind="stable")]
        self._shuffles.append(fresh)

    def drawn(self) -> Rows:
        """All hands, one after the other."""
        return self._cards[np.concatenate(self._shuffles)[: self._ends[-1]]]


def class_shares(
    rule: Rule, num_clients: int, num_classes: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The share of each class on each client under a partition: rows sum to 1, [D, C]."""
    if rule.name == "iid":
        return np.full((num_clients, num_classes), 1 / num_classes)
    if rule.name == "dirichlet":
        return rng.dirichlet(np.full(num_classes, rule.value), num_clients)
    shares = np.zeros((num_clients, num_classes))
    if rule.name == "class-types":
        types = class_types(num_classes, rule)
        for client, group in enumerate(groups(len(types), num_clients)):
            shares[client, types[group]] = 1
    else:
        # Shards are drawn with repetition: two shards of one class are one class of double size.
        repeat = rule.name == "shards"
        for client in range(num_clients):
            chosen = rng.choice(num_classes, int(rule.value), replace=repeat)
            np.add.at(shares[client], chosen, 1)
    return shares / shares.sum(axis=1, keepdims=True)


def draw_without_replacement(
    pools: SplitIndices,
    labels: Rows,
    shares: NDArray[np.float64],
    sizes: list[tuple[int, int, int]],
    rng: np.random.Generator,
) -> ClientIndices:
    """Each client's train, adapt and test images.

    Args:
        labels: Of all images in the store, [N].
        shares: From ``class_shares``, [D, C]; weighted by how often the pool for training has each
            class, so that a long tail reaches every client.
        sizes: Images for (train, adapt, test) of each client; a client gets fewer where its
            classes have fewer.

    """
    num_classes = shares.shape[1]
    weighted = shares * np.bincount(labels[pools.train], minlength=num_classes)
    weighted /= weighted.sum(axis=1, keepdims=True)
    cards = [[pool[labels[pool] == c] for c in range(num_classes)] for pool in pools]
    orders = [[rng.permutation(len(mine)) for mine in of_set] for of_set in cards]
    wanted = [
        whole_counts(weighted, np.array(numbers), rng) for numbers in zip(*sizes, strict=True)
    ]
    sampling_pools = [
        [SamplingPool(mine, order, want) for mine, order, want in zip(*of_set, strict=True)]
        for of_set in zip(cards, orders, (want.T for want in wanted), strict=True)
    ]
    # Client after client takes from its train decks, then adapt, then test, class by class; in
    # this order the decks that run out are shuffled.
    turns = [
        (int(client), number, c)
        for number, of_set in enumerate(sampling_pools)
        for c, deck in enumerate(of_set)
        for client in deck.runs_out_at
    ]
    for _, number, c in sorted(turns):
        sampling_pools[number][c].shuffle(rng)
    return ClientIndices(*map(_collect, sampling_pools))


def _collect(sampling_pools: list[SamplingPool]) -> RaggedIndices:
    """What all decks deal, client by client, in the order of the decks."""
    counts = np.stack([deck.counts for deck in sampling_pools], axis=1)  # [D, C]
    starts = (np.cumsum(counts) - counts.ravel()).reshape(counts.shape)
    found = np.empty(counts.sum(), np.int32)
    for deck, start in zip(sampling_pools, starts.T, strict=True):
        found[places(start, deck.counts)] = deck.drawn()
    return RaggedIndices(found, counts.sum(axis=1))
