"""The weighted mean of models, in the memory of one model."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedadapt.weights import Weights, side_by_side

COLUMNS = 2**16  # of the sum that are added to at a time: they stay in the cache


class StreamingMean:
    """sum_k n_k w_k / sum_k n_k, fed cohort by cohort. FedAvg (McMahan et al. 2017, alg. 1).

    Sums are kept in float64, and clients are added one after the other in the order given, so the
    result does not depend on the division into cohorts. The memory is that of one model.
    """

    def __init__(self) -> None:
        self._together = torch.empty(0)  # the sums of all tensors, in the order of the first answer
        self._sums: Weights = {}  # the same by name: views
        self._kinds: dict[str, torch.dtype] = {}
        self._total = 0.0

    def add(self, weights: Mapping[str, Tensor], by: Tensor) -> None:
        """Add the rows of ``weights`` [D, ...] with the weights ``by`` [D], each > 0.

        Integer tensors are ignored: a count of batches has no mean.
        """
        if not self._sums:
            self._begin({n: t for n, t in weights.items() if t.is_floating_point()})
        shares = by.tolist()
        for d, share in enumerate(shares):
            if not 0 < share < float("inf"):
                raise ValueError(f"row {d}: weight {share}; a weight is finite and > 0")
            self._total += share
        summed = {n: weights[n] for n in self._sums}
        if (matrix := side_by_side(summed)) is not None:
            _add(self._together, matrix, shares)
            return
        for n, t in summed.items():
            _add(self._sums[n].view(-1), t.reshape(len(t), -1), shares)

    def _begin(self, like: Weights) -> None:
        """Make sums of 0 for tensors like these [D, ...]."""
        self._kinds = {n: t.dtype for n, t in like.items()}
        if not like:
            return
        shapes = {n: t.shape[1:] for n, t in like.items()}
        lengths = [shape.numel() for shape in shapes.values()]
        where = next(iter(like.values())).device
        self._together = torch.zeros(sum(lengths), dtype=torch.float64, device=where)
        parts = zip(shapes.items(), self._together.split(lengths), strict=True)
        self._sums = {n: part.view(shape) for (n, shape), part in parts}

    @property
    def empty(self) -> bool:
        return not self._total

    def result(self) -> Weights:
        """Return the mean, [...], in the data type of the tensors that were added."""
        if self.empty:
            raise ValueError("the mean of no models; add at least one")
        return {n: (t / self._total).to(self._kinds[n]) for n, t in self._sums.items()}


def _add(total: Tensor, rows: Tensor, shares: Sequence[float]) -> None:
    """Add each of ``rows`` [D, P] times its share to ``total`` [P], in their order."""
    for sums, part in zip(total.split(COLUMNS), rows.split(COLUMNS, dim=1), strict=True):
        for one, share in zip(part.unbind(), shares, strict=True):
            sums.add_(one.double(), alpha=share)


def weighted_mean(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> Weights:
    """Return the mean of ``states`` weighted by ``weights``; integer tensors are the first state's.

    Args:
        states: Models of equal names and shapes (``module.state_dict()``); not modified.
        weights: One finite number > 0 for each, e.g. its number of examples.

    """
    if len(states) != len(weights) or not states:
        raise ValueError(f"{len(states)} states and {len(weights)} weights; one weight a state")
    mean = StreamingMean()
    for state, weight in zip(states, weights, strict=True):
        if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in states[0].items()}:
            raise ValueError("the states differ in names or shapes; they must be of one network")
        one = {n: t.detach().unsqueeze(0) for n, t in state.items()}
        mean.add(one, torch.tensor([float(weight)], dtype=torch.float64))
    return {n: t.detach().clone() for n, t in states[0].items()} | mean.result()
