"""What a local adaptation is: the class that all of them extend, ours and anybody's."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fedadapt.client.adaptations.query import Query
from fedadapt.client.adaptations.registry import ADAPTATIONS
from fedadapt.client.cohort import Cohort
from fedadapt.parameters import check_parameters
from fedadapt.selectors import everything
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Adaptation(ABC):
    """Weights in, adapted weights out; it composes with every base or personal model.

    A subclass is a frozen dataclass whose parameters are made with ``param``; they are checked
    when it is constructed. The first line of its docstring is its description in all lists. A class
    that can be instantiated is final: only abstract families are extended.
    """

    needs_labels: ClassVar[bool] = True
    """Whether it reads the labels of the client's images."""

    needs_batch_norm: ClassVar[bool] = False
    """Whether it does nothing to a network without batch normalisation; such runs are refused."""

    name: str = ""
    """The name under which it was asked for; left empty, it is the class's name in the registry.

    Random streams, tables and messages use it.
    """

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", ADAPTATIONS.name_of(type(self)))
        check_parameters(self, f"{self.name}.")

    def in_turn(self) -> "tuple[Adaptation, ...]":
        """The adaptations that it runs, one after the other: itself, unless it is a composition."""
        return (self,)

    def images_of(self, cohort: Cohort) -> Cohort:
        """The cohort with the images that it can use: also those without labels, or only others."""
        return cohort if self.needs_labels else cohort.without_labels()

    @property
    def reads_adapt(self) -> bool:
        """Whether it reads the client's adapt images, so that they cannot tell how good it is."""
        return getattr(self, "part", "adapt") == "adapt"

    def query(self) -> Query | None:
        """What the training clients are asked before anybody adapts; None: nothing."""
        return None

    def pooled_from(self, answers: Mapping[str, Weights]) -> Weights | None:
        """What ``adapt`` gets as ``pooled``, of the pooled answers by the name of who asked."""
        return answers.get(self.name)

    @abstractmethod
    def adapt(self, cohort: Cohort, weights: Weights, pooled: Weights | None = None) -> Weights:
        """Adapt each row of ``weights``, [D, ...], to its client's images; arguments stay as is.

        Args:
            cohort: The clients, their images and how they are computed.
            weights: The model that each client received.
            pooled: The pooled answers to ``query``, repeated for each client, [D, ...]; None where
                nothing was asked, or where too few clients answered.

        """

    def moves(self, model: nn.Module) -> frozenset[str]:
        """Name the tensors that may differ afterwards; a selector. The contract kit checks it."""
        return everything(model)

    def stages(
        self, cohort: Cohort, weights: Weights, pooled: Weights | None = None
    ) -> Iterator[tuple[int, Weights]]:
        """The models on the way, each with the epochs done; at last the adapted model, as epoch 0.

        What a run with ``--curves`` evaluates. An adaptation without stages has its result only.
        """
        yield 0, self.adapt(cohort, weights, pooled)
