"""A question that a local adaptation asks the training clients before anybody adapts."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from fedadapt.client.cohort import Cohort
from fedadapt.weights import Weights


def parameters_of(model: nn.Module, sent: Weights) -> Weights:
    """Every parameter of the network, without its buffers, as one client received it."""
    return {name: sent[name] for name, _ in model.named_parameters()}


@dataclass(frozen=True, kw_only=True)
class Query:
    """What every training client is asked at the base model before the final evaluation.

    The server averages the answers, weighted by the clients' numbers of training examples, and
    sends this mean, and nothing else, to the clients that adapt. Of several rounds, each mean goes
    back to the training clients with the next question, and the last is the one that is used.

    Args:
        action: The message type, ``query.`` and a Python identifier, as Flower demands; no other
            adaptation or strategy of the run may use it.
        answer: What clients answer, computed on the clients: from their cohort and the model that
            they received, [D, ...], to named arrays [D, ...].
        expected: Names, shapes and types of one client's answer, from the network and the model
            that was sent, [...]; the values are not used. An answer that differs is rejected.
        rounds: How often clients are asked.
        again: What they answer after the first round: from their cohort, the model and the mean of
            the round before, both [D, ...]. None: as in the first round.
        leaves: What an answer holds, in a few words, for the owner of a client.

    """

    action: str
    answer: Callable[[Cohort, Weights], Weights]
    expected: Callable[[nn.Module, Weights], Weights] = parameters_of
    rounds: int = 1
    again: Callable[[Cohort, Weights, Weights], Weights] | None = None
    leaves: str = "the arrays that it declares"

    def answered(self, cohort: Cohort, weights: Weights, before: Weights) -> Weights:
        """Return the clients' answers, [D, ...].

        Args:
            before: The mean of the round before, [D, ...]; {} in the first round.

        """
        if before and self.again is not None:
            return self.again(cohort, weights, before)
        return self.answer(cohort, weights)


BEFORE = "before/"
"""Stands in front of the names of the last round's mean, where it is sent beside the model."""
