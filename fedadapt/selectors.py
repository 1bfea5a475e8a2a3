"""Which weights: functions from an architecture to a set of names, as in its ``state_dict``.

Layers are found by type and identity, never by their names.
"""

from collections.abc import Callable, Collection

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedadapt.errors import InputError
from fedadapt.models.prompts import Prompts

Selector = Callable[[nn.Module], frozenset[str]]


def everything(model: nn.Module) -> frozenset[str]:
    """Every parameter and buffer."""
    return frozenset(model.state_dict())


def nothing(model: nn.Module) -> frozenset[str]:
    """No name at all."""
    return frozenset()


def head(model: nn.Module) -> frozenset[str]:
    """The classifier: ``head_of(model)`` under every name it has in the model."""
    chosen = head_of(model)
    paths = [p for p, m in model.named_modules(remove_duplicate=False) if m is chosen]
    return everything(model) & {_join(path, name) for path in paths for name in chosen.state_dict()}


def head_of(model: nn.Module) -> nn.Module:
    """``model.head`` where it is a layer, else the last ``nn.Linear`` by definition order.

    Raises:
        ValueError: The model has neither.

    """
    named = getattr(model, "head", None)
    if isinstance(named, nn.Module):
        return named
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(
            f"A head is a layer called 'head' or the last nn.Linear, but {type(model).__name__} "
            "has neither; name its classifier 'head'."
        )
    return linear[-1]


def linear_head(model: nn.Module) -> tuple[str, str | None]:
    """Names of the head's weight [C, F] and bias [C]; None: it has no bias.

    Raises:
        InputError: The head is no single ``nn.Linear``.

    """
    chosen = head_of(model)
    path = next(path for path, module in model.named_modules() if module is chosen)
    weight, bias = _join(path, "weight"), _join(path, "bias")
    if not isinstance(chosen, nn.Linear) or weight not in everything(model):
        raise InputError(f"head: it must be one nn.Linear here, not {type(chosen).__name__}")
    return weight, bias if chosen.bias is not None else None


def prompts(model: nn.Module) -> frozenset[str]:
    """The tokens of ``Prompts``."""
    return everything(model) & {
        _join(path, "tokens")
        for path, layer in model.named_modules(remove_duplicate=False)
        if isinstance(layer, Prompts)
    }


def norms(model: nn.Module) -> frozenset[str]:
    """Batch-norm scale and shift, and the running statistics."""
    return norm_affine(model) | norm_statistics(model)


def norm_affine(model: nn.Module) -> frozenset[str]:
    """Batch-norm scale and shift: parameters."""
    return _in_norms(model, lambda layer: [name for name, _ in layer.named_parameters()])


def norm_statistics(model: nn.Module) -> frozenset[str]:
    """Batch-norm running means, variances and batch counters: buffers."""
    return _in_norms(model, lambda layer: [name for name, _ in layer.named_buffers()])


def all_but(selector: Selector) -> Selector:
    """The complement, e.g. ``all_but(head)`` is the body."""
    return lambda model: everything(model) - selector(model)


def in_words(names: Collection[str], model: nn.Module) -> str:
    """Say which tensors of ``model`` these are: ``everything``, ``head``, ``body``; "" for none.

    They are called by the parts of the network that are there in full, or by the one part that is
    not; what is left is ``some weights``. Counters, which are no weights, are left out.
    """
    every = {n for n, t in model.state_dict().items() if t.is_floating_point()}
    left = every & set(names)
    if left == every:
        return "everything"
    selectors = {
        "body": all_but(head),
        "head": head,
        "prompts": prompts,
        "batch norm": norms,
        "batch-norm scale and shift": norm_affine,
        "batch-norm statistics": norm_statistics,
    }
    parts = {
        word: chosen for word, select in selectors.items() if (chosen := every & select(model))
    }
    for word, part in parts.items():
        if left == part:
            return word
    for word, part in parts.items():
        if left == every - part:
            return f"everything but {word}"
    words = []
    for word, part in parts.items():
        if part <= left:
            words.append(word)
            left -= part
    return ", ".join(words + ["some weights"] * bool(left))


def _in_norms(model: nn.Module, tensors: Callable[[nn.Module], list[str]]) -> frozenset[str]:
    return everything(model) & {
        _join(path, name)
        # A layer that is used twice has two names in the state_dict.
        for path, layer in model.named_modules(remove_duplicate=False)
        if isinstance(layer, _BatchNorm)
        for name in tensors(layer)
    }


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
