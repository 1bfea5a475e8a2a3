"""A model for stacks of clients: its graph, with a stacked kernel at each node.

``torch.fx`` traces the model's code once and records the layers, functions and methods that it
calls, in their order. Each of them is replaced by a kernel that does the same for the values of all
clients at once; a call of the network runs these kernels in turn. Values between kernels are
``Stacked`` tensors, whose layout changes only where a kernel needs another one. The features that
enter the head are a second output of the graph; they are computed in any case and cost nothing.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fedadapt.client.stacking.affine_chain import AffineChain, affine_tail
from fedadapt.client.stacking.clamp import Clamp, clamp_of
from fedadapt.client.stacking.functions import FUNCTIONS, IN_PLACE, METHODS
from fedadapt.client.stacking.layers import FOLDING, KNOWN, kernel_of
from fedadapt.client.stacking.sink import Sink
from fedadapt.client.stacking.value import Call, Seen, Stacked, Unstackable
from fedadapt.models.mode import evaluating, training
from fedadapt.objectives import Outputs
from fedadapt.selectors import head_of
from fedadapt.weights import Weights

__all__ = ["StackedNetwork", "Unstackable", "trace"]


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """Computes the value of one node from those of earlier nodes."""

    node: fx.Node
    kernel: Callable[..., Any]  # (call, *args, **kwargs)
    last_uses: tuple[fx.Node, ...]  # nodes that no later node needs


def trace(model: nn.Module) -> "StackedNetwork | None":
    """Return the model for stacks of clients, or None where a part of it has no stacked kernel."""
    try:
        return StackedNetwork(model)
    except Unstackable:
        return None


class StackedNetwork:
    """``model`` for many clients at once, each with weights of its own.

    The training mode is read from the modules of ``model`` at each call, so whatever switches the
    mode of ``model`` also switches this. The tensors of ``model`` are never read and may be on the
    meta device.

    Raises:
        Unstackable: Some part of the model has no stacked kernel.

    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        graph, entering = _graph(model)
        _check_names(model)
        self._input, self._outputs, self._steps = _compiled(model, graph, entering)
        sole = _sole(graph)
        self._once = frozenset(f"{path}.weight" for path in sole)
        tail = affine_tail(sole, dict(model.named_modules()), self._outputs[0])
        self.tail: AffineChain | None = tail and tail.chain
        self.chain = self.tail if tail and tail.entering is self._input else None
        self._entering = tail and tail.entering
        self._below = [step for step in self._steps if tail and step.node not in tail.nodes]

    def __call__(
        self,
        weights: Weights,
        inputs: Tensor,
        seen: Seen | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Return the logits, [D, B, num_classes]; ``outputs`` describes the arguments."""
        return self.outputs(weights, inputs, seen, generators).logits

    def outputs(
        self,
        weights: Weights,
        inputs: Tensor,
        seen: Seen | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Outputs:
        """Return the logits [D, B, num_classes] and the features that enter the head.

        The result can be differentiated by the weights and by the inputs.

        Args:
            weights: Parameters and buffers, named as in ``model.state_dict()``, each [D, ...]. They
                may be expanded from one model. Batch norm in training mode updates its running
                statistics here, in place, exactly as ``nn.BatchNorm2d`` does.
            inputs: The images of each client, [D, B, ...].
            seen: Called with (path, x [D, channels, N]) for what enters each batch-norm layer.
            generators: One for each client, on the device of ``inputs``. Dropout in training mode
                draws each client's mask from its generator, as the model alone would.

        """
        values = self._computed(self._steps, Call(weights, len(inputs), seen, generators), inputs)
        logits, *entering = (values[node].plain() for node in self._outputs)
        return Outputs(logits, entering[0] if entering else None)

    def below_tail(
        self,
        weights: Weights,
        inputs: Tensor,
        generators: Sequence[torch.Generator] | None = None,
        sinks: Mapping[str, Sink] | None = None,
    ) -> Tensor:
        """Return what enters the tail, [D, B, ...]: the inputs, if the tail is all there is.

        Args:
            weights: As those of ``outputs``, and so are ``inputs`` and ``generators``.
            sinks: By weight. When the result is differentiated, a kernel that can do so adds the
                gradient there, and autograd finds none; never of a weight that is used twice.

        Raises:
            ValueError: The network has no tail.

        """
        if self._entering is None:
            raise ValueError("the network does not end with a linear layer")
        given = {name: sink for name, sink in (sinks or {}).items() if name in self._once}
        call = Call(weights, len(inputs), None, generators, given)
        values = self._computed(self._below, call, inputs)
        return values[self._entering].plain()

    def _computed(self, steps: list[_Step], call: Call, inputs: Tensor) -> dict[fx.Node, Any]:
        """The values that are left after ``steps``."""
        values: dict[fx.Node, Any] = {self._input: Stacked(inputs, len(inputs))}
        for step in steps:
            args = fx.node.map_arg(step.node.args, values.__getitem__)
            kwargs = fx.node.map_arg(step.node.kwargs, values.__getitem__)
            values[step.node] = step.kernel(call, *args, **kwargs)
            for node in step.last_uses:
                del values[node]
        return values


class _Tracer(fx.Tracer):
    """A tracer that does not enter layers which have a kernel, and enters all other modules."""

    def __init__(self, head: nn.Module | None) -> None:
        super().__init__()
        self._head = head
        self.entering: fx.Node | None = None  # what the head was called with last

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in KNOWN or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        if m is self._head:
            self.entering = args[0].node if args and isinstance(args[0], fx.Proxy) else None
        return super().call_module(m, forward, args, kwargs)


def _graph(model: nn.Module) -> tuple[fx.Graph, fx.Node | None]:
    """Return the graph of the model's calls, in order, and the node that enters its head.

    The calls must be the same in training and in evaluation mode: the graph is made once for both.

    Raises:
        Unstackable: The model cannot be traced, or its code depends on the mode.

    """
    try:
        tracer = _Tracer(_head(model))
        with evaluating(model):
            other = _Tracer(None).trace(model)
        with training(model):
            graph = tracer.trace(model)
    except Exception as error:  # the model's own code may raise anything when given proxies
        raise Unstackable(f"it cannot be traced ({type(error).__name__})") from error
    if str(graph) != str(other):
        raise Unstackable("its code, not its layers, asks for the mode")
    return graph, tracer.entering


def _head(model: nn.Module) -> nn.Module | None:
    try:
        return head_of(model)
    except ValueError:
        return None


def _check_names(model: nn.Module) -> None:
    """Refuse a tensor with two names: ``weights`` would hold two independent tensors for it."""
    own = [n for n, _ in (*model.named_parameters(), *model.named_buffers())]
    if not set(model.state_dict()) <= set(own):
        raise Unstackable("a tensor of it has two names")


def _compiled(
    model: nn.Module, graph: fx.Graph, entering: fx.Node | None
) -> tuple[fx.Node, list[fx.Node], list[_Step]]:
    """Return the input node, the output nodes and the steps of a graph.

    The output nodes are the logits and, if it is known, what enters the head.
    """
    modules = dict(model.named_modules())
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    [end] = [node for node in graph.nodes if node.op == "output"]
    if len(inputs) != 1 or not isinstance(end.args[0], fx.Node):
        raise Unstackable("it does not take one tensor and return one")
    for node in graph.nodes:
        _check_in_place(modules, node)
    # As an output it has one more user, so the passes below neither move it nor fold into it.
    end.args = ((end.args[0], *([entering] if entering is not None else [])),)
    _pool_first(graph, modules)
    _fold(graph, modules)
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        last.update(dict.fromkeys(node.all_input_nodes, node))
    steps = [
        _Step(
            node,
            _kernel(model, modules, node),
            tuple(n for n in node.all_input_nodes if last[n] is node),
        )
        for node in graph.nodes
        if node.op not in ("placeholder", "output")
    ]
    return inputs[0], list(end.args[0]), steps


def _sole(graph: fx.Graph) -> frozenset[str]:
    """The layers that are called once, and whose weights nobody reads but they."""
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    return frozenset(path for path, times in calls.items() if times == 1 and path not in read)


def _pool_first(graph: fx.Graph, modules: dict[str, nn.Module]) -> None:
    """Replace ``pool(relu(x))`` by ``relu(pool(x))``: the same result from fewer values.

    The maximum of clamped values is the clamped maximum. Gradients agree too: where the maximum is
    clamped, no value has a gradient in either order.
    """
    for node in list(graph.nodes):
        before = node.args[0] if node.args and _is_max_pool(node, modules) else None
        if not isinstance(before, fx.Node) or len(before.users) > 1 or not _clamp(before, modules):
            continue
        [x] = before.all_input_nodes
        if len(x.users) == 1:
            node.replace_all_uses_with(before)
            node.args, before.args = (x, *node.args[1:]), (node,)
            node.append(before)


def _is_max_pool(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return type(modules[str(node.target)]) is nn.MaxPool2d
    return node.target is F.max_pool2d


def _fold(graph: fx.Graph, modules: dict[str, nn.Module]) -> None:
    """Remove a ReLU that is the only user of a layer whose kernel can include it."""
    for node in list(graph.nodes):
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or len(before.users) > 1 or before.op != "call_module":
            continue
        if type(modules[str(before.target)]) in FOLDING and "clamp" not in before.meta:
            clamp = _clamp(node, modules)
            if clamp is not None:
                before.meta["clamp"] = clamp
                node.replace_all_uses_with(before)
                graph.erase_node(node)


def _clamp(node: fx.Node, modules: dict[str, nn.Module]) -> Clamp | None:
    if node.op == "call_module":
        return clamp_of(modules[str(node.target)])
    is_relu = node.target in (torch.relu, F.relu, "relu")
    return Clamp(0.0) if is_relu and len(node.args) == 1 else None


def _kernel(model: nn.Module, modules: dict[str, nn.Module], node: fx.Node) -> Callable[..., Any]:
    if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
        path = str(node.target)
        return kernel_of(path, modules[path], node.meta.get("clamp"))
    if node.op == "call_function" and node.target in FUNCTIONS:
        return partial(_without_call, FUNCTIONS[node.target])
    if node.op == "call_method" and node.target in METHODS:
        return partial(_without_call, METHODS[str(node.target)])
    if node.op == "get_attr" and node.target in model.state_dict():
        return partial(_parameter, str(node.target))
    raise Unstackable(f"no kernel for {node.op} {node.target}")


def _without_call(kernel: Callable[..., Any], call: Call, *args: Any, **kwargs: Any) -> Any:
    return kernel(*args, **kwargs)


def _parameter(name: str, call: Call) -> Stacked:
    return Stacked(call.weights[name], call.clients)


def _check_in_place(modules: dict[str, nn.Module], node: fx.Node) -> None:
    """Refuse an operation that overwrites a value which is used again.

    Kernels never overwrite their input, so the later use would see another value.
    """
    in_place = (
        node.target in IN_PLACE
        or bool(node.kwargs.get("inplace"))
        or (node.op == "call_module" and getattr(modules[str(node.target)], "inplace", False))
    )
    if in_place and len(node.all_input_nodes[:1]) and len(node.all_input_nodes[0].users) > 1:
        raise Unstackable("it overwrites a value that is used again")
