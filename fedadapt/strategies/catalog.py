"""The strategies by name. No torch and no Flower: names are checked before either is loaded."""

import importlib.util
from dataclasses import dataclass

from fedadapt.config import RunConfig, parse_arguments
from fedadapt.errors import InputError, unknown
from fedadapt.strategies.dua.variants import ARGUMENTS, VARIANTS, dua_arguments
from fedadapt.strategies.pfa.arguments import RULES, pfa_arguments


@dataclass(frozen=True)
class Entry:
    """One strategy that can be named."""

    name: str
    description: str
    paper: str
    arguments: tuple[str, ...]  # what --strategy-args takes; Flower's check their own
    flower_class: str = ""  # in flwr.serverapp.strategy, for Flower's own


_DUA = "De Lange et al. 2020"
OWN: tuple[Entry, ...] = (
    Entry(
        "fedavg",
        "one model, averaged by examples; mu > 0 makes it FedProx",
        "McMahan et al. 2017; Li et al. 2020",
        ("mu",),
    ),
    Entry(
        "pfa",
        "groups clients with similar data by the sparsity of activations, a model a group",
        "Liu et al. 2021",
        tuple(RULES),
    ),
    *(
        Entry(name, description, paper, ARGUMENTS)
        for name, description, paper in (
            ("mas-racl", "experts merged for each user by MAS importances; no labels", _DUA),
            ("fim-racl", "experts merged for each user by Fisher information", _DUA),
            ("mas-imm", "experts merged for all by MAS importances", "Lee et al. 2017; " + _DUA),
            ("fim-imm", "experts merged for all by Fisher information", "Lee et al. 2017"),
            ("task-experts", "each task answered by its own expert", _DUA),
            ("sequential", "one task after another, nothing held", _DUA),
            (
                "ewc",
                "one task after another, held by Fisher information",
                "Kirkpatrick et al. 2017",
            ),
            ("mas", "one task after another, held by MAS importances", "Aljundi et al. 2018"),
            ("lwf", "one task after another, held by distillation", "Li & Hoiem 2016"),
            ("joint", "all tasks learnt together", _DUA),
        )
    ),
)

_SAMPLING = "fraction_evaluate"

FLOWER: tuple[Entry, ...] = (
    Entry("fedprox", "Flower's FedProx", "Li et al. 2020", ("proximal_mu",), "FedProx"),
    Entry(
        "fedavgm",
        "server momentum",
        "Hsu et al. 2019",
        ("server_learning_rate", "server_momentum"),
        "FedAvgM",
    ),
    Entry(
        "fedadam",
        "Adam on the server",
        "Reddi et al. 2021",
        ("eta", "beta_1", "beta_2", "tau"),
        "FedAdam",
    ),
    Entry(
        "fedyogi",
        "Yogi on the server",
        "Reddi et al. 2021",
        ("eta", "beta_1", "beta_2", "tau"),
        "FedYogi",
    ),
    Entry("fedadagrad", "Adagrad on the server", "Reddi et al. 2021", ("eta", "tau"), "FedAdagrad"),
    Entry("fedmedian", "coordinate-wise median", "Yin et al. 2018", (), "FedMedian"),
    Entry("fedtrimmedavg", "trimmed mean", "Yin et al. 2018", ("beta",), "FedTrimmedAvg"),
    Entry(
        "krum",
        "the update closest to the others",
        "Blanchard et al. 2017",
        ("num_malicious_nodes",),
        "Krum",
    ),
    Entry(
        "multikrum",
        "mean of the closest updates",
        "Blanchard et al. 2017",
        ("num_malicious_nodes", "num_nodes_to_select"),
        "MultiKrum",
    ),
    Entry(
        "bulyan",
        "Krum, then a trimmed mean",
        "El Mhamdi et al. 2018",
        ("num_malicious_nodes",),
        "Bulyan",
    ),
    Entry(
        "qfedavg",
        "fairer: more weight to higher loss",
        "Li et al. 2020",
        ("q", "client_learning_rate"),
        "QFedAvg",
    ),
)

STRATEGIES: dict[str, Entry] = {entry.name: entry for entry in OWN + FLOWER}


def is_own(name: str) -> bool:
    return any(entry.name == name for entry in OWN)


def learns_tasks(name: str) -> bool:
    """Whether the strategy is for task-incremental benchmarks, and only for them."""
    return name in VARIANTS


def check(config: RunConfig) -> None:
    """Refuse what can be refused without loading anything.

    Raises:
        InputError: an unknown name or argument, a malformed ``module:Class``.

    """
    name = config.strategy
    arguments = parse_arguments(config.strategy_args, "strategy-args")
    if ":" in name:
        module, _, attribute = name.partition(":")
        if not all(part.isidentifier() for part in [*module.split("."), attribute]):
            raise InputError(f"strategy: {name!r} is not of the form module:Class")
        try:
            found = importlib.util.find_spec(module.split(".")[0]) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            raise InputError(
                f"strategy: there is no module {module!r} on the Python path; run from its folder "
                "or install it"
            )
    elif name not in STRATEGIES:
        raise unknown("strategy", name, tuple(STRATEGIES))
    if is_own(name):
        for argument in arguments:
            if argument.replace("-", "_") not in STRATEGIES[name].arguments:
                raise unknown(f"strategy-args: {name}", argument, STRATEGIES[name].arguments)
        if name == "pfa":
            pfa_arguments(config)
        if name in VARIANTS:
            dua_arguments(config)
        mu = arguments.get("mu", 0.0)
        if isinstance(mu, bool | str) or not 0 <= mu < float("inf"):
            raise InputError(f"strategy-args: mu: {mu!r}; it must be a number >= 0")
    elif config.batch_norm != "shared":
        raise InputError(
            f"batch-norm: {config.batch_norm!r} is for fedadapt's own strategies; with "
            f"{name!r} it is 'shared'"
        )
