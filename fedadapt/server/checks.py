"""Checking what devices answered before any of it is used: reject the answer, not the run.

A NaN, a shape that would broadcast, or a negative weight in one answer spoils the model of all.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fedadapt.messages import Answers, Failure, Update
from fedadapt.weights import Weights

MAX_EXAMPLES = 1e12
"""More examples than any device holds; a larger weight would make the others' answers vanish."""


class Spec(NamedTuple):
    """One array of one device."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Expected:
    """The arrays one device's answer must consist of."""

    arrays: Mapping[str, Spec]

    @staticmethod
    def of(weights: Mapping[str, Tensor]) -> "Expected":
        """The names, shapes and dtypes of one model, without a device axis."""
        return Expected({n: Spec(tuple(t.shape), t.dtype) for n, t in weights.items()})

    @staticmethod
    def of_rows(weights: Mapping[str, Tensor]) -> "Expected":
        """The same for a row of a stack, [D, ...]."""
        return Expected({n: Spec(tuple(t.shape[1:]), t.dtype) for n, t in weights.items()})

    def names_fault(self, names: Iterable[str], what: str = "arrays") -> str:
        """What is missing and what is too much, or an empty string."""
        found = set(names)
        missing, extra = sorted(set(self.arrays) - found), sorted(found - set(self.arrays))
        faults = [f"missing {listed(missing)}"] if missing else []
        faults += [f"unexpected {listed(extra)}"] if extra else []
        return f"{what}: {'; '.join(faults)}" if faults else ""


def listed(names: Iterable[str]) -> str:
    """Three names at most, each short and on one line: they may come from a hostile sender."""
    names = list(names)
    shown = ", ".join(repr(n[:60]) for n in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def word(dtype: torch.dtype) -> str:
    """``float32`` rather than ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def faults(
    answers: Answers,
    expected: Expected,
    sent_rows: Weights | None,
    *,
    max_norm: float = 0.0,
) -> dict[int, str]:
    """What is wrong with each faulty device's answer: one line naming the array.

    Args:
        sent_rows: what the devices of ``answers`` started from, a row each; only for ``max_norm``.
        max_norm: the longest change allowed, L2 over all floating-point arrays; 0: no limit.
    """
    if answers.update is None:
        return {}
    update, num_devices = answers.update, len(answers.devices)
    fault = _structure_fault(update, expected, num_devices)
    if fault:  # a stack has one structure, so every device of it has the fault
        return dict.fromkeys(answers.devices, fault)
    reasons = _Reasons(answers.devices)
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
            raise ValueError("max_norm needs sent_rows: the weights the devices started from")
        norms = _change(update.weights, sent_rows, num_devices)
        reasons.add(
            norms <= max_norm,
            lambda d: f"arrays: L2 norm {norms[d].item():g} of the update, at most {max_norm:g}",
        )
    return reasons.found


def accept(answers: Answers, faults: Mapping[int, str]) -> Answers:
    """The answers without the faulty devices, which become failures ("rejected", reason).

    What they sent still counts in ``bytes_up`` and ``seconds``. Without faults this is ``answers``
    itself: nothing is copied.
    """
    if not faults:
        return answers
    strangers = set(faults) - set(answers.devices)
    if strangers:
        raise ValueError(f"faults name devices {sorted(strangers)}, which did not answer")
    positions = [i for i, d in enumerate(answers.devices) if d not in faults]
    rejected = {d: Failure("rejected", faults[d]) for d in answers.devices if d in faults}
    return replace(
        answers,
        devices=tuple(answers.devices[i] for i in positions),
        update=_rows_of(answers.update, positions) if answers.update and positions else None,
        failures={**answers.failures, **rejected},
    )


def _structure_fault(update: Update, expected: Expected, num_devices: int) -> str:
    """Names, shapes and dtypes: the first fault, or an empty string."""
    fault = expected.names_fault(update.weights)
    if fault:
        return fault
    for name, spec in expected.arrays.items():
        tensor = update.weights[name]
        if tuple(tensor.shape) != (num_devices, *spec.shape):
            found, wanted = tuple(tensor.shape), (num_devices, *spec.shape)
            return f"array {name!r}: stacked shape {found}, expected {wanted}"
        if tensor.dtype != spec.dtype:
            return f"array {name!r}: dtype {word(tensor.dtype)}, expected {word(spec.dtype)}"
    numbers = {"num-examples": update.num_examples}
    numbers |= {f"metric {n!r}": t for n, t in update.metrics.items()}
    for label, tensor in numbers.items():
        if tuple(tensor.shape) != (num_devices,):
            return f"{label}: shape {tuple(tensor.shape)}, expected one number a device"
        if tensor.dtype == torch.bool or tensor.is_complex():
            return f"{label}: dtype {word(tensor.dtype)}, expected real numbers"
    for name, tensor in update.report.items():
        if tensor.shape[:1] != (num_devices,):
            found = tuple(tensor.shape)
            return f"report {name!r}: shape {found}, expected {num_devices} rows, one a device"
    return ""


class _Reasons:
    """The first fault of each device."""

    def __init__(self, devices: tuple[int, ...]) -> None:
        self.devices = devices
        self.found: dict[int, str] = {}

    def add(self, ok: Tensor, reason: Callable[[int], str]) -> None:
        """Note ``reason(d)`` for every row d of ``ok`` ([D], bool) that is false."""
        if ok.all():
            return
        for d in (~ok).nonzero().flatten().tolist():
            self.found.setdefault(self.devices[d], reason(d))

    def add_finite(self, what: str, tensors: Weights) -> None:
        """Note every device with a NaN or an infinity.

        One pass and no mask: a sum is not finite where a term is not. The few rows whose sum is
        not finite are then looked at value by value, for a sum may also overflow.
        """
        floats = {n: t for n, t in tensors.items() if t.is_floating_point() or t.is_complex()}
        if not floats:
            return
        sums = [t.flatten(1).sum(1) if t.ndim > 1 else t for t in floats.values()]
        fine = torch.stack([s.isfinite() for s in sums])
        if fine.all():  # a GPU is waited for once, not once a tensor
            return
        for (name, tensor), row_fine in zip(floats.items(), fine, strict=True):
            for d in (~row_fine).nonzero().flatten().tolist():
                bad = int((~tensor[d].isfinite()).sum())
                if bad:
                    values = f"{bad} of {tensor[d].numel()} values"
                    reason = f"{what} {name!r}: {values} NaN or infinite, expected finite"
                    self.found.setdefault(self.devices[d], reason)


def _change(weights: Weights, sent: Weights, num_devices: int) -> Tensor:
    """||weights - sent|| of each device over all floating-point arrays: [D], float64."""
    total = torch.zeros(())
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            continue
        if sent[name].shape != tensor.shape:
            raise ValueError(f"sent_rows: {name!r} must have a row for each device that answered")
        change = tensor.double() - sent[name].double()
        total = total.to(change) + (change * change).reshape(num_devices, -1).sum(1)
    return total.sqrt().expand(num_devices)


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
        kept={part: pick(weights) for part, weights in update.kept.items()},
    )
