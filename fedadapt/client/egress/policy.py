"""The egress policy: what the owner of a client lets it answer, whatever a run asks for.

A TOML file on the device, named by the node's configuration (``egress-policy``). A key that is left
out allows what a run asks for; ``docs/egress.md`` describes each.
"""

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from fedadapt.errors import InputError, nearest

Counts = Literal["none", "rounded", "exact"]

FACTS = frozenset({"egress-messages", "egress-num-examples", "egress-metrics"})
"""Names under which the server is told of a policy, when it asks who the client is."""

ALWAYS = frozenset({"query.hello", "query.count"})
"""Answered whatever the policy: without them a run cannot tell why a client takes no part."""

NOMINAL = 100
"""Images that stand for all of a client's where their number is not told: accuracies in percent."""

KEYS = ("messages", "num-examples", "metrics", "each-image", "privacy")
OF_PRIVACY = ("epsilon", "delta", "messages")

TEMPLATE = """\
# What may leave this device, whatever a run asks for. fedadapt ledger --explain lists the messages.

# Messages that may be answered; without this key, all.
# messages = ["train", "evaluate", "query.moments"]

# How many images there are: "exact", "rounded" to one digit, or "none".
num-examples = "exact"

# Losses and accuracies.
metrics = true

# For each test image, how sure the model is and whether it is right (a run with confidence=true).
each-image = false

# What all noisy answers together may cost, in all runs on the same images. The messages that are
# listed leave with noise or not at all.
# [privacy]
# epsilon = 4.0
# delta = 1e-5
# messages = ["query.sparsity"]
"""


class EgressError(Exception):
    """An answer that the owner's policy refuses; ``reason`` is all that leaves."""

    def __init__(self, reason: str) -> None:
        """Take a reason of fixed words, which holds nothing of the client's data."""
        super().__init__(reason)
        self.reason = reason

    @staticmethod
    def rule(name: str) -> "EgressError":
        """Make the refusal by the rule of this name."""
        return EgressError(f"egress: {name!r} is not allowed on this device")


@dataclass(frozen=True, kw_only=True)
class DpBudget:
    """How much privacy noisy answers may cost together, and which messages need noise."""

    epsilon: float
    delta: float
    messages: frozenset[str] = frozenset({"query.sparsity"})


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What may leave; the defaults are those of a client whose owner wrote no policy."""

    messages: frozenset[str] | None = None  # None: any
    num_examples: Counts = "exact"
    metrics: bool = True
    each_image: bool = True
    privacy: DpBudget | None = None

    @staticmethod
    def of(node_config: Mapping[str, object]) -> "Policy":
        """Return the policy of a node; without ``egress-policy`` that of a client without owner.

        Of a device that is nobody's simulation, what is told of each test image stays without a
        policy that lets it go.

        Raises:
            InputError: One line: the file cannot be read, or is wrong.

        """
        path = node_config.get("egress-policy")
        if path is not None:
            return Policy.from_toml(Path(str(path)).expanduser())
        simulated = "num-partitions" in node_config or "state-dir" not in node_config
        return Policy(each_image=simulated)

    @staticmethod
    def from_toml(path: Path) -> "Policy":
        """Read a policy.

        Raises:
            InputError: One line: it cannot be read, has an unknown key or a bad value.

        """
        try:
            given = tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{path}: {error}") from None
        return _policy(given, str(path))

    def allows(self, message: str) -> bool:
        """Whether a message of this type may be answered."""
        return self.messages is None or message in self.messages or message in ALWAYS

    def count(self, images: float) -> float | None:
        """Return the number of images as it may be told; None: not at all."""
        if self.num_examples == "none":
            return None
        return images if self.num_examples == "exact" else rounded(images)

    def to_config(self) -> dict[str, bool | str | list[str]]:
        """Return what the server is told of the policy: only what it does not allow."""
        told: dict[str, bool | str | list[str]] = {}
        if self.messages is not None:
            told["egress-messages"] = sorted(self.messages)
        if self.num_examples != "exact":
            told["egress-num-examples"] = self.num_examples
        if not self.metrics:
            told["egress-metrics"] = False
        return told


def rule_of(message: str) -> str:
    """Return the name by which a refusal calls a message type: ``query.importance`` -> that part.

    A type that the server made up is not repeated.
    """
    name = message.removeprefix("query.")
    return name if re.fullmatch(r"[A-Za-z_]\w{0,59}", name) else "message"


def rounded(count: float) -> float:
    """Round a number of images to one digit; at least 1."""
    if count < 1:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(count))
    return max(1.0, round(count / unit) * unit)


def _policy(given: Mapping[str, Any], where: str) -> Policy:
    _known(given, KEYS, where)
    privacy = given.get("privacy")
    if privacy is not None and not isinstance(privacy, dict):
        raise InputError(f"{where}: privacy: {privacy!r}; it must be a table: [privacy]")
    counts = given.get("num-examples", "exact")
    if counts not in get_args(Counts):
        raise InputError(
            f"{where}: num-examples: {counts!r}; it must be {', '.join(get_args(Counts))}"
        )
    return Policy(
        messages=_messages(given["messages"], where) if "messages" in given else None,
        num_examples=counts,
        metrics=_flag(given, "metrics", where, default=True),
        each_image=_flag(given, "each-image", where, default=False),
        privacy=None if privacy is None else _privacy(privacy, f"{where}: privacy"),
    )


def _privacy(given: Mapping[str, Any], where: str) -> DpBudget:
    _known(given, OF_PRIVACY, where)
    for key in ("epsilon", "delta"):
        if type(given.get(key)) not in (int, float):
            raise InputError(f"{where}.{key}: {given.get(key)!r}; it must be a number")
    epsilon, delta = float(given["epsilon"]), float(given["delta"])
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise InputError(f"{where}.epsilon: {epsilon}; it must be > 0 and finite")
    if not 0 < delta < 1:
        raise InputError(f"{where}.delta: {delta}; it must be > 0 and < 1")
    if "messages" not in given:
        return DpBudget(epsilon=epsilon, delta=delta)
    return DpBudget(epsilon=epsilon, delta=delta, messages=_messages(given["messages"], where))


def _known(given: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in keys:
            raise InputError(f"{where}: unknown key {key!r}{nearest(key, keys)}")


def _flag(given: Mapping[str, Any], key: str, where: str, *, default: bool) -> bool:
    value = given.get(key, default)
    if not isinstance(value, bool):
        raise InputError(f"{where}: {key}: {value!r}; it must be true or false")
    return value


def _messages(given: Any, where: str) -> frozenset[str]:
    pattern = r"train|evaluate|query\.[A-Za-z_]\w*"
    if not isinstance(given, list):
        raise InputError(f"{where}: messages: {given!r}; it must be a list of message types")
    for name in given:
        if not isinstance(name, str) or not re.fullmatch(pattern, name):
            raise InputError(
                f"{where}: messages: {name!r}; a message type is train, evaluate or query.<name>"
            )
    return frozenset(given)
