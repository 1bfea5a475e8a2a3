"""Check the answers of clients before they are used, and reject the faulty ones.

A NaN, a shape that would broadcast, or a negative weight in one answer would spoil the aggregate.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fedadapt.messages import Answers, Failure, Update
from fedadapt.weights import Weights, side_by_side

MAX_EXAMPLES = 1e12
"""More examples than any client holds; a larger weight would make the others' answers vanish."""


MAX_MAGNITUDE = 1e12
"""Larger than any value of a network that works, and far from where float32 ends: a finite 3e38 in
one answer would make all other clients' training overflow in the next round."""


class Spec(NamedTuple):
    """Shape and data type of one array of one client."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Expected:
    """The arrays that the answer of one client must consist of."""

    arrays: Mapping[str, Spec]

    @staticmethod
    def of(weights: Mapping[str, Tensor]) -> "Expected":
        """Return the names, shapes and types of one model, without a client axis."""
        return Expected({n: Spec(tuple(t.shape), t.dtype) for n, t in weights.items()})

    def names_fault(self, names: Iterable[str], what: str = "arrays") -> str:
        """Describe missing and unexpected names; an empty string if there are none."""
        present = set(names)
        missing, extra = sorted(set(self.arrays) - present), sorted(present - set(self.arrays))
        validation_errors = [f"missing {listed(missing)}"] if missing else []
        validation_errors += [f"unexpected {listed(extra)}"] if extra else []
        return f"{what}: {'; '.join(validation_errors)}" if validation_errors else ""


def listed(names: Iterable[str]) -> str:
    """Return at most three names, shortened, on one line: a hostile client may have sent them."""
    names = list(names)
    shown = ", ".join(repr(n[:60]) for n in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def word(dtype: torch.dtype) -> str:
    """Return the name of a type without ``torch.``: ``float32``."""
    return str(dtype).removeprefix("torch.")


def validation_errors(
    answers: Answers,
    expected: Expected,
    sent_rows: Weights | None,
    *,
    max_norm: float = 0.0,
) -> dict[int, str]:
    """Describe the first fault of each faulty answer, in one line that names the array.

    Args:
        sent_rows: The weights that the clients started from, a row each; only for ``max_norm``.
        max_norm: The longest update allowed (L2 over all floating-point arrays); 0: no limit.

    """
    if answers.update is None:
        return {}
    update, num_clients = answers.update, len(answers.clients)
    fault = _structure_fault(update, expected, num_clients)
    if fault:  # all rows of a stack have the same structure, so all clients have the fault
        return dict.fromkeys(answers.clients, fault)
    reasons = _Reasons(answers.clients)
    weights = update.num_examples
    reasons.add(
        (weights > 0) & (weights <= MAX_EXAMPLES),  # NaN is neither
        lambda d: (
            f"num-examples: {weights[d].item():g}, expected above 0, at most {MAX_EXAMPLES:g}"
        ),
    )
    reasons.add_finite("array", update.weights)
    reasons.add_finite("metric", update.metrics)
    reasons.add_finite("report", update.report)
    if max_norm:
        if sent_rows is None:
            raise ValueError("max_norm needs sent_rows: the weights the clients started from")
        norms = update_norms(update.weights, sent_rows, num_clients)
        reasons.add(
            norms <= max_norm,
            lambda d: f"arrays: L2 norm {norms[d].item():g} of the update, at most {max_norm:g}",
        )
    return reasons.faults


def accept(answers: Answers, validation_errors: Mapping[int, str]) -> Answers:
    """Return the answers without the faulty clients, which become failures ("rejected", reason).

    Their answers still count in ``bytes_up`` and ``seconds``. Without faults this returns
    ``answers`` itself, without a copy.
    """
    if not validation_errors:
        return answers
    strangers = set(validation_errors) - set(answers.clients)
    if strangers:
        raise ValueError(f"faults name clients {sorted(strangers)}, which did not answer")
    positions = [i for i, d in enumerate(answers.clients) if d not in validation_errors]
    rejected = {
        d: Failure("rejected", validation_errors[d])
        for d in answers.clients
        if d in validation_errors
    }
    return replace(
        answers,
        clients=tuple(answers.clients[i] for i in positions),
        update=_rows_of(answers.update, positions) if answers.update and positions else None,
        failures={**answers.failures, **rejected},
    )


def _structure_fault(update: Update, expected: Expected, num_clients: int) -> str:
    """Describe the first fault in names, shapes or types; an empty string if there is none."""
    fault = expected.names_fault(update.weights)
    if fault:
        return fault
    for name, spec in expected.arrays.items():
        tensor = update.weights[name]
        if tuple(tensor.shape) != (num_clients, *spec.shape):
            shape, wanted = tuple(tensor.shape), (num_clients, *spec.shape)
            return f"array {name!r}: stacked shape {shape}, expected {wanted}"
        if tensor.dtype != spec.dtype:
            return f"array {name!r}: dtype {word(tensor.dtype)}, expected {word(spec.dtype)}"
    numbers = {"num-examples": update.num_examples}
    numbers |= {f"metric {n!r}": t for n, t in update.metrics.items()}
    for label, tensor in numbers.items():
        if tuple(tensor.shape) != (num_clients,):
            return f"{label}: shape {tuple(tensor.shape)}, expected one number a client"
        if tensor.dtype == torch.bool or tensor.is_complex():
            return f"{label}: dtype {word(tensor.dtype)}, expected real numbers"
    for name, tensor in update.report.items():
        if tensor.shape[:1] != (num_clients,):
            shape = tuple(tensor.shape)
            return f"report {name!r}: shape {shape}, expected {num_clients} rows, one a client"
    return ""


class _Reasons:
    """The first fault found for each client."""

    def __init__(self, clients: tuple[int, ...]) -> None:
        self.clients = clients
        self.faults: dict[int, str] = {}

    def add(self, ok: Tensor, reason: Callable[[int], str]) -> None:
        """Record ``reason(d)`` for every row d in which ``ok`` ([D], bool) is false."""
        if ok.all():
            return
        for d in (~ok).nonzero().flatten().tolist():
            self.faults.setdefault(self.clients[d], reason(d))

    def add_finite(self, what: str, tensors: Weights) -> None:
        """Record every client with a NaN, an infinity or a value beyond ``MAX_MAGNITUDE``."""
        floats = {n: t for n, t in tensors.items() if t.is_floating_point() or t.is_complex()}
        if not floats:
            return
        # NaN is not <= anything, so the comparisons find all three.
        together = side_by_side(floats)
        if together is not None and together.is_floating_point() and together.numel():
            least, most = together.aminmax()
            if bool((torch.maximum(-least, most) <= MAX_MAGNITUDE).all()):
                return
        fine = torch.stack([_largest(t) <= MAX_MAGNITUDE for t in floats.values()])
        if fine.all():  # a GPU is synchronised once, not once a tensor
            return
        for (name, tensor), row_fine in zip(floats.items(), fine, strict=True):
            for d in (~row_fine).nonzero().flatten().tolist():
                self.faults.setdefault(self.clients[d], f"{what} {name!r}: {unusable(tensor[d])}")


def unusable(tensor: Tensor) -> str:
    """Describe the values of a tensor that are not finite, or else too large to be used."""
    bad = int((~tensor.isfinite()).sum())
    if bad:
        return f"{bad} of {tensor.numel()} values NaN or infinite, expected finite"
    bad = int((tensor.abs() > MAX_MAGNITUDE).sum())
    return f"{bad} of {tensor.numel()} values beyond {MAX_MAGNITUDE:g}, expected smaller"


def _largest(tensor: Tensor) -> Tensor:
    """The largest magnitude of each row, [D]; NaN where there is one, 0 in a row of nothing."""
    if tensor.numel() == 0:
        return torch.zeros(len(tensor), device=tensor.device)
    flat = tensor.reshape(len(tensor), -1)
    if tensor.is_complex():
        return flat.abs().amax(1)
    # Two passes: `aminmax` along a dimension takes ten times as long as both.
    return torch.maximum(-flat.amin(1), flat.amax(1))


def update_norms(weights: Weights, sent: Weights, num_clients: int) -> Tensor:
    """Return ||weights - sent|| of each client over all floating-point arrays, [D], float64."""
    total = torch.zeros(())
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            continue
        if sent[name].shape != tensor.shape:
            raise ValueError(f"sent_rows: {name!r} must have a row for each client that answered")
        change = tensor.double() - sent[name].double()
        total = total.to(change) + (change * change).reshape(num_clients, -1).sum(1)
    return total.sqrt().expand(num_clients)


def _rows_of(update: Update, positions: list[int]) -> Update:
    def pick(tensors: Weights) -> Weights:
        return {
            n: t.index_select(0, torch.tensor(positions, device=t.device))
            for n, t in tensors.items()
        }

    return Update(
        weights=pick(update.weights),
        num_examples=update.num_examples[positions],
        metrics=pick(update.metrics),
        report=pick(update.report),
        states={part: pick(weights) for part, weights in update.states.items()},
    )
