"""Which of its models each client keeps, when it goes by its adapt images."""

from collections.abc import Iterable, Iterator
from itertools import groupby

from fedadapt.records import HELD_OUT, LOCAL, SERVED, Evaluation

BASE = "base"


def served_rows(evaluations: Iterable[Evaluation], round: int) -> Iterator[Evaluation]:
    """Yield each client's own test under the model it chose, as a row of the model ``served``.

    Args:
        evaluations: Rows of any rounds; those of one client and task in a round lie together.
        round: The round whose models are chosen from.

    """
    for chosen in _chosen(evaluations, round):
        yield chosen._replace(model=SERVED, adaptation="none")


def chosen_models(evaluations: Iterable[Evaluation], round: int) -> dict[int, tuple[str, str]]:
    """Return the model and the adaptation that each client chose."""
    return {row.client: (row.model, row.adaptation) for row in _chosen(evaluations, round)}


def _chosen(evaluations: Iterable[Evaluation], round: int) -> Iterator[Evaluation]:
    """Yield the test row of each client's choice.

    Another model than the base must have more right answers on the held-out adapt images; of
    several that have, the one with the most counts, then the one with the least loss, then the
    first. Where there is no base, or it has no held-out images, nothing is chosen; a model that
    failed on the client is no candidate.
    """
    rows = (
        row
        for row in evaluations
        if row.round == round and row.epoch == 0 and row.model not in (LOCAL, SERVED)
    )
    for _, group in groupby(rows, key=lambda row: (row.client, row.task)):
        of_client = list(group)
        tests = {row.label: row for row in of_client if row.split == "test"}
        scores = {row.label: row for row in of_client if row.split == HELD_OUT}
        if BASE not in tests or BASE not in scores:
            continue
        base = _right(scores[BASE])
        better = [label for label in tests if label in scores and _right(scores[label]) > base]
        best = min(
            better, key=lambda label: (-_right(scores[label]), scores[label].loss), default=BASE
        )
        yield tests[best]


def _right(score: Evaluation) -> int:
    """How many answers were right, a whole number."""
    return int(score.accuracy * score.num_examples + 0.5)
