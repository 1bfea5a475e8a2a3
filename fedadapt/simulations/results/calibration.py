"""How far models are right where they are sure: calibration, and accuracy against coverage."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedadapt.records import SERVED, Confidence
from fedadapt.simulations.results.accuracies import order_labels

BINS = 15
COVERAGES = np.linspace(0.1, 1.0, 10)


@dataclass(frozen=True)
class Sureness:
    """How sure one label's models are on the clients' own test images."""

    num_clients: int
    accuracy: float  # of all images together, in [0, 1], as all that follows
    raw: float  # mean probability of the predicted class
    ece: float  # expected calibration error, all clients' images pooled
    calibrated: float  # the same two at each client's own temperature
    ece_calibrated: float
    temperature: float  # median over clients
    aurc: float  # mean over clients of the area under the risk-coverage curve
    by_coverage: tuple[float, ...]  # mean over clients of the accuracy on the surest tenth, ...


def sureness(
    rows: Iterable[Confidence],
    adaptations: Sequence[str] = (),
    chosen: Mapping[int, tuple[str, str]] = MappingProxyType({}),
) -> dict[str, Sureness]:
    """Summarise the rows of one round, by label, over the clients that took part in training.

    Args:
        rows: Of one round.
        adaptations: In the order in which the run names them.
        chosen: The model and adaptation that a client chose, for a label ``served``.

    """
    by_label: dict[str, list[Confidence]] = defaultdict(list)
    for row in rows:
        if row.seen:
            by_label[row.label].append(row)
            if chosen.get(row.client) == (row.model, row.adaptation):
                by_label[SERVED].append(row)
    return {label: _summary(by_label[label]) for label in order_labels(by_label, adaptations)}


def _summary(rows: Sequence[Confidence]) -> Sureness:
    right = np.concatenate([row.right for row in rows])
    raw, calibrated = (
        np.concatenate([getattr(row, name) for row in rows]) for name in ("raw", "calibrated")
    )
    curves = [accuracy_by_coverage(row.calibrated, row.right) for row in rows]
    return Sureness(
        num_clients=len(rows),
        accuracy=float(right.mean()),
        raw=float(raw.mean()),
        ece=expected_calibration_error(raw, right),
        calibrated=float(calibrated.mean()),
        ece_calibrated=expected_calibration_error(calibrated, right),
        temperature=float(np.median([row.temperature for row in rows])),
        aurc=float(np.mean([area_under_risk(row.calibrated, row.right) for row in rows])),
        by_coverage=tuple(np.mean(curves, axis=0).tolist()),
    )


def expected_calibration_error(sure: ArrayLike, right: ArrayLike, bins: int = BINS) -> float:
    """Return sum_b n_b / n |accuracy_b - sureness_b| over bins of equal width. Guo et al. 2017.

    Args:
        sure: Probability of the predicted class of each image, [N]; a bin has its upper edge.
        right: Whether the prediction is right, [N].

    """
    sure_, right_ = np.asarray(sure, np.float64), np.asarray(right, np.float64)
    place = np.clip(np.ceil(sure_ * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=right_ - sure_, minlength=bins)
    return float(np.abs(gaps).sum() / len(sure_))


def risks(sure: ArrayLike, right: ArrayLike) -> NDArray[np.float64]:
    """Return the share of wrong answers among the k surest images, for k = 1 to N.

    Images that are equally sure have no order among them: each counts with the mean of its equals.
    """
    sure_, wrong = np.asarray(sure, np.float64), 1 - np.asarray(right, np.float64)
    _, equals = np.unique(-sure_, return_inverse=True)  # 0: the surest
    share = np.bincount(equals, weights=wrong) / np.bincount(equals)
    each = share[np.sort(equals)]
    return np.cumsum(each) / np.arange(1, len(each) + 1)


def area_under_risk(sure: ArrayLike, right: ArrayLike) -> float:
    """Return the mean of ``risks`` over k: AURC (Geifman and El-Yaniv 2017); 0 is the best."""
    return float(risks(sure, right).mean())


def accuracy_by_coverage(
    sure: ArrayLike, right: ArrayLike, coverages: NDArray[np.float64] = COVERAGES
) -> NDArray[np.float64]:
    """Return the accuracy where only the surest share of images is answered, for each share."""
    risk = risks(sure, right)
    counts = np.maximum(1, np.ceil(coverages * len(risk) - 1e-9).astype(int))
    return 1 - risk[counts - 1]
