"""The experiments of PFA: their runs, with settings and order. No torch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.reproductions.pfa.published import MOBILENETV2, VGG11, Published

TABLES = {"3": VGG11, "4": MOBILENETV2, "5": VGG11, "6": MOBILENETV2, "8": MOBILENETV2}
PER_CLIENT = ("3", "4", "8")
LOCAL = {"Fine-tune": "fine-tune", "KD": "kd", "EWC": "ewc"}  # the paper's name -> ours


class Rounds(NamedTuple):
    """Numbers of rounds: of the federated model, then in groups."""

    federated: int
    grouped: int

    @staticmethod
    def parse(text: str) -> "Rounds":
        """``50+30``."""
        parts = text.split("+")
        if len(parts) != 2 or not all(p.isdecimal() and int(p) > 0 for p in parts):
            raise InputError(
                f"rounds: {text!r}; give FEDERATED+GROUPED, each at least 1, e.g. 50+30"
            )
        return Rounds(int(parts[0]), int(parts[1]))


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An experiment of the paper; defaults are those of section 5.1 and of the released code."""

    name: str
    base: RunConfig  # data, network, local training
    groups: int  # the true number, which the paper assumes to be known
    arguments: tuple[tuple[str, str], ...] = ()  # network, PFA's arguments: where not the paper's
    rounds: Rounds = Rounds(50, 30)  # noqa: RUF009, it is immutable
    random: bool = False  # table 8's baseline as well
    published: Published | None = None

    def runs(self, seed: int, folder: Path) -> Iterator[tuple[str, RunConfig]]:
        """Return the runs of a seed by name; each comes after those that it needs."""
        folder = folder / f"seed-{seed}"
        stage = self.base.local_epochs
        budget = {f"{a}.{k}": v for a in LOCAL.values() for k, v in self._budget(stage).items()}
        yield (
            "federated",
            replace(
                self.base,
                seed=seed,
                strategy_args="",
                rounds=self.rounds.federated,
                adapt=",".join(("none", *LOCAL.values())),
                adapt_args=" ".join(f"{key}={value}" for key, value in budget.items()),
                out=str(folder / "federated"),
            ),
        )
        # ``auto`` depends on the weights, but all runs must scale images alike.
        scaling = self.base.normalization
        if scaling == "auto":
            scaling = "imagenet" if self.base.weights else "data"
        told = f"federated_rounds=0 {self.told}".strip()
        groups = {"pfa": f"{told} groups={self.groups}", "found": told}
        if self.random:
            groups["random"] = f"federated_rounds=0 random=true groups={self.groups}"
        for name, arguments in groups.items():
            yield (
                name,
                replace(
                    self.base,
                    seed=seed,
                    rounds=self.rounds.grouped,
                    strategy="pfa",
                    strategy_args=arguments,
                    weights=str(folder / "federated" / "models" / "base.safetensors"),
                    normalization=scaling,
                    adapt="none",
                    out=str(folder / name),
                ),
            )

    @property
    def told(self) -> str:
        """PFA's arguments for this network that differ from its defaults."""
        return self.base.strategy_args or dict(self.arguments).get(self.base.model, "")

    def _budget(self, stage: int) -> dict[str, float]:
        """Arguments with which local baselines train as long and as fast as PFA does in groups."""
        budget: dict[str, float] = {"epochs": self.rounds.grouped * stage, "stage": stage}
        return budget if self.base.lr == PAPER.lr else budget | {"lr": self.base.lr}


PAPER = RunConfig(
    local=False,  # the paper's tables do not have it
    local_epochs=5,
    batch_size=32,
    lr=0.01,
    momentum=0.5,
    curves=True,
    evaluate_every=1,
    normalization="imagenet",
    save_models="base",  # clients' models would fill a disk, and no table needs them
)
"""Section 5.1; local epochs and batch size from the released code."""

EXPERIMENTS: dict[str, Experiment] = {
    "pfa-cifar10": Experiment(
        name="pfa-cifar10",
        base=replace(PAPER, benchmark="pfa-cifar10", clients=25, model="cnn"),
        groups=5,
        arguments=(  # where kinds were told apart best, on seeds 1 to 5
            ("cnn", "layer=2"),  # from scratch, its convolutions hardly tell classes apart
            ("squeezenet1_1", "layer=8 q=100"),
        ),
        random=True,
    ),
    "pfa-pacs": Experiment(
        name="pfa-pacs",
        base=replace(
            PAPER, benchmark="pfa-pacs", clients=20, model="squeezenet1_1", weights="imagenet"
        ),
        groups=4,
        random=True,
    ),
    "pfa-office-home": Experiment(
        name="pfa-office-home",
        base=replace(
            PAPER, benchmark="pfa-office-home", clients=20, model="vgg11", weights="imagenet"
        ),
        groups=4,
    ),
}


def experiment(name: str, table: str = "") -> Experiment:
    """Return the experiment of that name, or the part that ``table`` of the paper shows.

    Raises:
        InputError: no such table of that experiment.

    """
    chosen = EXPERIMENTS[name]
    if name != "pfa-office-home":
        if table not in ("", "8"):
            raise InputError(
                f"table: {table!r}; the paper prints none of {name}, leave it away (random groups, "
                "as in table 8, are always among the methods)"
            )
        return chosen
    if table and table not in TABLES:
        raise InputError(f"table: {table!r}; one of {', '.join(TABLES)}")
    published = TABLES.get(table, VGG11)
    if published is MOBILENETV2:
        # torchvision has no ImageNet weights of this width: they are given as a file.
        chosen = replace(chosen, base=replace(chosen.base, model="mobilenetv2-0.25", weights=""))
    return replace(chosen, published=published, random=table == "8")
