"""Where the gradient by a weight goes, so that it needs no memory of its own."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(slots=True, eq=False)
class Sink:
    """Makes ``into`` ``keep`` x ``into`` + ``scale`` x the gradient, in place, once.

    Autograd would write a gradient as large as the weights, which is read once. Of large weights
    and few images that is a quarter of the time of a step. ``into`` may be the weights: whoever
    adds has read them for the last time.
    """

    into: Tensor  # [D, O, ...], contiguous
    keep: float
    scale: float
    filled: bool = False

    def add(self, dy: Tensor, x: Tensor) -> None:
        """Add ``scale`` x the gradient of ``x @ weight.T``: [D, N, O], [D, N, I]."""
        rows = self.into.view(*self.into.shape[:2], -1)
        rows.baddbmm_(dy.transpose(1, 2), x, beta=self.keep, alpha=self.scale)
        self.filled = True
