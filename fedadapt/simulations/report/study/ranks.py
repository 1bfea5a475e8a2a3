"""Mean ranks of methods over clients, and how far apart they must be: Demšar 2006.

Each client ranks the methods by accuracy, 1 is the best, and equal ones share the mean of their
ranks. Friedman's test asks whether the methods differ at all, Nemenyi's which pairs do.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
DECIMALS = 9  # accuracies that differ by less are equal: sums of the same shares are


class Ranks(NamedTuple):
    """Methods in the order of their mean ranks, the best first."""

    methods: tuple[int, ...]  # rows of what was ranked
    mean: tuple[float, ...]  # mean rank of each of them, from 1
    difference: float  # critical, at 5 %: Nemenyi
    num_clients: int
    p: float  # Friedman: all methods are alike
    alike: tuple[tuple[int, int], ...]  # first and last place of those that do not differ


def ranks(accuracy: NDArray[np.float64]) -> Ranks | None:
    """Rank methods on clients: [M, N] accuracies without NaN; None with M < 2 or N < 2.

    Clients of one federation share its models and are not independent. The ranks describe these
    clients; they do not foretell other federations.
    """
    from scipy.stats import rankdata

    num_methods, num_clients = accuracy.shape
    if num_methods < 2 or num_clients < 2:
        return None
    by_client = rankdata(-accuracy.round(DECIMALS), axis=0)
    mean = by_client.mean(1)
    order = np.argsort(mean, kind="stable")
    distance = critical_difference(num_methods, num_clients)
    return Ranks(
        tuple(order.tolist()),
        tuple(mean[order].tolist()),
        distance,
        num_clients,
        friedman(by_client),
        _alike(mean[order], distance),
    )


def critical_difference(num_methods: int, num_clients: int) -> float:
    """Return q sqrt(k (k + 1) / (6 N)); q is that of the Studentised range over sqrt 2."""
    from scipy.optimize import brentq

    q = float(brentq(lambda x: range_exceeds(x, num_methods) - LEVEL, 0.1, 20)) / math.sqrt(2)
    return q * math.sqrt(num_methods * (num_methods + 1) / (6 * num_clients))


def range_exceeds(width: float, count: int) -> float:
    """Return the probability that ``count`` standard normal numbers span more than ``width``.

    It is 1 - k times the integral of phi(z) (Phi(z) - Phi(z - width))^(k - 1). The integrand is
    smooth and vanishes at both ends, where the trapezoidal rule is as exact as the numbers are;
    scipy's distribution, which has any degrees of freedom, takes seconds.
    """
    from scipy.special import ndtr

    z = np.linspace(-9, 9 + width, 2001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    inside = count * density * (ndtr(z) - ndtr(z - width)) ** (count - 1)
    return 1 - float(np.trapezoid(inside, z))


def friedman(by_client: NDArray[np.float64]) -> float:
    """Return the p-value of Friedman's test, corrected for ties; 1 where every client ties."""
    from scipy.stats import chi2

    k, n = by_client.shape
    between = 12 * n / (k * (k + 1)) * ((by_client.mean(1) - (k + 1) / 2) ** 2).sum()
    ties = sum(
        float((counts**3 - counts).sum())
        for counts in (np.unique(column, return_counts=True)[1] for column in by_client.T)
    )
    left = 1 - ties / (n * k * (k**2 - 1))
    return float(chi2.sf(between / left, k - 1)) if left > 0 else 1.0


def _alike(mean: NDArray[np.float64], distance: float) -> tuple[tuple[int, int], ...]:
    """Return the longest stretches, of two or more, whose ends are less than ``distance`` apart."""
    found: list[tuple[int, int]] = []
    for first in range(len(mean)):
        last = int(np.flatnonzero(mean - mean[first] < distance)[-1])
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return tuple(found)
