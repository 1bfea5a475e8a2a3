"""The strategies by name; the only place that knows how a name becomes an object.

To add one: a file in this folder, a line in ``STRATEGIES.ours``, a test. The command line, the
table of docs/strategies.md and the contract test are made from the names. Other packages add theirs
with the entry-point group ``fedadapt.strategies``; anybody's class is named as ``module:Class``.
"""

from typing import TYPE_CHECKING, Any, cast

from fedadapt.config import RunConfig, parse_arguments
from fedadapt.errors import InputError
from fedadapt.registry import Registry, import_path

if TYPE_CHECKING:
    from fedadapt.strategies.selected import Selected

STRATEGIES = Registry(
    "strategy",
    "fedadapt.strategies",
    {
        # One model on the server.
        "local": "fedadapt.strategies.shared.local:Local",
        "fedavg": "fedadapt.strategies.shared.fedavg:FedAvg",
        "fedprox": "fedadapt.strategies.shared.fedprox:FedProx",
        "scaffold": "fedadapt.strategies.shared.scaffold:Scaffold",
        "fedbn": "fedadapt.strategies.shared.fedbn:FedBN",
        "fedper": "fedadapt.strategies.shared.fedper:FedPer",
        "fedrep": "fedadapt.strategies.shared.fedrep:FedRep",
        "lg-fedavg": "fedadapt.strategies.shared.lg_fedavg:LgFedAvg",
        "fedbabu": "fedadapt.strategies.shared.fedbabu:FedBabu",
        "ditto": "fedadapt.strategies.shared.ditto:Ditto",
        "apfl": "fedadapt.strategies.shared.apfl:APFL",
        "pfedme": "fedadapt.strategies.shared.pfedme:PFedMe",
        "per-fedavg": "fedadapt.strategies.shared.per_fedavg:PerFedAvg",
        "fedrod": "fedadapt.strategies.shared.fedrod:FedRod",
        "fedala": "fedadapt.strategies.shared.fedala:FedALA",
        "fedproto": "fedadapt.strategies.shared.fedproto:FedProto",
        "fedloge": "fedadapt.strategies.shared.fedloge:FedLoGe",
        "pfedgate": "fedadapt.strategies.shared.pfedgate:PFedGate",
        "fedit": "fedadapt.strategies.shared.lora:FedIt",
        "ffa-lora": "fedadapt.strategies.shared.lora:FfaLora",
        "fedsa-lora": "fedadapt.strategies.shared.lora:FedSaLora",
        "embedding": "fedadapt.strategies.shared.embedding:EmbeddedModels",
        # A model of each client on the server.
        "fedamp": "fedadapt.strategies.personal.fedamp:FedAMP",
        "fedfomo": "fedadapt.strategies.personal.fedfomo:FedFomo",
        "fedpac": "fedadapt.strategies.personal.fedpac:FedPAC",
        "fedcac": "fedadapt.strategies.personal.fedcac:FedCAC",
        # A model of each cluster.
        "pfa": "fedadapt.strategies.pfa.strategy:PFA",
        "cfl": "fedadapt.strategies.clustered.cfl:CFL",
        "ifca": "fedadapt.strategies.clustered.ifca:IFCA",
        "pacfl": "fedadapt.strategies.clustered.pacfl:PACFL",
        # Models that the server generates.
        "pfedhn": "fedadapt.strategies.generated.pfedhn:PFedHN",
        "pfedpg": "fedadapt.strategies.generated.pfedpg:PFedPG",
        "taper": "fedadapt.strategies.generated.taper:Taper",
        "taper-server": "fedadapt.strategies.generated.taper_server:TaperServer",
        # Experts, merged.
        "mas-racl": "fedadapt.strategies.dua.variants:MasRacl",
        "fim-racl": "fedadapt.strategies.dua.variants:FimRacl",
        "mas-imm": "fedadapt.strategies.dua.variants:MasImm",
        "fim-imm": "fedadapt.strategies.dua.variants:FimImm",
        "task-experts": "fedadapt.strategies.dua.variants:TaskExperts",
        "sequential": "fedadapt.strategies.dua.variants:Sequential",
        "ewc": "fedadapt.strategies.dua.variants:Ewc",
        "mas": "fedadapt.strategies.dua.variants:Mas",
        "lwf": "fedadapt.strategies.dua.variants:Lwf",
        "joint": "fedadapt.strategies.dua.variants:Joint",
        # Flower's own.
        "flower-fedprox": "flwr.serverapp.strategy:FedProx",
        "fedavgm": "flwr.serverapp.strategy:FedAvgM",
        "fedadam": "flwr.serverapp.strategy:FedAdam",
        "fedyogi": "flwr.serverapp.strategy:FedYogi",
        "fedadagrad": "flwr.serverapp.strategy:FedAdagrad",
        "fedmedian": "flwr.serverapp.strategy:FedMedian",
        "fedtrimmedavg": "flwr.serverapp.strategy:FedTrimmedAvg",
        "krum": "flwr.serverapp.strategy:Krum",
        "multikrum": "flwr.serverapp.strategy:MultiKrum",
        "bulyan": "flwr.serverapp.strategy:Bulyan",
        "qfedavg": "flwr.serverapp.strategy:QFedAvg",
    },
)

FLOWER = "fedadapt.flower.flower_as_ours:SelectedFlowerStrategy"
"""What runs a class of Flower's interface here. By its name: no strategy of ours knows Flower."""


def find(name: str) -> type[Any]:
    """Return the class of a name: a subclass of our ``Strategy`` or of Flower's.

    Raises:
        InputError: There is none, it cannot be imported, or it is neither.

    """
    from fedadapt.strategies.base import Strategy

    cls = STRATEGIES.find(name)
    if isinstance(cls, type) and (issubclass(cls, Strategy) or is_flowers(cls)):
        return cls
    raise InputError(
        f"strategy: {STRATEGIES.path(name)} is a subclass neither of fedadapt's Strategy "
        "(fedadapt.strategies.base) nor of Flower's (flwr.serverapp.strategy)"
    )


def select(config: RunConfig) -> "Selected":
    """Return the run's strategy with its arguments, each checked.

    Raises:
        InputError: An unknown strategy or argument, a value that is not allowed, or arguments and
            settings that do not go together.

    """
    from fedadapt.strategies.selected import SelectedStrategy

    cls = find(config.strategy)
    arguments = parse_arguments(config.strategy_args, "strategy-args")
    if is_flowers(cls):
        return cast("Selected", import_path(FLOWER)(config.strategy, cls, arguments))
    return SelectedStrategy.of(config, cls, arguments)


def is_flowers(cls: type[Any]) -> bool:
    """Whether a class implements Flower's interface; told without importing Flower."""
    return any(base.__module__.startswith("flwr.serverapp.strategy") for base in cls.__mro__)
