"""Every setting of a run, checked at the door: one frozen object, the same keys on every entry.

The command line (``--local-epochs 5``), Flower's run configuration (``local-epochs=5``) and a run
folder's ``config.toml`` use the same keys, in kebab-case. No torch here: it is cheap to import.
"""

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from fedadapt.errors import InputError, nearest, unknown

RUNNING = (
    "out",
    "data-root",
    "rounds",
    "engine",
    "ray-address",
    "workers",
    "gpus-per-worker",
    "execution",
    "cohort-size",
    "device",
    "checkpoint-every",
    "node-wait",
    "round-deadline",
    "client-deadline",
    "min-replies",
    "max-failed-rounds",
)
"""Settings of where and how patiently a run runs, not of what it computes; and its length."""

Scalar = bool | int | float | str


def _key(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field of ``RunConfig``: its default, its line of help and what it may be."""
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    return field(default=default, metadata={"help": help, "bounds": bounds, "choices": choices})


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run, fully described. Fields are checked on construction; every value is resolved."""

    # What the clients hold.
    benchmark: str = _key(
        "digits-classes", "data set and how it is spread; see `fedadapt benchmarks`"
    )
    data_root: str = _key("", "folder with real data sets (default: $FEDADAPT_DATA)")
    partition: str = _key(
        "", "who gets which labels, e.g. iid, dirichlet:0.3 (default: the benchmark's)"
    )
    shift: str = _key("", "feature shift, e.g. corruptions:3, rotation (default: the benchmark's)")
    quantity: str = _key("", "how uneven the clients' sizes are, e.g. lognormal:1 (default: even)")
    imbalance: str = _key(
        "", "how uneven the classes are, e.g. long-tail:0.1 (default: as the data)"
    )
    clients: int = _key(100, "number of clients; 0 with `flwr run`: one a node", at_least=0)
    unseen: float = _key(0.0, "share of clients held out of training", at_least=0, below=1)
    split: str = _key(
        "auto",
        "test images: cut from each client's own (client), from its kind's together (pooled), or "
        "the data set's test part (official)",
        choices=("auto", "client", "pooled", "official"),
    )
    adapt_share: float = _key(0.2, "share of a client's images for adaptation", above=0, below=1)
    test_share: float = _key(0.2, "share of a client's images for its test", above=0, below=1)
    examples: int = _key(0, "at most so many images a client; 0: all there are", at_least=0)
    image_size: int = _key(0, "resize images to so many pixels; 0: as they are", at_least=0)
    normalization: str = _key(
        "auto",
        "auto, data, imagenet, symmetric ([-1, 1]) or unit ([0, 1])",
        choices=("auto", "data", "imagenet", "symmetric", "unit"),
    )
    # What they train.
    model: str = _key("mlp", "network; see `fedadapt models`, or module:factory")
    weights: str = _key("", "initial weights: imagenet, or a .safetensors/.pth file")
    strategy: str = _key("fedavg", "see `fedadapt strategies`, or module:Class")
    strategy_args: str = _key("", 'its own arguments, e.g. "eta=0.1 beta_1=0.9"')
    batch_norm: str = _key(
        "shared",
        "batch-norm statistics: shared (averaged), local (stay), reestimate (measured anew)",
        choices=("shared", "local", "reestimate"),
    )
    rounds: int = _key(20, "federated rounds", at_least=1)
    fraction: float = _key(1.0, "share of the training clients in a round", above=0, at_most=1)
    local_epochs: int = _key(5, "epochs a client trains in a round", at_least=1)
    batch_size: int = _key(32, "examples in a training step", at_least=1)
    lr: float = _key(0.05, "learning rate of the clients' SGD", above=0)
    momentum: float = _key(0.5, "its momentum", at_least=0, below=1)
    weight_decay: float = _key(0.0, "its weight decay", at_least=0)
    # What they do with it.
    adapt: str = _key("none,fine-tune", "local adaptations to compare, separated by commas")
    adapt_args: str = _key("", 'their arguments, e.g. "fine-tune.epochs=10 kd.lr=0.01"')
    evaluate_every: int = _key(
        0, "evaluate the base model every so many rounds; 0: ten times", at_least=0
    )
    evaluate_clients: int = _key(
        0,
        "clients that are evaluated, drawn once; 0: all at the end, on the way at most 1,000",
        at_least=0,
    )
    curves: bool = _key(
        False,
        "record what a model is chosen by: scores on the adapt images, and local adaptations "
        "after each of their stages",
    )
    local: bool = _key(
        True,
        "beside every table and picture, what each client gets by training alone, for as many "
        "epochs as in the federation",
    )
    global_test: str = _key(
        "base",
        "which models to try on the balanced global test",
        choices=("base", "all", "none"),
    )
    # How it runs.
    seed: int = _key(1, "fixes data assignment, initial weights, sampling and batches", at_least=0)
    device: str = _key("auto", "what to compute on", choices=("auto", "cpu", "cuda"))
    precision: str = _key("float32", "arithmetic of training", choices=("float32", "bf16"))
    engine: str = _key(
        "processes",
        "who computes: processes of this machine, or Ray actors",
        choices=("processes", "ray"),
    )
    ray_address: str = _key("", "Ray cluster to join, e.g. auto (default: one of our own, here)")
    workers: int = _key(0, "processes (Ray: actors) side by side; 0: one a core", at_least=0)
    gpus_per_worker: float = _key(0.0, "GPUs, or the share of one, of a Ray actor", at_least=0)
    execution: str = _key(
        "auto",
        "clients one by one or stacked, computed together (default: by the network)",
        choices=("auto", "sequential", "stacked"),
    )
    cohort_size: int = _key(0, "clients in a stack; 0: by the network", at_least=0)
    out: str = _key("", "run folder; with `flwr run` an absolute path (default: runs/<name>)")
    # When things go wrong.
    checkpoint_every: int = _key(
        0,
        "save the run every so many rounds; 0: at most once a second and a twentieth of the time",
        at_least=0,
    )
    node_wait: float = _key(120.0, "seconds to wait for the clients to appear", above=0)
    round_deadline: float = _key(3600.0, "seconds a round may take", above=0)
    client_deadline: float = _key(
        0.0, "seconds a client may compute an answer; 0: no limit", at_least=0
    )
    min_replies: float = _key(
        0.5, "share of asked clients that must answer well", above=0, at_most=1
    )
    max_failed_rounds: int = _key(1, "end the run after so many failed rounds in a row", at_least=1)
    max_update_norm: float = _key(
        0.0, "reject updates longer than this (L2); 0: no limit", at_least=0
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(
                self, f.name, _checked(f.name, f.type, getattr(self, f.name), f.metadata)
            )
        if self.adapt_share + self.test_share >= 1:
            raise InputError(
                f"adapt-share, test-share: {self.adapt_share} + {self.test_share} leaves nothing "
                "to train on; their sum must be below 1"
            )
        if self.client_deadline and self.client_deadline >= self.round_deadline:
            raise InputError(
                f"client-deadline: {self.client_deadline} must be below round-deadline="
                f"{self.round_deadline}"
            )

    @staticmethod
    def keys() -> tuple[str, ...]:
        """All keys, as they are written outside: kebab-case."""
        return tuple(f.name.replace("_", "-") for f in fields(RunConfig))

    @staticmethod
    def from_mapping(given: Mapping[str, Any], where: str = "run config") -> "RunConfig":
        """Build from kebab-case keys; an unknown key or a bad value is one clear line."""
        known = RunConfig.keys()
        for key in given:
            if key not in known:
                raise InputError(f"{where}: unknown key {key!r}{nearest(key, known)}")
        try:
            return RunConfig(**{k.replace("-", "_"): v for k, v in given.items()})
        except InputError as error:
            raise InputError(f"{where}: {error}") from None

    @staticmethod
    def from_toml(path: Path) -> "RunConfig":
        """Read a ``config.toml`` as a run writes it."""
        try:
            return RunConfig.from_mapping(tomllib.loads(path.read_text("utf-8")), str(path))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{path}: {error}") from None

    @property
    def experiment(self) -> str:
        """A word for what is computed: equal for a run and its resumption on another machine."""
        values = {k: v for k, v in self.to_mapping().items() if k not in RUNNING}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    def to_mapping(self) -> dict[str, Scalar]:
        """Every value under its kebab-case key; ``from_mapping`` is the inverse."""
        return {name.replace("_", "-"): value for name, value in asdict(self).items()}


def as_float(value: int) -> float:
    """``value`` as a float; infinite where it is larger than any."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _checked(name: str, kind: Any, value: Any, rules: Mapping[str, Any]) -> Scalar:
    key = name.replace("_", "-")
    if kind is float and type(value) is int:
        value = as_float(value)
    if type(value) is not kind:
        raise InputError(f"{key}: expected {kind.__name__}, got {type(value).__name__} {value!r}")
    if kind is float and not math.isfinite(value):
        raise InputError(f"{key}: {value} is not a finite number")
    signs = {"at_least": ">=", "above": ">", "at_most": "<=", "below": "<"}
    holds = {
        "at_least": lambda v, b: v >= b,
        "above": lambda v, b: v > b,
        "at_most": lambda v, b: v <= b,
        "below": lambda v, b: v < b,
    }
    bounds = {rule: bound for rule, bound in rules["bounds"].items() if bound is not None}
    if not all(holds[rule](value, bound) for rule, bound in bounds.items()):
        allowed = " and ".join(f"{signs[rule]} {bound:g}" for rule, bound in bounds.items())
        raise InputError(f"{key}: {value} is out of range; it must be {allowed}")
    if rules["choices"] and value not in rules["choices"]:
        raise unknown(key, value, rules["choices"])
    return value


def parse_arguments(text: str, where: str) -> dict[str, Scalar]:
    """``"eta=0.1 name=x flag=true"`` -> {"eta": 0.1, "name": "x", "flag": True}.

    Values are TOML scalars; a bare word is a string.
    """
    import shlex

    found: dict[str, Scalar] = {}
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"{where}: {text!r}: {error}") from None
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise InputError(f"{where}: {word!r} is not of the form name=value")
        if name in found:
            raise InputError(f"{where}: {name!r} is given twice")
        try:
            parsed = tomllib.loads(f"x = {value}")["x"]
        except tomllib.TOMLDecodeError:
            parsed = value
        if not isinstance(parsed, bool | int | float | str):
            raise InputError(f"{where}: {word!r}: a value is a number, true, false or a word")
        found[name] = parsed
    return found
