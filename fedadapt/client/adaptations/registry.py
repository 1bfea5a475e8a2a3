"""The local adaptations by name: ours, those of installed packages, and ``module:Class``.

No torch here. A name is refused without loading anything; an adaptation's class, which knows its
parameters, is imported when it is built.
"""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from fedadapt.config import RunConfig, parse_arguments
from fedadapt.errors import InputError
from fedadapt.models.registry import ENTRIES
from fedadapt.parameters import Described, Scalar, arguments_for, parameters
from fedadapt.registry import Registry

if TYPE_CHECKING:
    from fedadapt.client.adaptations.base import Adaptation

ADAPTATIONS = Registry(
    kind="adapt",
    group="fedadapt.adaptations",
    ours={
        "none": "fedadapt.client.adaptations.none:NoAdaptation",
        "adabn": "fedadapt.client.adaptations.adabn:AdaBN",
        "adabn-s": "fedadapt.client.adaptations.adabn_s:AdaBNS",
        "fine-tune": "fedadapt.client.adaptations.fine_tune:FineTune",
        "kd": "fedadapt.client.adaptations.kd:Kd",
        "ewc": "fedadapt.client.adaptations.ewc:Ewc",
        "lp-ft": "fedadapt.client.adaptations.lp_ft:LpFt",
        "prototype": "fedadapt.client.adaptations.prototype:Prototype",
        "tent": "fedadapt.client.adaptations.tent:Tent",
        "bn-mix": "fedadapt.client.adaptations.bn_mix:BnMix",
        "shot-im": "fedadapt.client.adaptations.shot_im:ShotIm",
        "t3a": "fedadapt.client.adaptations.t3a:T3A",
    },
)


def find(name: str) -> "type[Adaptation]":
    """The class behind a name, imported now.

    Raises:
        InputError: There is none, or it is not an adaptation that can be built.

    """
    cls = ADAPTATIONS.find(name)
    from fedadapt.client.adaptations.base import Adaptation  # loads torch, after the name

    if not (isinstance(cls, type) and issubclass(cls, Adaptation)):
        raise InputError(
            f"adapt: {name} is not a subclass of fedadapt.client.adaptations.base.Adaptation"
        )
    if inspect.isabstract(cls):
        left = ", ".join(sorted(cls.__abstractmethods__))
        raise InputError(f"adapt: {name} is abstract; it must define {left}")
    if "__dataclass_fields__" not in vars(cls) or not is_dataclass(cls):
        raise InputError(f"adapt: {name} needs @dataclass(frozen=True, kw_only=True) above it")
    return cls


def parse(config: RunConfig, *, has_batch_norm: bool | None = None) -> "list[Adaptation]":
    """The adaptations that a run compares, in the order given, each with its arguments.

    Args:
        has_batch_norm: Whether the run's network has batch normalisation; None: not known yet.

    Raises:
        InputError: An unknown name, argument or value, in one line; names are checked first. Or
            an adaptation that needs batch normalisation where there is none, or two adaptations
            that ask the same query.

    """
    adaptations = [
        build(name, arguments, "adapt-args")
        for name, arguments in arguments_by_name(config).items()
    ]
    asking: dict[str, str] = {}  # query -> the adaptation that asks it
    for adaptation in adaptations:
        if adaptation.needs_batch_norm and has_batch_norm is False:
            raise InputError(
                f"adapt: {adaptation.name} needs a network with batch normalisation, "
                f"{config.model!r} has none; leave it out or use one of "
                f"{', '.join(entry.name for entry in ENTRIES if entry.batch_norm)}"
            )
        query = adaptation.query()
        if (
            query is not None
            and asking.setdefault(query.action, adaptation.name) != adaptation.name
        ):
            raise InputError(
                f"adapt: {asking[query.action]} and {adaptation.name} both ask {query.action}; "
                "compare them in two runs"
            )
    return adaptations


def arguments_by_name(config: RunConfig) -> dict[str, dict[str, Scalar]]:
    """The adaptations' names, in the order given, and the arguments of each; nothing is imported.

    Raises:
        InputError: An unknown name, a name given twice, an argument of none of them.

    """
    names = [part.strip() for part in config.adapt.split(",") if part.strip()]
    if not names:
        raise InputError(f"adapt: nothing given; known: {', '.join(ADAPTATIONS.names())}")
    for name in names:
        ADAPTATIONS.path(name)
        if names.count(name) > 1:
            raise InputError(f"adapt: {name!r} is given twice")
    arguments: dict[str, dict[str, Scalar]] = {name: {} for name in names}
    for key, value in parse_arguments(config.adapt_args, "adapt-args").items():
        name, dot, argument = key.rpartition(".")  # a module:Class may have dots, too
        if not dot or name not in arguments:
            raise InputError(
                f"adapt-args: {key!r} is not of the form adaptation.argument with an adaptation "
                f"of this run ({', '.join(names)})"
            )
        arguments[name][argument] = value
    return arguments


def build(name: str, arguments: Mapping[str, Any], where: str) -> "Adaptation":
    """One adaptation from arguments in kebab-case or snake_case.

    Args:
        where: The setting that the arguments come from, for messages.

    Raises:
        InputError: An unknown name, argument or value.

    """
    cls = find(name)
    return cls(name=name, **arguments_for(cls, arguments, where, name, prefix=f"{name}."))


class Row(NamedTuple):
    """An adaptation as ``fedadapt adaptations`` and the documentation list it."""

    name: str
    description: str  # the first line of its docstring
    needs_labels: bool
    needs_batch_norm: bool
    parameters: tuple[Described, ...]


def row(name: str) -> Row:
    """Describe one adaptation.

    Raises:
        InputError: See ``find``.

    """
    cls = find(name)
    first = (inspect.getdoc(cls) or "").partition("\n")[0]
    described = tuple(parameters(cls).values())
    return Row(name, first, cls.needs_labels, cls.needs_batch_norm, described)


def rows() -> Iterator[Row]:
    """All adaptations that have a name. One that cannot be imported is listed with the reason."""
    for name in ADAPTATIONS.names():
        try:
            yield row(name)
        except InputError as error:
            yield Row(name, str(error), False, False, ())
