"""Partitions, quantities and imbalances: the rules of label skew and of uneven sizes.

Each rule is a class: what a user may write, and what is done. numpy is imported only where a rule
is applied, so that the command line can refuse a bad word at once. ``docs/data.md`` lists them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from fedadapt.datasets.entries import NATURAL
from fedadapt.datasets.rules import Rule, read_rule, table
from fedadapt.errors import InputError
from fedadapt.parameters import param
from fedadapt.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedadapt.datasets.partitioning.stratified import Rows

BY_DOMAIN = "by-domain"


@dataclass(frozen=True)
class LabelSkew(Rule, ABC):
    """How the classes are spread over the clients."""

    needs_flower: ClassVar[bool] = False  # flwr-datasets divides real data
    balanced: ClassVar[bool] = False  # the clients of a kind get equal shares of each class

    @property
    def classes_needed(self) -> int:
        """The number of classes that the data must have."""
        return 1

    def shares(
        self, num_clients: int, num_classes: int, rng: "np.random.Generator"
    ) -> "NDArray[np.float64]":
        """The share of each class on each client that draws from a pool: rows sum to 1, [D, C].

        Raises:
            InputError: The rule can only divide, and the built-in digits are drawn from pools.

        """
        raise InputError(
            f"partition: {self.name} divides images, and clients draw the built-in digits from "
            "pools; use other data"
        )

    @abstractmethod
    def divide(
        self, rows: "Rows", labels: "Rows", num_clients: int, rng: "np.random.Generator"
    ) -> "list[Rows]":
        """Divide images among the clients, one list a client.

        Args:
            rows: The images to divide, [n].
            labels: Labels of all images in the store, [N].

        """

    def kinds(self, rows: "Rows", labels: "Rows", num_clients: int) -> "list[tuple[Rows, int]]":
        """The images of each kind of client, and how many clients share them."""
        return [(rows, num_clients)]

    def kind_names(self, classes: tuple[str, ...], num_clients: int) -> list[str]:
        """One word per client for its set of classes; empty where there is one kind."""
        return [""] * num_clients


@dataclass(frozen=True)
class Iid(LabelSkew):
    """Every client gets the same mixture of classes."""

    name = "iid"
    balanced = True

    def shares(
        self, num_clients: int, num_classes: int, rng: "np.random.Generator"
    ) -> "NDArray[np.float64]":
        import numpy as np

        return np.full((num_clients, num_classes), 1 / num_classes)

    def divide(
        self, rows: "Rows", labels: "Rows", num_clients: int, rng: "np.random.Generator"
    ) -> "list[Rows]":
        from fedadapt.datasets.partitioning.partition import equal_shares

        return equal_shares(rows, labels, num_clients, rng)


@dataclass(frozen=True)
class Dirichlet(LabelSkew):
    """Each class is divided in proportions drawn from Dirichlet(alpha, ..., alpha)."""

    name = "dirichlet"
    needs_flower = True
    alpha: float = param(0.3, "concentration: 0.1 is severe skew, 100 almost iid", above=0)

    def shares(
        self, num_clients: int, num_classes: int, rng: "np.random.Generator"
    ) -> "NDArray[np.float64]":
        return rng.dirichlet([self.alpha] * num_classes, num_clients)

    def divide(
        self, rows: "Rows", labels: "Rows", num_clients: int, rng: "np.random.Generator"
    ) -> "list[Rows]":
        from fedadapt.datasets.partitioning.by_flower import divide_by_label
        from fedadapt.datasets.partitioning.quantity import top_up

        clients = divide_by_label(
            "DirichletPartitioner",
            self,
            rows,
            labels,
            num_clients,
            rng,
            alpha=self.alpha,
            min_partition_size=0,
        )
        return top_up(clients, rng)


@dataclass(frozen=True)
class Pathological(LabelSkew):
    """Every client gets images of K classes."""

    name = "pathological"
    needs_flower = True
    k: int = param(2, "classes a client", at_least=1)

    @property
    def classes_needed(self) -> int:
        return self.k

    def shares(
        self, num_clients: int, num_classes: int, rng: "np.random.Generator"
    ) -> "NDArray[np.float64]":
        return _shares_of_draws(self.k, num_clients, num_classes, rng, replace=False)

    def divide(
        self, rows: "Rows", labels: "Rows", num_clients: int, rng: "np.random.Generator"
    ) -> "list[Rows]":
        from fedadapt.datasets.partitioning.by_flower import divide_by_label

        return divide_by_label(
            "PathologicalPartitioner",
            self,
            rows,
            labels,
            num_clients,
            rng,
            num_classes_per_partition=self.k,
            class_assignment_mode="first-deterministic",  # so that no class is left out
        )


@dataclass(frozen=True)
class Shards(LabelSkew):
    """Images are sorted by class and cut into K shards a client, which are assigned at random."""

    name = "shards"
    needs_flower = True
    k: int = param(2, "shards a client", at_least=1)

    def shares(
        self, num_clients: int, num_classes: int, rng: "np.random.Generator"
    ) -> "NDArray[np.float64]":
        # Shards are drawn with repetition: two shards of one class are one class of double size.
        return _shares_of_draws(self.k, num_clients, num_classes, rng, replace=True)

    def divide(
        self, rows: "Rows", labels: "Rows", num_clients: int, rng: "np.random.Generator"
    ) -> "list[Rows]":
        from fedadapt.datasets.partitioning.by_flower import divide_by_label

        return divide_by_label(
            "ShardPartitioner",
            self,
            rows,
            labels,
            num_clients,
            rng,
            num_shards_per_partition=self.k,
        )


@dataclass(frozen=True)
class ClassTypes(LabelSkew):
    """Types of clients with disjoint sets of K neighbouring classes; neighbours share a type."""

    name = "class-types"
    balanced = True
    k: int = param(2, "classes a type", at_least=1)

    @property
    def classes_needed(self) -> int:
        return self.k

    def types(self, num_classes: int) -> "list[Rows]":
        """The sets of classes; where K does not divide them the first sets are larger by one."""
        import numpy as np

        return np.array_split(np.arange(num_classes), max(1, num_classes // self.k))

    def shares(
        self, num_clients: int, num_classes: int, rng: "np.random.Generator"
    ) -> "NDArray[np.float64]":
        import numpy as np

        from fedadapt.datasets.partitioning.partition import groups

        types = self.types(num_classes)
        chosen = np.zeros((num_clients, num_classes))
        for client, group in enumerate(groups(len(types), num_clients)):
            chosen[client, types[group]] = 1
        return chosen / chosen.sum(axis=1, keepdims=True)

    def divide(
        self, rows: "Rows", labels: "Rows", num_clients: int, rng: "np.random.Generator"
    ) -> "list[Rows]":
        from fedadapt.datasets.partitioning.partition import equal_shares

        return [
            share
            for part, num in self.kinds(rows, labels, num_clients)
            for share in equal_shares(part, labels, num, rng)
        ]

    def kinds(self, rows: "Rows", labels: "Rows", num_clients: int) -> "list[tuple[Rows, int]]":
        import numpy as np

        from fedadapt.datasets.partitioning.partition import groups

        types = self.types(int(labels.max()) + 1)
        counts = np.bincount(groups(len(types), num_clients), minlength=len(types))
        parts = [rows[np.isin(labels[rows], classes)] for classes in types]
        return [(part, int(num)) for part, num in zip(parts, counts, strict=True) if num]

    def kind_names(self, classes: tuple[str, ...], num_clients: int) -> list[str]:
        from fedadapt.datasets.partitioning.partition import groups

        types = self.types(len(classes))
        names = [
            "+".join(classes[c] for c in numbers)
            if len(numbers) <= 3
            else f"{classes[numbers[0]]}..{classes[numbers[-1]]}"
            for numbers in types
        ]
        return [names[group] for group in groups(len(types), num_clients)]


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


@dataclass(frozen=True)
class Quantity(Rule, ABC):
    """How uneven the sizes of the clients are."""

    @abstractmethod
    def sizes(
        self, rank: "NDArray[np.float64]", normal: "NDArray[np.float64]"
    ) -> "NDArray[np.float64]":
        """Sizes on any scale, [D].

        Args:
            rank: 1, 2, ..., D.
            normal: D independent draws from N(0, 1).

        """


@dataclass(frozen=True)
class Even(Quantity):
    """All clients have equally many images."""

    name = "even"

    def sizes(
        self, rank: "NDArray[np.float64]", normal: "NDArray[np.float64]"
    ) -> "NDArray[np.float64]":
        return rank**0


@dataclass(frozen=True)
class Linear(Quantity):
    """Sizes are 1 : 2 : 3 : ..."""

    name = "linear"

    def sizes(
        self, rank: "NDArray[np.float64]", normal: "NDArray[np.float64]"
    ) -> "NDArray[np.float64]":
        return rank


@dataclass(frozen=True)
class Square(Quantity):
    """Sizes are 1 : 4 : 9 : ..."""

    name = "square"

    def sizes(
        self, rank: "NDArray[np.float64]", normal: "NDArray[np.float64]"
    ) -> "NDArray[np.float64]":
        return rank**2


@dataclass(frozen=True)
class Exponential(Quantity):
    """Sizes are 1 : e : e^2 : ..."""

    name = "exponential"

    def sizes(
        self, rank: "NDArray[np.float64]", normal: "NDArray[np.float64]"
    ) -> "NDArray[np.float64]":
        import numpy as np

        return np.exp(rank - len(rank))


@dataclass(frozen=True)
class Lognormal(Quantity):
    """The logarithms of the sizes are normal with standard deviation sigma."""

    name = "lognormal"
    sigma: float = param(1.0, "standard deviation of log(size)", at_least=0, at_most=10)

    def sizes(
        self, rank: "NDArray[np.float64]", normal: "NDArray[np.float64]"
    ) -> "NDArray[np.float64]":
        import numpy as np

        return np.exp(self.sigma * normal)


@dataclass(frozen=True)
class Imbalance(Rule, ABC):
    """How uneven the classes are in all that the clients hold together."""

    @abstractmethod
    def choose(self, rows: "Rows", labels: "Rows", rng: "np.random.Generator") -> "Rows":
        """The images that are used.

        Args:
            rows: The images to choose from, [n].
            labels: Labels of all images in the store, [N]; every class is among them.

        """


@dataclass(frozen=True)
class Balanced(Imbalance):
    """The classes are as frequent as in the data."""

    name = "none"

    def choose(self, rows: "Rows", labels: "Rows", rng: "np.random.Generator") -> "Rows":
        return rows


@dataclass(frozen=True)
class LongTail(Imbalance):
    """Keep floor(n_max * factor^(c / (C - 1))) images of class c, n_max those of the largest class.

    A class that has fewer to begin with keeps all; every class keeps at least one.
    Cao et al. 2019 (LDAM); FedLoGe's data are made so.
    """

    name = "long-tail"
    factor: float = param(
        0.1, "images of the last class over those of the largest", above=0, at_most=1
    )

    def choose(self, rows: "Rows", labels: "Rows", rng: "np.random.Generator") -> "Rows":
        import numpy as np

        num_classes = int(labels.max()) + 1
        of_class = [rows[labels[rows] == c] for c in range(num_classes)]
        largest = max(map(len, of_class))
        # A hair is added before the floor, so that 100 * 0.1 ** 1 keeps its 10.
        counts = [
            max(1, int(largest * self.factor ** (c / max(1, num_classes - 1)) + 1e-9))
            for c in range(num_classes)
        ]
        chosen = [rng.permutation(r)[:n] for r, n in zip(of_class, counts, strict=True)]
        return np.concatenate(chosen)


PARTITIONS = table(Iid, Dirichlet, Pathological, Shards, ClassTypes)
OTHERS = Registry("partition", "fedadapt.partitions", {})
"""Rules of installed packages, and anybody's ``module:Class``."""
QUANTITIES = table(Even, Linear, Square, Exponential, Lognormal)
IMBALANCES = table(Balanced, LongTail)


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
            "fedadapt.datasets.partitioning.spec"
        )
    return read_rule("partition", ":".join(filter(None, (word, written))), {word: found})


def parse_quantity(text: str) -> Quantity:
    """Read ``even`` (also empty), ``linear``, ``square``, ``exponential``, ``lognormal:1``."""
    return read_rule("quantity", text or "even", QUANTITIES)


def parse_imbalance(text: str) -> Imbalance:
    """Read ``none`` (also empty) or ``long-tail:0.1``."""
    return read_rule("imbalance", text or "none", IMBALANCES)


def _shares_of_draws(
    num_draws: int,
    num_clients: int,
    num_classes: int,
    rng: "np.random.Generator",
    *,
    replace: bool,
) -> "NDArray[np.float64]":
    """The share of each class among a client's draws, [D, C]."""
    import numpy as np

    counts = np.zeros((num_clients, num_classes))
    for client in range(num_clients):
        chosen = rng.choice(num_classes, num_draws, replace=replace)
        np.add.at(counts[client], chosen, 1)
    return counts / counts.sum(axis=1, keepdims=True)
