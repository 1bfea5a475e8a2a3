"""Local: what a client gets when it trains alone and never takes part in a federation.

The row beside which every other row must be read: a federated or personal model is worth something
to a client where it is better than this one.
"""

from dataclasses import dataclass

from fedadapt.client.cohort import Cohort
from fedadapt.client.fit import fit
from fedadapt.config import RunConfig
from fedadapt.strategies.base import LocalTraining
from fedadapt.weights import Weights, repeat


def local_epochs(config: RunConfig) -> int:
    """As many epochs as a client trains in the federation of the run, on average; at least one."""
    return max(1, round(config.fraction * config.rounds * config.local_epochs))


@dataclass(frozen=True, eq=False)
class TrainingAlone:
    """Training from the run's initial weights on the client's own images."""

    training: LocalTraining  # of a round; the optimiser starts anew after its epochs, as in rounds
    epochs: int  # in all
    initial: Weights  # [...]

    def train(self, cohort: Cohort, start: Weights | None = None) -> Weights:
        """The clients' models, [D, ...].

        Args:
            start: Initial weights that were sent, [D, ...]; None: the client has ``initial``.

        """
        weights = repeat(self.initial, len(cohort)) if start is None else start
        length = self.training.epochs
        for done in range(0, self.epochs, length):
            epochs = min(length, self.epochs - done)
            training = self.training.after(done / length, -(-self.epochs // length))
            schedule = training.schedule._replace(epochs=epochs, purpose=f"local/{done}")
            weights = fit(cohort, weights, training.optimizer, schedule).weights
        return weights
