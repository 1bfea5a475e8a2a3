"""The strategies that learn task after task on the server, and their ``--strategy-args``.

No torch: all is checked before it is loaded. Names are those of DUA's table 1.
"""

from dataclasses import dataclass
from typing import Any

from fedadapt.config import RunConfig, Scalar, parse_arguments
from fedadapt.errors import InputError, unknown


@dataclass(frozen=True)
class Variant:
    """One method of the paper: how experts are trained and what becomes of them."""

    training: str  # ``ExpertTraining.method``
    merged_by: str = ""  # importance by which experts are merged: mas, fisher; "": they are not
    personal: bool = False  # by the users' importances, not only by the server's
    separate: bool = False  # each task is answered by its own expert


VARIANTS: dict[str, Variant] = {
    "mas-racl": Variant("imm", "mas", personal=True),
    "fim-racl": Variant("imm", "fisher", personal=True),
    "mas-imm": Variant("imm", "mas"),
    "fim-imm": Variant("imm", "fisher"),
    "task-experts": Variant("imm", separate=True),
    "sequential": Variant("fine-tune"),
    "ewc": Variant("ewc"),
    "mas": Variant("mas"),
    "lwf": Variant("lwf"),
    "joint": Variant("joint"),
}

TRAINING: dict[str, type] = {
    "epochs": int, "batch_size": int, "lr": float, "momentum": float, "l2_lambda": float,
    "ewc_lambda": float, "mas_lambda": float, "lwf_lambda": float,
}  # fmt: skip
"""Fields of ``server.experts.ExpertTraining`` that a run may set; it checks their ranges."""

CHOICES: dict[str, tuple[str, ...]] = {
    "preset": ("paper", "released"),
    "upload": ("fp32", "fp16", "log8", "difference"),
    "merge_on": ("server", "client"),
}
MERGING = ("upload", "share", "merge_on")
ARGUMENTS = ("preset", *TRAINING, "experts", "draw", *MERGING)
"""``experts``: a folder that keeps them; ``draw``: which of the users' images, 1 to 5."""


@dataclass(frozen=True)
class Given:
    """What a run asks for."""

    variant: Variant
    preset: str
    training: dict[str, Any]  # changes to the preset
    experts: str  # folder; empty: in the run's own
    draw: int
    upload: str
    share: float  # of ``upload=difference``
    merge_on: str


def dua_arguments(config: RunConfig) -> Given:
    """Read them.

    Raises:
        InputError: an unknown name, a value that is not allowed.

    """
    variant = VARIANTS[config.strategy]
    given = {
        name.replace("-", "_"): value
        for name, value in parse_arguments(config.strategy_args, "strategy-args").items()
    }
    for name, value in given.items():
        allowed = [a for a in ARGUMENTS if variant.personal or a not in MERGING]
        if name not in allowed:
            raise unknown(f"strategy-args: {config.strategy}", name, tuple(allowed))
        if name in CHOICES and value not in CHOICES[name]:
            raise unknown(f"strategy-args: {name}", str(value), CHOICES[name])
        if name in TRAINING:
            given[name] = _number(name, value)
    draw = given.get("draw", 1)
    if type(draw) is not int or not 1 <= draw <= 5:
        raise InputError(f"strategy-args: draw: {draw!r}; it must be a whole number 1 to 5")
    if "share" in given and given.get("upload") != "difference":
        raise InputError("strategy-args: share: goes with upload=difference; leave one out")
    share = given.get("share", 0.1)
    if not isinstance(share, int | float) or share is True or not 0 < share <= 1:
        raise InputError(f"strategy-args: share: {share!r}; it must be a number above 0, at most 1")
    if given.get("merge_on") == "client" and "upload" in given:
        raise InputError(
            "strategy-args: upload: with merge_on=client nothing is uploaded; leave one out"
        )
    return Given(
        variant=variant,
        preset=str(given.get("preset", "paper")),
        training={name: given[name] for name in TRAINING if name in given},
        experts=str(given.get("experts", "")),
        draw=draw,
        upload=str(given.get("upload", "fp32")),
        share=float(share),
        merge_on=str(given.get("merge_on", "server")),
    )


def _number(name: str, value: Scalar) -> Scalar:
    kind = TRAINING[name]
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        word = "a number" if kind is float else "a whole number"
        raise InputError(f"strategy-args: {name}: {value!r}; it must be {word}")
    return value
