"""Networks that are linear layers in a row: their derivative by hand, added to what is there.

Small layers take as long for autograd's records as for their products, and a gradient that has
memory of its own is written once and read once more. Here the product of the backward pass adds to
a velocity, or to the weights themselves. For 50 clients of an MLP a step takes 0.8 of the time.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from fedadapt.client.stacking.clamp import Clamp, clamp_backward
from fedadapt.client.stacking.linear import affine
from fedadapt.weights import Weights

OfLogits = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(logits [D, B, C], labels [D, B]) -> values [D], their gradient by the logits [D, B, C]."""


class _Layer(NamedTuple):
    weight: str
    bias: str | None
    clamp: Clamp | None


class AffineChain(NamedTuple):
    """``clamp(x @ weight.T + bias)`` for one layer after the other, of every client."""

    layers: tuple[_Layer, ...]
    flattens: bool  # the input, before the first layer

    @property
    def names(self) -> frozenset[str]:
        """The tensors that have a gradient."""
        of_layers = {name for layer in self.layers for name in (layer.weight, layer.bias) if name}
        return frozenset(of_layers)

    def takes(self, inputs: Tensor) -> bool:
        """Return whether ``inputs`` [D, B, ...] are rows of numbers once they are flattened."""
        return self.flattens or inputs.dim() == 3

    @torch.no_grad()
    def add_gradient(
        self,
        weights: Weights,
        inputs: Tensor,
        labels: Tensor,
        of_logits: OfLogits,
        into: Weights,
        keep: float = 1.0,
        scale: float = 1.0,
    ) -> Tensor:
        """Make ``into`` ``keep`` x ``into`` + ``scale`` x the gradient at ``weights``, in place.

        ``into`` may be the weights themselves. Layers below the lowest that is in ``into`` have no
        backward pass.

        Returns:
            The values, [D].

        """
        x = inputs.flatten(2)
        entering = []
        for layer in self.layers:
            entering.append(x)
            bias = None if layer.bias is None else weights[layer.bias]
            x = affine(x, weights[layer.weight], bias, layer.clamp)
        values, slope = of_logits(x, labels)
        lowest = min(i for i, layer in enumerate(self.layers) if {*layer[:2]} & into.keys())
        for i in range(len(self.layers) - 1, lowest - 1, -1):
            weight, bias_name, clamp = self.layers[i]
            if clamp is not None:
                slope = clamp_backward(slope, x, clamp)
            # Before the weights move: they may be ``into``.
            below = torch.bmm(slope, weights[weight]) if i > lowest else slope
            x = entering[i]
            if weight in into:
                into[weight].baddbmm_(slope.transpose(1, 2), x, beta=keep, alpha=scale)
            if bias_name in into:
                into[bias_name].mul_(keep).add_(slope.sum(1), alpha=scale)
            slope = below
        return values


def affine_chain(
    graph: fx.Graph, modules: dict[str, nn.Module], inputs: fx.Node, logits: fx.Node
) -> AffineChain | None:
    """Return the chain that a graph is, once its activations are folded; None for other graphs."""
    layers: list[_Layer] = []
    flattens, last = False, inputs
    for node in graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        if node.op != "call_module" or node.args != (last,) or node.kwargs:
            return None
        path = str(node.target)
        layer = modules[path]
        if type(layer) is nn.Linear:
            bias = f"{path}.bias" if layer.bias is not None else None
            layers.append(_Layer(f"{path}.weight", bias, node.meta.get("clamp")))
        elif type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1):
            flattens = flattens or not layers
        else:
            return None
        last = node
    weights = [layer.weight for layer in layers]
    shared = len({*weights}) < len(weights)  # a layer that is called twice
    return None if shared or not layers or last is not logits else AffineChain((*layers,), flattens)
