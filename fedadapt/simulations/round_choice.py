"""Which rounds are worth keeping, by the clients' adapt images; a test is never looked at."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from fedadapt.records import HELD_OUT, Evaluation

BEST = "best-"  # before the name of a model: that of the best round, not of the last


def scores_by_round(evaluations: Iterable[Evaluation]) -> dict[int, float]:
    """Return the score of each round in which models were judged by held-out adapt images.

    It is the mean accuracy over seen clients, each counting once, of their personal models where
    the strategy makes some, else of the base model; without local adaptation, which comes at the
    end only. Round 0, before training, has none.
    """
    found: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in evaluations:
        bare = row.adaptation == "none" and row.model in ("base", "personal")
        if row.split == HELD_OUT and bare and row.seen and row.epoch == 0 and row.round > 0:
            found[row.round][row.model].append(row.accuracy)
    return {round: _score(models) for round, models in sorted(found.items())}


def _score(models: Mapping[str, list[float]]) -> float:
    values = models.get("personal") or models["base"]
    return sum(values) / len(values)


def best_round(scores: Mapping[int, float]) -> int | None:
    """Return the round with the highest score, of equal ones the first; None without scores."""
    return max(sorted(scores), key=lambda round: scores[round], default=None)


def is_over(scores: Mapping[int, float], patience: int) -> bool:
    """Return whether the last ``patience`` scores are all no higher than one before them."""
    best = best_round(scores)
    return best is not None and sum(round > best for round in scores) >= patience > 0
