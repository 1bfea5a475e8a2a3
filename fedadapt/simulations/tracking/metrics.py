"""The metrics of a run by round, as trackers get them; docs/trackers.md lists them."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from fedadapt.records import CommunicationEntry, Evaluation, RoundLoss
from fedadapt.simulations.results.accuracies import Accuracies, Columns
from fedadapt.simulations.results.parquet import Row

Metrics = dict[str, float]


class _OfRound:
    """What has been recorded of one round."""

    def __init__(self) -> None:
        self.accuracies: dict[str, Columns] = defaultdict(Columns)  # by split
        self.losses: dict[str, Columns] = defaultdict(Columns)
        self.counts: Metrics = {}  # of messages and bytes, in this round alone
        self.train: Metrics = {}


class MetricsByRound:
    """Turns the rows of a run, as they are recorded, into the metrics of each round.

    A mean accuracy is computed as for ``summary.json``: over clients, each of which counts once.
    Messages and bytes are counted from the first round on.
    """

    def __init__(self, adaptations: Sequence[str]) -> None:
        self._adaptations = adaptations
        self._rounds: dict[int, _OfRound] = defaultdict(_OfRound)
        self._counts: Metrics = defaultdict(float)  # up to the last round that was taken

    def add(self, row: Row) -> None:
        """Take in a row of any kind."""
        if isinstance(row, Evaluation):
            if row.epoch == 0:  # else an adaptation is under way
                of_round = self._rounds[row.round]
                of_round.accuracies[row.split].add(row)
                of_round.losses[row.split].add(row._replace(accuracy=row.loss))
        elif isinstance(row, CommunicationEntry):
            counts = self._rounds[row.round].counts
            for name, value in (
                (f"communication/{row.phase}/bytes_up", row.bytes_up),
                (f"communication/{row.phase}/bytes_down", row.bytes_down),
                ("communication/messages", 1),
                ("communication/not_accepted", row.outcome != "accepted"),
            ):
                counts[name] = counts.get(name, 0.0) + value
        elif isinstance(row, RoundLoss):
            self._rounds[row.round].train = {
                "train/loss": row.loss,
                "train/clients": row.num_clients,
            }

    def take(self, before: float = math.inf) -> Iterator[tuple[int, Metrics]]:
        """Yield the metrics of the rounds before ``before``, each of which is complete, once."""
        for number in sorted(number for number in self._rounds if number < before):
            of_round = self._rounds.pop(number)
            for name, count in of_round.counts.items():
                self._counts[name] += count
            metrics = {**of_round.train, **self._counts}
            for split, columns in of_round.accuracies.items():
                accuracies = columns.folded(number, self._adaptations)
                losses = of_round.losses[split].folded(number, self._adaptations)
                for name, seen in ((split, True), (f"{split}-unseen", False)):
                    metrics |= _means(
                        name,
                        accuracies.where(accuracies.seen == seen),
                        losses.where(losses.seen == seen),
                    )
            yield number, {k: float(v) for k, v in metrics.items() if math.isfinite(v)}


def _means(split: str, accuracies: Accuracies, losses: Accuracies) -> Metrics:
    """Return the mean accuracy and loss of each label, and over how many clients they are."""
    metrics: Metrics = {}
    for label, values in accuracies.by_label.items():
        metrics[f"{split}/{label}/accuracy"] = float(np.nanmean(values))
        metrics[f"{split}/{label}/clients"] = int((~np.isnan(values)).sum())
    for label, values in losses.by_label.items():
        metrics[f"{split}/{label}/loss"] = float(np.nanmean(values))
    return metrics
