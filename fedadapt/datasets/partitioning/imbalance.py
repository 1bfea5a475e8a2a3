"""Rules of imbalance: how uneven the classes are over all clients. See ``label_skew`` on numpy."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedadapt.datasets.rules import Rule, read_rule, table
from fedadapt.parameters import param

if TYPE_CHECKING:
    import numpy as np

    from fedadapt.datasets.partitioning.stratified import Rows


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


IMBALANCES = table(Balanced, LongTail)


def parse_imbalance(text: str) -> Imbalance:
    """Read ``none`` (also empty) or ``long-tail:0.1``."""
    return read_rule("imbalance", text or "none", IMBALANCES)
