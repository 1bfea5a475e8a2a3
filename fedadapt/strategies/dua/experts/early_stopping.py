"""When training gets no better: a lower learning rate first, then the end."""

import math
from typing import NamedTuple


class EarlyStopping(NamedTuple):
    """What is known after some epochs; ``after`` gives what is known after the next.

    An epoch is bad unless its accuracy is above the best before it. The bad epochs since the best
    one are counted: at ``decay_after`` the learning rate falls by ``decay``, at ``stop_after``
    training ends. A learning rate that has fallen stays down.
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
