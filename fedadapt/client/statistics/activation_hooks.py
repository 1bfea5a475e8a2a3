"""Hooks that record what passes through the layers of a network, and how much of it is computed.

Activations may be modules or functions. ``relu(x)``, ``x.relu()`` and ``x.clamp(min=0)`` leave no
module behind: ``TorchFunctionMode`` shows the functions that torch is called with, and the module
that calls them gives them a name.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

RELUS = (nn.ReLU, nn.ReLU6)
SMOOTH = (nn.GELU, nn.SiLU, nn.ELU, nn.CELU, nn.SELU, nn.LeakyReLU, nn.PReLU, nn.Softplus, nn.Mish,
          nn.Hardswish, nn.Hardtanh, nn.Sigmoid, nn.Hardsigmoid, nn.Tanh)  # fmt: skip
"""Activations that are hardly ever exactly zero; they take a threshold."""

_SMOOTH_NAMES = frozenset(kind.__name__.lower() for kind in SMOOTH) | {"leaky_relu"}

OnActivation = Callable[[str, Tensor], None]
"""Gets the path of an activation and its output, at once: a later layer may write into it."""

OnLayer = Callable[[str, nn.Module, tuple[Any, ...], Any], None]
"""Gets the path of a layer, the layer, its inputs and its output."""


class StopForward(Exception):
    """Raised by a hook to end the forward pass: what comes after is not computed."""


@contextmanager
def hooked(layers: Mapping[str, nn.Module], record: OnLayer) -> Iterator[None]:
    """Call ``record`` whenever one of the layers has been computed."""
    with ExitStack() as stack:
        for path, layer in layers.items():
            stack.callback(layer.register_forward_hook(partial(record, path)).remove)
        yield


@contextmanager
def listening(model: nn.Module, listen: OnActivation, *, smooth: bool = False) -> Iterator[None]:
    """Hand all outputs of activations to ``listen``, in order of execution.

    A module is called by its path, a function by that of the module that calls it and its name:
    ``block.relu()``. ``listen`` may raise ``StopForward``: it ends the ``with`` block.

    Args:
        smooth: Include activations that are not ReLUs.

    """
    kinds = RELUS + SMOOTH if smooth else RELUS
    inside: list[str] = []  # the modules that are being called, outermost first
    within = [0]  # activation modules that are being called: their functions do not count again

    def enter(path: str, module: nn.Module, _inputs: object) -> None:
        inside.append(path)
        within[0] += isinstance(module, kinds)

    def leave(path: str, module: nn.Module, _inputs: object, output: Any) -> None:
        inside.pop()
        if isinstance(module, kinds):
            within[0] -= 1
            listen(path, output)

    def called(name: str, output: Tensor) -> None:
        if inside and not within[0]:
            listen(".".join(filter(None, (inside[-1], f"{name}()"))), output)

    with suppress(StopForward), ExitStack() as stack:
        for path, module in model.named_modules():
            hooks = (module.register_forward_pre_hook(partial(enter, path)),
                     module.register_forward_hook(partial(leave, path)))  # fmt: skip
            for hook in hooks:
                stack.callback(hook.remove)
        stack.enter_context(_Functions(called, smooth))
        yield


class _Functions(TorchFunctionMode):
    """Shows activations that are called as functions."""

    def __init__(self, called: OnActivation, smooth: bool) -> None:
        super().__init__()
        self.called, self.smooth = called, smooth

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "").strip("_")  # relu_ is relu
        counts = _is_relu(name, args[1:], kwargs or {}) or (self.smooth and name in _SMOOTH_NAMES)
        if counts and isinstance(output, Tensor) and output.dim() > 1:
            self.called(name, output)
        return output


def _is_relu(name: str, args: Any, kwargs: Any) -> bool:
    """Functions of that name, and what cuts off at 0 from below: clamp and threshold."""
    if name in ("clamp", "clip", "clamp_min"):
        return _is_zero(args[0] if args else kwargs.get("min"))
    if name == "threshold":
        return all(_is_zero(v) for v in (*args, *kwargs.values())[:2])
    return name in ("relu", "relu6")


def _is_zero(value: object) -> bool:
    return isinstance(value, int | float) and value == 0
