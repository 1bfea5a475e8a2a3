"""Which rounds are worth keeping, by the clients' adapt images; a test is never looked at."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from fedadapt.config import RunConfig
from fedadapt.errors import EvaluationFailedError
from fedadapt.records import HELD_OUT, Evaluation
from fedadapt.server.checkpoint import Checkpoint, Checkpoints, load_latest

BEST = "best-"  # before the name of a model: that of the best round, not of the last

Watch = Callable[[int, float], None]
"""Takes a round and its score on adapt images; it may end the run by raising an error."""


class RoundChoice:
    """What early stopping, the best round and a watching study know about the rounds so far."""

    def __init__(self, config: RunConfig, folder: Path, watch: Watch | None = None) -> None:
        self._patience = config.early_stopping
        self._keeps_best = config.best_round
        self._watch = watch
        self._folder = folder / "best"
        self._kept = Checkpoints(self._folder, keep=1)
        self._scores: dict[int, float] = {}

    @property
    def needed(self) -> bool:
        """Whether anybody asks for scores; without them nothing is evaluated on adapt images."""
        return bool(self._patience or self._keeps_best or self._watch)

    @property
    def is_over(self) -> bool:
        """Whether early stopping ends the run here."""
        return is_over(self._scores, self._patience)

    def resume(self, evaluations: Iterable[Evaluation]) -> None:
        """Take in the scores of all rounds before a checkpoint."""
        if self.needed:
            self._scores = scores_by_round(evaluations)

    def judge(
        self, round: int, evaluations: Iterable[Evaluation], state: Callable[[], Checkpoint]
    ) -> None:
        """Take in the score of a round; keep its state if it is the best, and tell who watches."""
        self._scores |= scores_by_round(evaluations)
        if self._keeps_best and best_round(self._scores) == round:
            self._kept.save(state())
        if self._watch is not None and round in self._scores:
            self._watch(round, self._scores[round])

    def best(self, last_round: int, evaluations: Iterable[Evaluation]) -> Checkpoint | None:
        """Return the state of the best round; None where that is the last one, or none has a score.

        Args:
            evaluations: Those of the last round, which nobody has judged yet.

        Raises:
            EvaluationFailedError: The state that was kept is that of another round.

        """
        self._scores |= scores_by_round(evaluations)
        best = best_round(self._scores)
        if best is None or best == last_round:
            return None
        kept = load_latest(self._folder)
        if kept.round != best:
            raise EvaluationFailedError(
                f"{self._folder}: holds round {kept.round}, and round {best} was the best; "
                "start the run anew"
            )
        return kept


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
