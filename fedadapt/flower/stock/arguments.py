"""Arguments of Flower strategies: checked by signature, and a stock strategy by trying it out."""

import inspect
import math
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from flwr.serverapp.strategy import Strategy as Flower

from fedadapt.errors import FedadaptError, InputError, one_line
from fedadapt.messages import Answers, Sent, Update
from fedadapt.parameters import as_float
from fedadapt.weights import Weights

SCALARS = (bool, int, float, str)
TRIED_WITH = 64  # clients at most


def constructor_parameters(kind: type) -> dict[str, inspect.Parameter] | None:
    """What the constructor takes, following ``**kwargs`` up to the parents; None: anything."""
    names: dict[str, inspect.Parameter] = {}
    for parent in kind.__mro__:
        if "__init__" not in vars(parent):
            continue
        parameters = inspect.signature(vars(parent)["__init__"]).parameters
        names |= {
            n: p
            for n, p in parameters.items()
            if n != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        }
        if not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
            return names
    return None


def checked(cls: type[Flower], name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments in the types that the constructor names; others stay as they are.

    Raises:
        InputError: One that the constructor needs is missing; a word where a number is expected, a
            number that is not finite, or a value where only code can be given.

    """
    needed = constructor_parameters(cls) or {}
    missing = [key for key, p in needed.items() if p.default is p.empty and key not in arguments]
    if missing:
        given = " ".join(f"{key}=..." for key in missing)
        raise InputError(f'strategy: {name} needs --strategy-args "{given}"')
    hints = _annotations(cls)
    return {key: _checked(value, hints.get(key), name, key) for key, value in arguments.items()}


def _annotations(cls: type) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    for parent in reversed(cls.__mro__):
        if "__init__" in vars(parent):
            try:
                hints |= typing.get_type_hints(vars(parent)["__init__"])
            except Exception:  # annotations may name what is not there
                continue
    return hints


def _checked(value: Any, annotation: Any, name: str, key: str) -> Any:
    where = f"strategy-args: {name}: {key}"
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where}: {value} is not a finite number")
    allowed = _members(annotation)
    if not allowed or typing.Any in allowed or type(value) in allowed:
        return value
    if type(value) is int and float in allowed:
        return as_float(value)
    scalars = [kind.__name__ for kind in SCALARS if kind in allowed]
    if not scalars:
        if all(_is_code(kind) for kind in allowed):
            raise InputError(f"{where}: takes a function; it cannot be given here, leave it out")
        return value
    raise InputError(
        f"{where}: expected {' or '.join(scalars)}, got {type(value).__name__} "
        f"{one_line(repr(value), 60)}"
    )


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, None left out; () where nothing is known."""
    if annotation is None or annotation is inspect.Parameter.empty:
        return ()
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(a for a in typing.get_args(annotation) if a is not type(None))
    if typing.get_origin(annotation) is typing.Literal:
        return tuple({type(choice) for choice in typing.get_args(annotation)})
    return (annotation,)


def _is_code(annotation: Any) -> bool:
    return typing.get_origin(annotation) is Callable or annotation is Callable


class MadeUpExchange:
    """Answers every message at once, with made-up numbers: for trying a strategy out.

    Each client moves one of two tensors by an amount of its own; the other stays as it was.
    """

    round = 1

    def __init__(self) -> None:
        self.trained = 0  # clients, in all rounds

    def ask(self, action: str, sent: Sent, expected: Weights) -> Iterator[Answers]:
        count = len(sent.clients)
        offsets = torch.tensor([0.01 * (1 + client) for client in sent.clients])
        weights = {n: t.clone() for n, t in sent.weights.items()} if expected else {}
        if action == "train":
            self.trained += count
            weights["moved"] = weights["moved"] + offsets[:, None]
        numbers = torch.full((count,), 10.0, dtype=torch.float64)
        metrics = {"loss": 1 + offsets.double(), "accuracy": 0 * numbers + 0.5}
        yield Answers(sent.clients, Update(weights, numbers, metrics), {})


def try_out(name: str, rounds: Callable[[MadeUpExchange, Weights], Weights]) -> None:
    """Have a strategy go through some rounds with made-up answers before anything is read.

    Args:
        rounds: Goes through the rounds from the given model; returns the model.

    Raises:
        InputError: It fails, or asks nobody, or its model is no longer finite.

    """
    exchange = MadeUpExchange()
    where = f"strategy-args: {name} does not work with these arguments and clients"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            weights = rounds(exchange, {"moved": torch.zeros(3), "still": torch.ones(2)})
    except FedadaptError as error:
        raise InputError(str(error)) from None
    except Exception as error:  # code of others
        reason = one_line(error, 150) or type(error).__name__
        raise InputError(f"{where}: {reason}") from None
    if not exchange.trained:
        raise InputError(f"{where}: it asks no client to train")
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise InputError(f"{where}: its model is not finite after two rounds")
