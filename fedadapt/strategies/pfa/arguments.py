"""PFA's ``--strategy-args``: checked without loading torch."""

from collections.abc import Callable
from math import inf
from typing import Any

from fedadapt.config import RunConfig, Scalar, as_float, parse_arguments
from fedadapt.datasets.catalog import normalization_of
from fedadapt.errors import InputError

FEDERATED_SHARE = (5, 8)  # of all rounds, as in the paper: 50 federated, 30 in groups

Rule = tuple[Callable[[Scalar], bool], str]


def _whole(least: int) -> Rule:
    return lambda v: type(v) is int and v >= least, f"a whole number >= {least}"


def _number(holds: Callable[[float], bool], allowed: str) -> Rule:
    def checked(value: Scalar) -> bool:
        if isinstance(value, int) and not isinstance(value, bool):
            value = as_float(value)
        return isinstance(value, float) and holds(value)

    return checked, allowed


def _word(*allowed: str) -> Rule:
    return lambda v: v in allowed, " or ".join(allowed)


RULES: dict[str, Rule] = {
    "federated_rounds": _whole(0),
    "groups": _whole(1),
    "q": _whole(1),
    "layer": (
        lambda v: bool(v) if isinstance(v, str) else type(v) is int and v >= 0,
        "first, a whole number >= 0 or a dotted name",
    ),
    "epsilon": _number(lambda v: 0 <= v < inf, "a number >= 0"),
    "method": _word("efficient", "exact"),
    "preset": _word("paper", "released"),
    "random": (lambda v: isinstance(v, bool), "true or false"),
    "regroup_every": _whole(0),
    "dp_epsilon": _number(lambda v: v == 0 or 1e-6 <= v <= 1e6, "0 (off) or 1e-6 to 1e6"),
    "dp_delta": _number(lambda v: 0 < v < 1, "a number > 0 and < 1"),
}


def pfa_arguments(config: RunConfig) -> dict[str, Any]:
    """The fields of ``PFA`` that the run sets, ``federated_rounds`` always among them.

    Raises:
        InputError: a value that is not allowed, or values that do not go together.

    """
    given: dict[str, Any] = {
        name.replace("-", "_"): value
        for name, value in parse_arguments(config.strategy_args, "strategy-args").items()
    }
    for name, value in given.items():
        holds, allowed = RULES[name]
        if not holds(value):
            raise InputError(f"strategy-args: {name}: {value!r}; it must be {allowed}")
    above, below = FEDERATED_SHARE
    federated = given.setdefault("federated_rounds", max(1, config.rounds * above // below))
    if federated == 0 and not config.weights:
        raise InputError(
            "strategy-args: federated_rounds: 0; groups at once need a trained model: give "
            "weights, e.g. the models/base.safetensors of another run, and its normalization"
        )
    if config.rounds == 1 and federated:
        raise InputError("rounds: 1; pfa needs one before the groups and one in groups at least")
    if federated >= config.rounds:
        raise InputError(
            f"strategy-args: federated_rounds: {federated}; it must be below rounds="
            f"{config.rounds}, of which the rest are in groups"
        )
    if 0 < config.clients < given.get("groups", 1):
        raise InputError(
            f"strategy-args: groups: {given['groups']} of {config.clients} clients; it must be "
            f"at most {config.clients}"
        )
    if given.get("random") and "groups" not in given:
        raise InputError("strategy-args: random: true; give groups, their number, as well")
    if given.get("random") and given.get("regroup_every"):
        raise InputError("strategy-args: random: true; random groups stay, without regroup_every")
    if given.get("dp_epsilon"):
        _check_private(config, given)
    return given


def _check_private(config: RunConfig, given: dict[str, Any]) -> None:
    """Refuse settings under which one image would change the vector by more than the noise covers.

    A network that normalises by its batch is refused when ``PFA`` is made, before any round.
    """
    if given.get("random"):
        raise InputError("strategy-args: dp_epsilon: random groups ask for no vector to protect")
    if config.batch_norm == "local":
        raise InputError(
            "strategy-args: dp_epsilon: with batch-norm=local one image moves all others' "
            "activations and the noise would not cover it; use shared or reestimate"
        )
    if normalization_of(config) == "data":
        raise InputError(
            f"strategy-args: dp_epsilon: normalization={config.normalization} scales by the mean "
            "and deviation of the clients' own images, so one image changes all vectors and the "
            "noise would not cover it; set normalization=unit, symmetric or imagenet"
        )
