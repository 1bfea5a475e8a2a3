"""Every setting of a run, checked when it is made: one frozen object, the same keys everywhere.

The command line (``--local-epochs 5``), Flower's run configuration (``local-epochs=5``) and a run
folder's ``config.toml`` use the same keys, in kebab-case. No torch here: it is cheap to import.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fedadapt.errors import InputError, nearest
from fedadapt.lr_schedule import ALLOWED, is_schedule
from fedadapt.older_runs import refuse_older_run
from fedadapt.parameters import Scalar, as_float, check_parameters, param

MOST = {"clients": 10**6, "workers": 1024, "seed": 2**63 - 1}
"""The largest numbers that make sense: what is above is a slip, and would fill the memory."""
MOST_OF_ANYTHING = 10**9  # rounds, epochs, images, seconds

RUNNING = (
    "out",
    "roster",
    "server-data",
    "data-root",
    "rounds",
    "engine",
    "ray-address",
    "workers",
    "gpus-per-worker",
    "execution",
    "cohort-size",
    "device",
    "save-models",
    "track",
    "checkpoint-every",
    "node-wait",
    "round-deadline",
    "client-deadline",
    "min-replies",
    "max-failed-rounds",
)
"""Settings of where and how patiently a run runs, not of what it computes; and its length."""

GROUPS = {
    "benchmark": "Data",
    "model": "Training",
    "adapt": "Adaptation and evaluation",
    "seed": "Engine and files",
    "checkpoint-every": "Faults",
}
"""First key of each group of settings -> its title; a group ends where the next one begins."""

DEPLOYED: dict[str, float] = {"max-update-factor": 5.0, "max-weight-factor": 10.0}
"""Defaults of a run on real clients, which no simulation has: no client can own the model."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run, fully described. Fields are checked on construction; every value is resolved."""

    # What the clients hold.
    benchmark: str = param(
        "digits-classes", "data set and how it is spread; see `fedadapt benchmarks`"
    )
    data_root: str = param("", "folder with real data sets (default: $FEDADAPT_DATA)")
    partition: str = param(
        "", "who gets which labels, e.g. iid, dirichlet:0.3 (default: the benchmark's)"
    )
    shift: str = param("", "feature shift, e.g. corruptions:3, rotation (default: the benchmark's)")
    quantity: str = param("", "how uneven the clients' sizes are, e.g. lognormal:1 (default: even)")
    imbalance: str = param(
        "", "how uneven the classes are, e.g. long-tail:0.1 (default: as the data)"
    )
    clients: int = param(
        100,
        "number of clients; 0: all that the data belong to; with `flwr run`: one a node",
        at_least=0,
    )
    unseen: float = param(0.0, "share of clients held out of training", at_least=0, below=1)
    split: str = param(
        "auto",
        "test images: cut from each client's own (client; ungrouped: even where groups of nearly "
        "equal images are parted), from its kind's together (pooled), or the data set's test part "
        "(official)",
        choices=("auto", "client", "ungrouped", "pooled", "official"),
    )
    adapt_share: float = param(0.2, "share of a client's images for adaptation", above=0, below=1)
    test_share: float = param(0.2, "share of a client's images for its test", above=0, below=1)
    examples: int = param(0, "at most so many images a client; 0: all there are", at_least=0)
    server_share: float = param(
        0.0,
        "share of the images that the server has and no client, for strategies that train on them",
        at_least=0,
        below=1,
    )
    image_size: int = param(0, "resize images to so many pixels; 0: as they are", at_least=0)
    classes: str = param(
        "",
        "with benchmark=own: class names, separated by commas, in the order of the network's "
        "outputs (default: those that the clients have, if their owners tell them)",
    )
    server_data: str = param(
        "",
        "with benchmark=own and a strategy that trains on the server: the server's own pictures, a "
        "folder on the server, <class>/*.jpg; <task>/<class>/*.jpg where it learns tasks",
    )
    roster: str = param(
        "",
        "with benchmark=own: file on the server, a line `fingerprint name` for each client that "
        "may take part (default: whoever the SuperLink lets in)",
    )
    normalization: str = param(
        "auto",
        "auto, data, imagenet, symmetric ([-1, 1]) or unit ([0, 1])",
        choices=("auto", "data", "imagenet", "symmetric", "unit"),
    )
    # What they train.
    model: str = param("mlp", "network; see `fedadapt models`, or module:factory")
    weights: str = param("", "initial weights: imagenet, or a .safetensors/.pth file")
    strategy: str = param("fedavg", "see `fedadapt strategies`, or module:Class")
    strategy_args: str = param("", 'its own arguments, e.g. "eta=0.1 beta_1=0.9"')
    batch_norm: str = param(
        "shared",
        "batch-norm statistics: shared (averaged), local (stay), reestimate (measured anew)",
        choices=("shared", "local", "reestimate"),
    )
    rounds: int = param(20, "federated rounds", at_least=1)
    fraction: float = param(1.0, "share of the training clients in a round", above=0, at_most=1)
    local_epochs: int = param(5, "epochs a client trains in a round", at_least=1)
    batch_size: int = param(32, "examples in a training step", at_least=1)
    optimizer: str = param("sgd", "the clients' optimiser", choices=("sgd", "adam"))
    lr: float = param(0.05, "its learning rate", above=0)
    lr_schedule: str = param(
        "constant",
        "the learning rate over the rounds: constant, cosine (falls to 0), or step:10:0.1, a tenth "
        "after every 10 rounds",
        check=is_schedule,
        allowed=ALLOWED,
    )
    momentum: float = param(0.5, "momentum of SGD", at_least=0, below=1)
    weight_decay: float = param(0.0, "weight decay", at_least=0)
    augmentation: str = param(
        "none",
        "other views of training images, drawn anew each time: shifted (crop), mirrored (flip)",
        choices=("none", "crop", "flip", "crop+flip"),
    )
    # What they do with it.
    adapt: str = param(
        "none,fine-tune",
        "local adaptations to compare, separated by commas; a+b is a and then b",
    )
    adapt_args: str = param("", 'their arguments, e.g. "fine-tune.epochs=10 kd.lr=0.01"')
    evaluate_every: int = param(
        0, "evaluate the base model every so many rounds; 0: ten times", at_least=0
    )
    evaluate_clients: int = param(
        0,
        "clients that are evaluated, drawn once; 0: all at the end, on the way at most 1,000",
        at_least=0,
    )
    early_stopping: int = param(
        0,
        "end training when the score on adapt images has not risen for so many evaluations; "
        "0: never",
        at_least=0,
    )
    best_round: bool = param(
        False,
        "beside the last round, evaluate the one with the best score on adapt images as well: "
        "rows best-base, best-personal",
    )
    curves: bool = param(
        False,
        "record what a model is chosen by: scores on the adapt images, and local adaptations "
        "after each of their stages",
    )
    serve: str = param(
        "all",
        "all: every model and adaptation is a row; best-on-adapt: and a row `served`, where each "
        "client keeps the base model unless its adapt images say that another one is better",
        choices=("all", "best-on-adapt"),
    )
    confidence: bool = param(
        False,
        "record how sure models are of each test image, with a temperature fitted to the client's "
        "adapt images: calibration, and accuracy against coverage",
    )
    local: bool = param(
        True,
        "beside every table and picture, what each client gets by training alone, for as many "
        "epochs as in the federation",
    )
    global_test: str = param(
        "base",
        "which models to try on the balanced global test",
        choices=("base", "all", "none"),
    )
    # How it runs.
    seed: int = param(1, "fixes data assignment, initial weights, sampling and batches", at_least=0)
    device: str = param("auto", "what to compute on", choices=("auto", "cpu", "cuda"))
    precision: str = param(
        "float32",
        "arithmetic of training; auto: bf16 where hardware and network gain from it, else float32",
        choices=("float32", "bf16", "auto"),
    )
    engine: str = param(
        "processes",
        "who computes: processes of this machine, or Ray actors",
        choices=("processes", "ray"),
    )
    ray_address: str = param("", "Ray cluster to join, e.g. auto (default: one of our own, here)")
    workers: int = param(0, "processes (Ray: actors) side by side; 0: one a core", at_least=0)
    gpus_per_worker: float = param(0.0, "GPUs, or the share of one, of a Ray actor", at_least=0)
    execution: str = param(
        "auto",
        "clients one by one or stacked, computed together (default: by the network)",
        choices=("auto", "sequential", "stacked"),
    )
    cohort_size: int = param(0, "clients in a stack; 0: by the network", at_least=0)
    out: str = param("", "run folder; with `flwr run` an absolute path (default: runs/<name>)")
    save_models: str = param(
        "auto",
        "which models to save: all, personal (not the adapted ones), base or none "
        "(auto: all while they stay below 1 GiB, else base)",
        choices=("auto", "all", "personal", "base", "none"),
    )
    track: str = param(
        "",
        "trackers that follow the run, separated by commas: tensorboard, mlflow, wandb, or "
        "module:Class",
    )
    # When things go wrong.
    checkpoint_every: int = param(
        0,
        "save the run every so many rounds; 0: at most once a second and a twentieth of the time",
        at_least=0,
    )
    node_wait: float = param(120.0, "seconds to wait for the clients to appear", above=0)
    round_deadline: float = param(3600.0, "seconds a round may take", above=0)
    client_deadline: float = param(
        0.0, "seconds a client may compute an answer; 0: half of round-deadline", at_least=0
    )
    min_replies: float = param(
        0.5, "share of asked clients that must answer well", above=0, at_most=1
    )
    max_failed_rounds: int = param(
        1, "end the run after so many failed rounds in a row", at_least=1
    )
    max_update_norm: float = param(
        0.0, "reject updates longer than this (L2); 0: no limit", at_least=0
    )
    max_update_factor: float = param(
        0.0,
        "reject updates longer than so many times the round's median; 0: no limit",
        check=lambda v: type(v) in (int, float) and (v == 0 or 1 <= v < float("inf")),
        allowed="0 (no limit) or a number >= 1",
    )
    max_weight_factor: float = param(
        0.0,
        "let a client weigh at most so many times the median of the clients' examples; 0: no limit",
        check=lambda v: type(v) in (int, float) and (v == 0 or 1 <= v < float("inf")),
        allowed="0 (no limit) or a number >= 1",
    )

    def __post_init__(self) -> None:
        check_parameters(self)
        for name, value in asdict(self).items():
            most = MOST.get(name, MOST_OF_ANYTHING)
            if not isinstance(value, str) and value > most:
                key = name.replace("_", "-")
                raise InputError(
                    f"{key}: {as_float(value):g} is out of range; it must be <= {most:,}"
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
    def from_mapping(settings: Mapping[str, Any], where: str = "run config") -> "RunConfig":
        """Build from kebab-case keys; an unknown key or a bad value is one clear line."""
        known = RunConfig.keys()
        for key in settings:
            if key not in known:
                raise InputError(f"{where}: unknown key {key!r}{nearest(key, known)}")
        try:
            return RunConfig(**{k.replace("-", "_"): v for k, v in settings.items()})
        except InputError as error:
            raise InputError(f"{where}: {error}") from None

    @staticmethod
    def from_toml(path: Path) -> "RunConfig":
        """Read a ``config.toml`` as a run writes it.

        Raises:
            InputError: It cannot be read, has an unknown key or a bad value, or is of 0.1.0.

        """
        refuse_older_run(path.parent)
        try:
            return RunConfig.from_mapping(tomllib.loads(path.read_text("utf-8")), str(path))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{path}: {error}") from None

    @property
    def experiment(self) -> str:
        """A word for what is computed: equal for a run and its resumption on another machine."""
        values = {k: v for k, v in self.to_mapping().items() if k not in RUNNING}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def changed(self) -> frozenset[str]:
        """The keys whose values are not the defaults."""
        defaults = RunConfig().to_mapping()
        return frozenset(k for k, value in self.to_mapping().items() if value != defaults[k])

    def to_mapping(self) -> dict[str, Scalar]:
        """Every value under its kebab-case key; ``from_mapping`` is the inverse."""
        return {name.replace("_", "-"): value for name, value in asdict(self).items()}


def adaptations_of(adapt: str) -> tuple[str, ...]:
    """``"none, adabn + fine-tune"`` -> ("none", "adabn+fine-tune"): names in the order given."""
    chains = (chain.split("+") for chain in adapt.split(",") if chain.strip())
    return tuple("+".join(name.strip() for name in chain) for chain in chains)


def parse_arguments(text: str, where: str) -> dict[str, Scalar]:
    """``"eta=0.1 name=x flag=true"`` -> {"eta": 0.1, "name": "x", "flag": True}.

    Values are TOML scalars; a bare word is a string.
    """
    import shlex

    arguments: dict[str, Scalar] = {}
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"{where}: {text!r}: {error}") from None
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise InputError(f"{where}: {word!r} is not of the form name=value")
        if name in arguments:
            raise InputError(f"{where}: {name!r} is given twice")
        try:
            parsed = tomllib.loads(f"x = {value}")["x"]
        except tomllib.TOMLDecodeError:
            parsed = value
        if not isinstance(parsed, bool | int | float | str):
            raise InputError(f"{where}: {word!r}: a value is a number, true, false or a word")
        arguments[name] = parsed
    return arguments
