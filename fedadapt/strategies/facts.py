"""What travels in a method and what stays, in words: for the lists and the documentation.

Names of tensors are those that the class itself gives for a small network. What it cannot tell
in this way it says in class attributes, see ``base.Strategy``. A test runs each method and compares
the two.
"""

import inspect
import re
import sys
from collections.abc import Collection
from typing import Any, NamedTuple

from torch import nn

from fedadapt.errors import InputError
from fedadapt.models.samples import IMAGE_SHAPE, sample_networks
from fedadapt.parameters import fields_from_run
from fedadapt.selectors import everything, in_words, norms
from fedadapt.strategies.base import LocalTraining, Run, Strategy
from fedadapt.strategies.selected import settings_of

NAMES = r"[A-Z][\w-]+(?: [A-Z][\w-]+)*"
CITED = re.compile(rf"{NAMES}(?:(?:, {NAMES})* and {NAMES}| et al\.)? \d{{4}}")


class Facts(NamedTuple):
    """What there is to say, each in a few words; "" where nothing is known."""

    stays: str  # tensors and whatever else a client keeps between rounds
    down: str  # goes to a client in a round
    up: str  # comes from it
    personal: str  # where the personal model is
    unseen: str  # what is served to clients that never trained
    batch_norm: str  # what becomes of it
    source: str


TITLES = Facts(
    "stays on the client",
    "goes down",
    "comes up",
    "personal model",
    "unseen clients get",
    "batch norm",
    "source",
)


def facts(cls: type[Strategy[Any]]) -> Facts:
    """Describe a class of our interface."""
    strategy, network = _on_sample(cls)
    staying: Collection[str] = ()
    down = up = ""
    if strategy is not None and not cls.learns_tasks:
        staying = strategy.staying()
        start = {n: t.detach() for n, t in network.state_dict().items()}
        down, up = (_described(names, network) for names in strategy.travelling(start))
    stays = in_words(staying, network)
    shared = "the initial model" if stays == "everything" else "the shared model"
    with_initial = f" with the initial {stays}" if stays not in ("", "everything") else ""
    return Facts(
        stays=_joined(stays, cls.client_keeps),
        down=_joined(down, cls.client_gets) or "nothing",
        up=_joined(up, cls.client_reports) or "nothing",
        personal=cls.personal_is or _personal(cls, bool(staying)),
        unseen=cls.unseen_get or shared + with_initial,
        batch_norm=_batch_norm(cls, norms(network) <= set(staying)),
        source=source(cls),
    )


def source(cls: type) -> str:
    """The papers that a class names first, with the place in them that its module names.

    Names are looked for in the first sentences of its docstring, then in the rest of it, then in
    that of its module. "ours" where the docstring says "Ours."; "" where no paper is named.
    """
    text = " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())
    if text.endswith("Ours."):
        return "ours"
    module = " ".join((sys.modules[cls.__module__].__doc__ or "").split())
    for written in (text, " ".join((inspect.getdoc(cls) or "").split()), module):
        papers = [paper.removeprefix("After ") for paper in CITED.findall(written)]
        if papers:
            return "; ".join(paper + _place(paper, module) for paper in dict.fromkeys(papers))
    return ""


def _place(paper: str, module: str) -> str:
    """`, algorithm 1`, where the module's docstring has it behind the title of the paper."""
    behind = re.search(re.escape(paper) + r', "[^"]*", ((?:[^.;]|[.](?=[0-9]))*)', module)
    return f", {behind[1]}" if behind else ""


def _personal(cls: type[Strategy[Any]], stays: bool) -> str:
    if not cls.made_on_client:
        return "none"
    return "on the client" if stays or cls.client_keeps else "made on the client when used"


def _batch_norm(cls: type[Strategy[Any]], stays: bool) -> str:
    if cls.batch_norm_is:
        return cls.batch_norm_is
    if stays:
        return "stays on the client"
    return "as `batch-norm` says" if "batch-norm" in settings_of(cls) else ""


def _described(names: Collection[str], network: nn.Module) -> str:
    """Tensors of the network in words, and others by what their names begin with."""
    inside = in_words(names, network)
    outside = [n.split("/") for n in names if n not in everything(network)]
    numbers = {first for first, *_ in outside if first.isdecimal()}
    count = len(numbers)
    models = f"{count} models" if count > 1 else "a model" * count
    others = dict.fromkeys(first for first, *_ in outside if not first.isdecimal())
    return _joined(inside, models, *(f"`{first}`" for first in others))


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _on_sample(cls: type[Strategy[Any]]) -> tuple[Strategy[Any] | None, nn.Module]:
    """The strategy on the first network that it accepts; None where it accepts neither."""
    refused = nn.Module()
    for network in sample_networks():
        run = Run(
            model=network,
            image_shape=IMAGE_SHAPE,
            training=LocalTraining(),
            batch_norm="shared",
            rounds=4,
            seed=1,
            noise_seed=1,
            newcomers=(),
        )
        try:
            return cls(**{name: getattr(run, name) for name in fields_from_run(cls)}), network
        except InputError:
            refused = network
    return None, refused
