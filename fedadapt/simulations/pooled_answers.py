"""What a local adaptation asks all training clients before it runs, and their mean answer."""

import logging
from collections.abc import Callable, Sequence

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.adaptations.query import BEFORE, Query
from fedadapt.messages import Sent
from fedadapt.server.aggregation import StreamingMean
from fedadapt.server.exchange import Exchange, RoundFailedError
from fedadapt.weights import Weights

log = logging.getLogger(__name__)

Ask = Callable[[Query, Weights, Weights], Weights]
"""Takes a query, the model and what else clients get, [...]; returns their mean answer, [...]."""


def pooled_answers(
    adaptations: Sequence[Adaptation], ask: Ask, base: Weights
) -> dict[str, Weights]:
    """By adaptation that asks: the training clients' answers at the base model, [...].

    Of several rounds it is the last one with enough answers. Where there is none, an adaptation
    is left out, and does without.

    Args:
        ask: Raises RoundFailedError where too few clients answer.

    """
    pooled: dict[str, Weights] = {}
    parts = {part.name: part for whole in adaptations for part in whole.in_turn()}
    for adaptation in parts.values():
        query = adaptation.query()
        if query is None:
            continue
        mean: Weights = {}
        try:
            for _ in range(query.rounds):
                mean = ask(query, base, {f"{BEFORE}{name}": t for name, t in mean.items()})
        except RoundFailedError as failure:
            without = "keeps to the round before" if mean else "does without"
            log.warning("%s; %s %s", failure, adaptation.name, without)
        if mean:
            pooled[adaptation.name] = mean
    return pooled


def pooled_answer(exchange: Exchange, action: str, sent: Sent, expected: Weights) -> Weights:
    """Return the mean of one round of answers, [...], weighted by training examples.

    Raises:
        RoundFailedError: Too few clients have answered.

    """
    mean = StreamingMean()
    for answers in exchange.ask(action, sent, expected):
        if answers.update is not None:
            mean.add(answers.update.weights, answers.update.num_examples)
    return mean.result()
