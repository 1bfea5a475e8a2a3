"""RACL on the client: experts come down one by one, sums stay there, no importance leaves.

The same merge as the server's (``server/mode_merge.py``), as running sums over the experts.
"""

import torch
from torch import Tensor

from fedadapt.client.cohort import Cohort
from fedadapt.weights import Weights

WEIGHTED, TOTAL, PLAIN = "racl-weighted", "racl-total", "racl-plain"
TASKS = "racl-tasks"  # which tasks the sums are over: bit t of an int64 is task t


def added(cohort: Cohort, expert: Weights, omega: Weights, *, task: int) -> dict[str, Weights]:
    """Return what clients keep after one more expert: sums of Omega theta, of Omega and of theta.

    Task 0 begins anew, whatever an earlier run left. A task that is in the sums already, since its
    round is done again, is not added a second time.

    Args:
        expert: theta, stacked [D, ...]; ``omega`` likewise.
        task: Of the expert, counted from 0.

    Returns:
        Float64, each [D, ...].

    """
    theta = {n: expert[n].double() for n in omega}
    terms = {
        WEIGHTED: {n: w.double() * theta[n] for n, w in omega.items()},
        TOTAL: {n: w.double() for n, w in omega.items()},
        PLAIN: {n: t.clone() for n, t in theta.items()},
    }
    bit = torch.full((len(cohort), 1), 1 << task)
    if task == 0:
        return terms | {TASKS: {"tasks": bit}}
    zeros = {n: torch.zeros_like(t) for n, t in theta.items()}
    known = _tasks(cohort)
    is_new = (known & bit) == 0
    summed = {}
    for name, more in terms.items():
        before = cohort.state(name, zeros)
        summed[name] = {n: before[n] + t * _beside(is_new, t) for n, t in more.items()}
    return summed | {TASKS: {"tasks": known | bit}}


def merged_there(cohort: Cohort, weights: Weights) -> Weights:
    """Return ``weights`` with the trunk that each client merged by itself.

    A client has its own trunk if it has answered for every task so far, of which there are as many
    as rounds; otherwise it uses the trunk that came, as on the server. Where no expert's parameter
    matters, the merged one is their mean.
    """
    names = next((states[WEIGHTED].keys() for states in cohort.states if WEIGHTED in states), ())
    zeros = {n: torch.zeros_like(weights[n], dtype=torch.float64) for n in names}
    if not zeros:
        return weights
    is_complete = _tasks(cohort) == (1 << cohort.round) - 1
    weighted, total, plain = (cohort.state(name, zeros) for name in (WEIGHTED, TOTAL, PLAIN))
    trunk = {}
    for n in names:
        mean = plain[n] / max(1, cohort.round)
        merged = torch.where(total[n] > 0, weighted[n] / total[n].clamp(min=1e-300), mean)
        trunk[n] = torch.where(_beside(is_complete, merged), merged.to(weights[n]), weights[n])
    return weights | trunk


def _tasks(cohort: Cohort) -> Tensor:
    """The tasks in each client's sums, as bits: [D, 1], int64."""
    none = {"tasks": torch.zeros(len(cohort), 1, dtype=torch.int64)}
    return cohort.state(TASKS, none)["tasks"]


def _beside(flags: Tensor, tensor: Tensor) -> Tensor:
    """Flags [D, 1] as [D, 1, ..., 1], with as many axes as ``tensor``."""
    return flags.reshape(-1, *[1] * (tensor.dim() - 1))
