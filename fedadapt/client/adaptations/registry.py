"""The local adaptations by name: ours, those of installed packages, and ``module:Class``.

No torch here. A name is refused without loading anything; an adaptation's class, which knows its
parameters, is imported when it is built.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from fedadapt.config import RunConfig, adaptations_of, parse_arguments
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
        "class-selection": "fedadapt.client.adaptations.class_selection:ClassSelection",
        "prototype": "fedadapt.client.adaptations.prototype:Prototype",
        "tent": "fedadapt.client.adaptations.tent:Tent",
        "bn-mix": "fedadapt.client.adaptations.bn_mix:BnMix",
        "shot-im": "fedadapt.client.adaptations.shot_im:ShotIm",
        "atp": "fedadapt.client.adaptations.atp:Atp",
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
    arguments = arguments_by_name(config)
    adaptations = [
        _composed(name, {part: arguments[part] for part in name.split("+")}, "adapt-args")
        for name in adaptations_of(config.adapt)
    ]
    asking: dict[str, str] = {}  # query -> the adaptation that asks it
    for adaptation in adaptations:
        for part in adaptation.in_turn():
            if part.needs_batch_norm and has_batch_norm is False:
                raise InputError(
                    f"adapt: {part.name} needs a network with batch normalisation, "
                    f"{config.model!r} has none; leave it out or use one of "
                    f"{', '.join(entry.name for entry in ENTRIES if entry.batch_norm)}"
                )
            query = part.query()
            if query is not None and asking.setdefault(query.action, part.name) != part.name:
                raise InputError(
                    f"adapt: {asking[query.action]} and {part.name} both ask {query.action}; "
                    "compare them in two runs"
                )
    return adaptations


def arguments_by_name(config: RunConfig) -> dict[str, dict[str, Scalar]]:
    """The arguments of each adaptation that a run names, alone or in compositions.

    An adaptation has the same arguments wherever it stands. Nothing is imported.

    Raises:
        InputError: An unknown name, a name given twice, an argument of none of them.

    """
    names = adaptations_of(config.adapt)
    if not names:
        raise InputError(f"adapt: nothing given; known: {', '.join(ADAPTATIONS.names())}")
    for name in names:
        for part in _parts(name):
            ADAPTATIONS.path(part)
        if names.count(name) > 1:
            raise InputError(f"adapt: {name!r} is given twice")
    return _sorted_out(
        parse_arguments(config.adapt_args, "adapt-args"),
        [part for name in names for part in _parts(name)],
        "adapt-args",
        "of this run",
    )


def _parts(name: str) -> list[str]:
    """The adaptations that a name stands for, in turn: two of ``adabn+fine-tune``."""
    parts = name.split("+")
    if not all(parts):
        raise InputError(f"adapt: {name!r}; between two + stands the name of an adaptation")
    return parts


def _sorted_out(
    given: Mapping[str, Any], parts: Sequence[str], where: str, which: str
) -> dict[str, dict[str, Any]]:
    """``{"adabn.part": x, "lp-ft.lr": y}`` by adaptation: each that is named, with its own.

    Args:
        parts: The adaptations that there are.
        which: What these are, in words.

    """
    arguments: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for key, value in given.items():
        name, dot, argument = key.rpartition(".")  # a module:Class may have dots, too
        if not dot or name not in arguments:
            raise InputError(
                f"{where}: {key!r} is not of the form adaptation.argument with an adaptation "
                f"{which} ({', '.join(arguments)})"
            )
        arguments[name][argument] = value
    return arguments


def build(name: str, arguments: Mapping[str, Any], where: str) -> "Adaptation":
    """One adaptation from arguments in kebab-case or snake_case.

    Args:
        name: A name, or several joined by ``+``, whose arguments are then those of its parts, with
            the part's name in front: ``lp-ft.epochs``.
        where: The setting that the arguments come from, for messages.

    Raises:
        InputError: An unknown name, argument or value.

    """
    if "+" not in name:
        return _one(name, arguments, where)
    parts = _parts(name)
    return _composed(name, _sorted_out(arguments, parts, where, f"of {name}"), where)


def _composed(name: str, arguments: Mapping[str, Mapping[str, Any]], where: str) -> "Adaptation":
    """One adaptation from the arguments of its parts, by their names."""
    if "+" not in name:
        return _one(name, arguments[name], where)
    chain = tuple(_one(part, arguments[part], where) for part in _parts(name))
    from fedadapt.client.adaptations.composition import Composition  # loads torch

    return Composition(name=name, chain=chain)


def _one(name: str, arguments: Mapping[str, Any], where: str) -> "Adaptation":
    cls = find(name)
    return cls(name=name, **arguments_for(cls, arguments, where, name, prefix=f"{name}."))


class Row(NamedTuple):
    """An adaptation as ``fedadapt adaptations`` and the documentation list it."""

    name: str
    description: str  # the first line of its docstring
    needs_labels: bool
    needs_batch_norm: bool
    changes: str  # which tensors, in words, by its defaults
    asks: str  # what of the training clients; "" for nothing
    parameters: tuple[Described, ...]


def row(name: str) -> Row:
    """Describe one adaptation.

    Raises:
        InputError: See ``find``.

    """
    cls = find(name)
    first = (inspect.getdoc(cls) or "").partition("\n")[0]
    described = tuple(parameters(cls).values())
    from fedadapt.models.samples import sample_networks  # loads torch, as the class has
    from fedadapt.selectors import in_words

    adaptation, network = cls(name=name), next(sample_networks())
    changes = in_words(adaptation.moves(network), network) or "nothing"
    query = adaptation.query()
    times = f", {query.rounds} times" if query and query.rounds > 1 else ""
    asks = f"`{query.action}`{times}" if query else ""
    needs = cls.needs_labels, cls.needs_batch_norm
    return Row(name, first, *needs, changes, asks, described)


def rows() -> Iterator[Row]:
    """All adaptations that have a name. One that cannot be imported is listed with the reason."""
    for name in ADAPTATIONS.names():
        try:
            yield row(name)
        except InputError as error:
            yield Row(name, str(error), False, False, "", "", ())
