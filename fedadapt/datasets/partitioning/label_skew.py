"""Rules of label skew: how the classes are spread over the clients.

Each rule is a class: what a user may write, and what is done. numpy is imported only where a rule
is applied, so that the command line can refuse a bad word at once. ``docs/data.md`` lists them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedadapt.datasets.rules import Rule
from fedadapt.errors import InputError
from fedadapt.parameters import param

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedadapt.datasets.partitioning.stratified import Rows


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
