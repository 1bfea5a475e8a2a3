"""RACL on the client: experts come down one by one, sums stay there, no importance leaves.

The same merge as the server's (``server/mode_merge.py``), as running sums over the experts.
"""

import torch

from fedadapt.client.cohort import Cohort
from fedadapt.weights import Weights

WEIGHTED, TOTAL, PLAIN = "racl-weighted", "racl-total", "racl-plain"


def added(cohort: Cohort, expert: Weights, omega: Weights, *, first: bool) -> dict[str, Weights]:
    """What clients keep after one more expert: sums of Omega theta, of Omega and of theta.

    Args:
        expert: theta, stacked [D, ...]; ``omega`` likewise.
        first: Forget what was kept of an earlier run.

    Returns:
        Float64, each [D, ...].

    """
    theta = {n: expert[n].double() for n in omega}
    more = {
        WEIGHTED: {n: w.double() * theta[n] for n, w in omega.items()},
        TOTAL: {n: w.double() for n, w in omega.items()},
        PLAIN: {n: t.clone() for n, t in theta.items()},
    }
    if first:
        return more | {"racl-experts": {"count": torch.ones(len(cohort), 1)}}
    zeros = {n: torch.zeros_like(t) for n, t in theta.items()}
    count = cohort.state("racl-experts", {"count": torch.zeros(len(cohort), 1)})
    before = {name: cohort.state(name, zeros) for name in more}
    summed = {
        name: {n: before[name][n] + t for n, t in terms.items()} for name, terms in more.items()
    }
    return summed | {"racl-experts": {"count": count["count"] + 1}}


def merged_there(cohort: Cohort, weights: Weights) -> Weights:
    """``weights`` with the trunk that each client merged by itself; as they are where it has none.

    Where no expert's parameter matters it is their mean.
    """
    names = next((states[WEIGHTED].keys() for states in cohort.states if WEIGHTED in states), ())
    zeros = {n: torch.zeros_like(weights[n], dtype=torch.float64) for n in names}
    if not zeros:
        return weights
    count = cohort.state("racl-experts", {"count": torch.zeros(len(cohort), 1)})["count"]
    weighted, total, plain = (cohort.state(name, zeros) for name in (WEIGHTED, TOTAL, PLAIN))
    found = {}
    for n in names:
        experts = count.reshape(-1, *[1] * (total[n].dim() - 1)).to(total[n])
        mean = plain[n] / experts.clamp(min=1)
        merged = torch.where(total[n] > 0, weighted[n] / total[n].clamp(min=1e-300), mean)
        found[n] = torch.where(experts > 0, merged.to(weights[n]), weights[n])
    return weights | found
