"""Rules of quantity: how uneven the sizes of the clients are. See ``label_skew`` on numpy."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedadapt.datasets.rules import Rule, read_rule, table
from fedadapt.parameters import param

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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


QUANTITIES = table(Even, Linear, Square, Exponential, Lognormal)


def parse_quantity(text: str) -> Quantity:
    """Read ``even`` (also empty), ``linear``, ``square``, ``exponential``, ``lognormal:1``."""
    return read_rule("quantity", text or "even", QUANTITIES)
