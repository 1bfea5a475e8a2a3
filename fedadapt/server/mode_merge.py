"""Merge experts into one model, weighted by the importance of each parameter."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from fedadapt.errors import InputError, unknown
from fedadapt.server.checks import Expected, listed
from fedadapt.weights import Weights, repeat, row

ZeroImportance = Literal["mean", "zero"]

AT_ONCE = 2**16  # numbers of one tensor that are merged together, of as many clients as have them


def mode_merge(
    experts: Sequence[Mapping[str, Tensor]],
    importances: Sequence[Mapping[str, Tensor]],
    *,
    mixing: Sequence[float] | None = None,
    zero_importance: ZeroImportance = "mean",
) -> Weights:
    """sum_t alpha_t Omega_t theta_t / sum_s alpha_s Omega_s, element by element.

    De Lange et al. 2020 (DUA), eqs 1 and 2; mode-IMM of Lee et al. 2017, eq. 10: the mode of the
    product of Gaussians with means theta_t and variances 1 / (alpha_t Omega_t).

    >>> import torch
    >>> one, two = {"w": torch.tensor([0.0, 0.0])}, {"w": torch.tensor([1.0, 1.0])}
    >>> omega = {"w": torch.tensor([3.0, 0.0])}, {"w": torch.tensor([1.0, 0.0])}
    >>> mode_merge([one, two], omega)["w"].tolist()
    [0.25, 0.5]

    Args:
        experts: theta_1 ... theta_T, models of one architecture (``module.state_dict()``); their
            heads may differ in shape. Not modified.
        importances: Omega_1 ... Omega_T, finite and non-negative, of any scale, for the parameters
            to be merged. Other tensors (heads, batch-norm statistics) are the last expert's.
        mixing: alpha_1 ... alpha_T, non-negative, of sum 1; equal where None.
        zero_importance: The value of an element whose importances are all 0: the ``mean`` of the
            experts, weighted by ``mixing``, or ``zero``, as in DUA's released code. A single
            expert stays as it is.

    Returns:
        A model of the last expert's names, shapes and types.

    Raises:
        InputError: No expert; importances that are negative, not finite or do not fit the experts.

    """
    stacked = [{n: t.unsqueeze(0) for n, t in omega.items()} for omega in importances]
    return row(mode_merges(experts, stacked, mixing=mixing, zero_importance=zero_importance), 0)


def mode_merges(
    experts: Sequence[Mapping[str, Tensor]],
    importances: Sequence[Mapping[str, Tensor]],
    *,
    mixing: Sequence[float] | None = None,
    zero_importance: ZeroImportance = "mean",
) -> Weights:
    """Merge for a cohort: importances [D, ...] and the same experts [...] for all clients.

    Beside the result, it needs the memory of one tensor of one client, or of ``AT_ONCE`` numbers.

    Returns:
        Models, each tensor [D, ...]; tensors that are not merged are expanded views.

    """
    if zero_importance not in ("mean", "zero"):
        raise unknown("mode_merge: zero_importance", zero_importance, ("mean", "zero"))
    alphas = _mixing(mixing, len(experts))
    num_clients = _checked(experts, importances)
    # The mode of one Gaussian is its mean, however wide it is.
    idle = float(zero_importance == "mean" or len(experts) == 1)
    present = [t for t, alpha in enumerate(alphas) if alpha > 0]
    shares = [alphas[t] for t in present]
    last = experts[-1]
    merged = {}
    for n in importances[0]:
        size = max(1, AT_ONCE // max(1, last[n].numel()))  # clients
        means = [experts[t][n].detach() for t in present]
        parts = []
        for d in range(0, num_clients, size):
            known = [importances[t][n][d : d + size] for t in present]
            parts.append(_mode(means, known, shares, idle).to(last[n]))
        merged[n] = torch.cat(parts)
    unmerged = {n: t.detach().clone() for n, t in last.items() if n not in merged}
    every = repeat(unmerged, num_clients) | merged
    return {n: every[n] for n in last}


def _mode(
    means: Sequence[Tensor], importances: Sequence[Tensor], shares: Sequence[float], idle: float
) -> Tensor:
    """Merge one tensor of some clients, in float64: means [...], importances [D, ...].

    Where all importances are 0, it is ``idle`` times the mean by the shares.
    """
    known = [p.detach().to(means[0].device, torch.float64) for p in importances]
    if any(t.dtype == torch.float64 for t in (*importances, *means)):
        # Relative to the largest one, nothing under- or overflows; products of float32 cannot.
        largest = torch.stack(known).amax(0).clamp_(min=torch.finfo(torch.float64).tiny)
        known = [p / largest for p in known]
    total, merged = torch.zeros_like(known[0]), torch.zeros_like(known[0])
    for alpha, p, mean in zip(shares, known, means, strict=True):
        total.add_(p, alpha=alpha)
        merged.addcmul_(p, mean.double(), value=alpha)
    matters = total > 0
    if matters.all():
        return merged.div_(total)
    # The mean by the shares alone, as if all importances were 1.
    plain = sum(alpha * mean.double() for alpha, mean in zip(shares, means, strict=True))
    return torch.where(matters, merged / total, idle / sum(shares) * plain)


def _mixing(mixing: Sequence[float] | None, num_experts: int) -> list[float]:
    """Return the mixing weights, checked."""
    if not num_experts:
        raise InputError("mode_merge: 0 experts; it needs at least one")
    if mixing is None:
        return [1 / num_experts] * num_experts
    alphas = [float(alpha) for alpha in mixing]
    if len(alphas) != num_experts:
        raise InputError(
            f"mode_merge: {len(alphas)} mixing weights for {num_experts} experts; one an expert"
        )
    if not all(alpha >= 0 for alpha in alphas) or not math.isclose(sum(alphas), 1, abs_tol=1e-6):
        shown = ", ".join(f"{alpha:g}" for alpha in alphas)
        raise InputError(f"mode_merge: mixing weights {shown}; they must be >= 0 and sum to 1")
    return alphas


def _checked(
    experts: Sequence[Mapping[str, Tensor]], importances: Sequence[Mapping[str, Tensor]]
) -> int:
    """Check importances against experts, and return the number of clients."""
    if len(importances) != len(experts):
        raise InputError(
            f"mode_merge: {len(importances)} importances for {len(experts)} experts; one an expert"
        )
    if not importances[0]:
        raise InputError("mode_merge: importances of no parameter; name those to be merged")
    names, num_clients = Expected.of(experts[0]), len(next(iter(importances[0].values())))
    merged = Expected.of(importances[0])
    for number, (expert, omega) in enumerate(zip(experts, importances, strict=True), start=1):
        fault = names.names_fault(expert, f"expert {number}")
        fault = fault or merged.names_fault(omega, f"importances of expert {number}")
        if fault:
            raise InputError(f"mode_merge: {fault}; all must have the names of the first")
        strange = [n for n in omega if n not in expert]
        if strange:
            raise InputError(
                f"mode_merge: importances of expert {number}: {listed(strange)}, "
                "which no expert has"
            )
        for n, t in omega.items():
            fault = _fault(t, (num_clients, *experts[0][n].shape), expert[n])
            if fault:
                raise InputError(f"mode_merge: importances of expert {number}: {n!r}: {fault}")
    return num_clients


def _fault(importance: Tensor, wanted: tuple[int, ...], parameter: Tensor) -> str:
    """Describe the fault of one tensor, or return an empty string. Shapes omit the client axis."""
    if tuple(parameter.shape) != wanted[1:]:
        return f"the expert's shape is {tuple(parameter.shape)}, the first expert's {wanted[1:]}"
    if tuple(importance.shape[1:]) != wanted[1:]:
        return f"shape {tuple(importance.shape[1:])}; expected {wanted[1:]}, as the parameter"
    if len(importance) != wanted[0]:
        return f"{len(importance)} clients; the first has {wanted[0]}"
    if not importance.numel():
        return ""
    least, most = importance.aminmax()  # NaN where there is one
    if least >= 0 and most < math.inf:
        return ""
    fine = (importance >= 0) & (importance < math.inf)
    bad = importance[~fine]
    where = (~fine).nonzero()[0, 0].item()
    of = f" (client {where} of {wanted[0]})" if wanted[0] > 1 else ""
    return f"{len(bad)} values such as {bad[0].item():g}{of}; expected finite and >= 0"
