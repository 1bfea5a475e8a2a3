"""Lower the learning rate, and then stop, when the validation accuracy no longer improves."""

import math
from typing import NamedTuple


class EarlyStopping(NamedTuple):
    """The state after some epochs; ``after`` returns the state after the next one.

    An epoch is bad unless its accuracy is above the best one before it. Bad epochs since the best
    one are counted: at ``decay_after`` the learning rate is multiplied by ``decay``, and at
    ``stop_after`` training ends. The learning rate is never raised again.
    """

    lr: float  # of the next epoch
    decay_after: int
    decay: float
    stop_after: int
    best: float = -math.inf  # accuracy
    bad: int = 0  # epochs in a row

    def after(self, accuracy: float) -> "EarlyStopping":
        if accuracy > self.best:
            return self._replace(best=accuracy, bad=0)
        bad = self.bad + 1
        return self._replace(bad=bad, lr=self.lr * (self.decay if bad == self.decay_after else 1))

    @property
    def is_over(self) -> bool:
        return self.bad >= self.stop_after
