"""The local adaptations by name, with their hyper-parameters; the defaults are the papers'.

No torch here: the command line checks ``--adapt`` and ``--adapt-args`` before anything is loaded.
What each one does is in ``client/adaptations/apply.py``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

from fedadapt.config import RunConfig, parse_arguments
from fedadapt.errors import InputError, nearest, unknown
from fedadapt.parameters import Scalar, as_float

Part = Literal["train", "adapt"]


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """What every local adaptation has: a name, and whether it needs batch normalisation."""

    name: ClassVar[str]
    needs_batch_norm: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for f in fields(self):
            _check(f"{self.name}.{f.name.replace('_', '-')}", f.name, getattr(self, f.name))


@dataclass(frozen=True, kw_only=True)
class NoAdaptation(Adaptation):
    """The model as it came."""

    name: ClassVar[str] = "none"
    needs_labels: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class AdaBN(Adaptation):
    """Batch-norm statistics of the client's images; no labels. Li et al. 2016; DUA, sec. 3.3."""

    name: ClassVar[str] = "adabn"
    needs_batch_norm: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    batch_size: int = 20
    part: Part = "adapt"


@dataclass(frozen=True, kw_only=True)
class AdaBNS(Adaptation):
    """AdaBN, and batch-norm scale and shift trained on the client. DUA, sec. 3.3."""

    name: ClassVar[str] = "adabn-s"
    needs_batch_norm: ClassVar[bool] = True
    epochs: int = 5
    lr: float = 0.001
    momentum: float = 0.9
    batch_size: int = 20
    part: Part = "adapt"


@dataclass(frozen=True, kw_only=True)
class Tuning(Adaptation):
    """Training on the client. ``epochs`` defaults to PFA's own budget, 30 rounds of 5 epochs.

    ``stage``: epochs after which the optimiser starts anew, as it does in federated rounds, and
    the model is looked at where the run records curves; 0: one stage.
    """

    epochs: int = 150
    stage: int = 0
    lr: float = 0.01
    momentum: float = 0.5
    weight_decay: float = 0.0
    batch_size: int = 32
    part: Part = "train"
    trainable: Literal["all", "head", "norm-affine"] = "all"


@dataclass(frozen=True, kw_only=True)
class FineTune(Tuning):
    """Cross-entropy. Yu et al. 2020, sec. 3.1; PFA, sec. 5."""

    name: ClassVar[str] = "fine-tune"


@dataclass(frozen=True, kw_only=True)
class Kd(Tuning):
    """Distillation: keep predicting like the model received, the frozen teacher. Yu et al., 3.3.

    ``share`` is the weight of the teacher's part of the loss.
    """

    name: ClassVar[str] = "kd"
    share: float = 0.95
    temperature: float = 6.0


@dataclass(frozen=True, kw_only=True)
class Ewc(Tuning):
    """Slowly where the model received is sure. Yu et al. 2020, sec. 3.2.

    ``fisher``: ``federation`` is the clients' mean, weighted by examples (nothing else leaves a
    client); ``own`` is the client's alone.
    """

    name: ClassVar[str] = "ewc"
    lam: float = 5000.0
    fisher: Literal["federation", "own"] = "federation"


ADAPTATIONS: dict[str, type[Adaptation]] = {
    kind.name: kind for kind in (NoAdaptation, AdaBN, AdaBNS, FineTune, Kd, Ewc)
}


def parse(config: RunConfig) -> list[Adaptation]:
    """The adaptations a run compares, in the order given, each with its arguments.

    Raises:
        InputError: an unknown name, argument or value, in one line.

    """
    names = [word.strip() for word in config.adapt.split(",") if word.strip()]
    if not names:
        raise InputError(f"adapt: nothing given; known: {', '.join(ADAPTATIONS)}")
    for name in names:
        if name not in ADAPTATIONS:
            raise unknown("adapt", name, tuple(ADAPTATIONS))
        if names.count(name) > 1:
            raise InputError(f"adapt: {name!r} is given twice")
    given: dict[str, dict[str, Scalar]] = {name: {} for name in names}
    for key, value in parse_arguments(config.adapt_args, "adapt-args").items():
        name, dot, argument = key.partition(".")
        if not dot or name not in given:
            raise InputError(
                f"adapt-args: {key!r} is not of the form adaptation.argument with an adaptation "
                f"of this run ({', '.join(names)})"
            )
        given[name][argument] = value
    return [build(name, given[name], "adapt-args") for name in names]


def build(name: str, given: Mapping[str, Any], where: str) -> Adaptation:
    """One adaptation from kebab-case or snake_case arguments."""
    if name not in ADAPTATIONS:
        raise unknown(where, name, tuple(ADAPTATIONS))
    kind = ADAPTATIONS[name]
    known = tuple(f.name for f in fields(kind))
    method = kind()
    for key, value in given.items():
        argument = key.replace("-", "_")
        if argument not in known:
            hint = nearest(argument, known)
            allowed = ", ".join(k.replace("_", "-") for k in known) or "none"
            raise InputError(f"{where}: {name} has no argument {key!r}{hint}; it has: {allowed}")
        default = getattr(method, argument)
        if isinstance(default, float) and type(value) is int:
            value = as_float(value)
        if type(value) is not type(default):
            raise InputError(
                f"{where}: {name}.{key}: expected {type(default).__name__}, got {value!r}"
            )
        method = replace(method, **{argument: value})
    return method


_CHOICES = {
    "part": ("train", "adapt"),
    "trainable": ("all", "head", "norm-affine"),
    "fisher": ("federation", "own"),
}
_RANGES: dict[str, tuple[str, Any]] = {
    "epochs": (">= 1", lambda v: v >= 1),
    "stage": (">= 0", lambda v: v >= 0),
    "batch_size": (">= 1", lambda v: v >= 1),
    "lr": ("> 0", lambda v: v > 0),
    "momentum": ("in [0, 1)", lambda v: 0 <= v < 1),
    "weight_decay": (">= 0", lambda v: v >= 0),
    "share": ("in [0, 1]", lambda v: 0 <= v <= 1),
    "temperature": ("> 0", lambda v: v > 0),
    "lam": (">= 0", lambda v: v >= 0),
}


def _check(where: str, field: str, value: Any) -> None:
    if field in _CHOICES and value not in _CHOICES[field]:
        raise unknown(where, str(value), _CHOICES[field])
    if field in _RANGES:
        allowed, holds = _RANGES[field]
        if not (holds(value) and value < math.inf):  # NaN holds nowhere
            raise InputError(f"{where}: {value} is out of range; it must be {allowed}")
