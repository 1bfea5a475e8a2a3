"""Magnitudes of each image's own gradient, summed over images, without holding the gradients.

One image's gradient by a layer's weight is a product g a^T of the score's gradient where the layer
is left and of what enters it, summed over the places where the layer is applied. One backward pass
gives g of all images (Goodfellow 2015, "Efficient per-example gradient computations"), and the
products are made block by block, so small that they never leave the processor's cache: on VGG-11 a
third of the time that ``vmap`` of ``grad`` takes.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from fedadapt.client.cohort import Cohort
from fedadapt.client.stacking.image_stack import Magnitude
from fedadapt.client.statistics.activation_hooks import hooked
from fedadapt.weights import Weights

Rule = Callable[[Any, Tensor, Tensor, Weights, Magnitude], Weights]
"""A layer, what enters it [B, ...], g [B, ...], the layer's own weights -> sums over images."""

BLOCK = 2**18  # numbers of a product that are held at a time: 1 MiB of float32


def linear(
    layer: nn.Linear, a: Tensor, g: Tensor, weights: Weights, magnitude: Magnitude
) -> Weights:
    """Applied at one place, so magnitudes of a product multiply: not even blocks are needed."""
    return {"weight": magnitude(g).T @ magnitude(a), "bias": magnitude(g).sum(0)}


def convolution(
    layer: nn.Conv2d, a: Tensor, g: Tensor, weights: Weights, magnitude: Magnitude
) -> Weights:
    """The places are those of the output; what enters at each are the patches under the kernel."""
    weight, groups, padding = weights["weight"], layer.groups, layer.padding
    assert not isinstance(padding, str)  # ``_has_rule``
    total = torch.zeros_like(weight, memory_format=torch.contiguous_format)
    total = total.view(groups, len(weight) // groups, -1)  # [groups, channels, patch]
    g = g.flatten(2)
    back = g.unflatten(1, (groups, -1))  # [B, groups, channels, places]
    images = max(1, BLOCK // total.numel())
    channels = max(1, BLOCK // (groups * total.shape[2]))
    for first in range(0, len(a), images):
        batch = slice(first, first + images)
        patches = _patches(layer, a[batch], padding)
        patches = patches.unflatten(1, (groups, -1))  # [B, groups, patch, places]
        for channel in range(0, total.shape[1], channels):
            rows = slice(channel, channel + channels)
            products = back[batch, :, rows] @ patches.transpose(2, 3)
            total[:, rows] += magnitude(products).sum(0)
    return {"weight": total.view_as(weight), "bias": magnitude(g.sum(2)).sum(0)}


def _patches(layer: nn.Conv2d, images: Tensor, padding: tuple[int, ...]) -> Tensor:
    """Return what the kernel sees at each place of the output, [B, C * kh * kw, places]."""
    if layer.kernel_size == (1, 1) and padding == (0, 0):
        down, across = layer.stride
        return images[:, :, ::down, ::across].flatten(2)
    return F.unfold(images, layer.kernel_size, layer.dilation, padding, layer.stride)


def batch_norm(
    layer: nn.BatchNorm2d, a: Tensor, g: Tensor, weights: Weights, magnitude: Magnitude
) -> Weights:
    """By the running statistics. Scale and shift are applied at every place of a channel."""
    shape = (1, -1, *[1] * (a.dim() - 2))
    mean, var = weights["running_mean"].view(shape), weights["running_var"].view(shape)
    dims = tuple(range(2, a.dim()))
    scaled = g * (a - mean) * (var + layer.eps).rsqrt()
    return {
        n: magnitude(t.sum(dims) if dims else t).sum(0)
        for n, t in {"weight": scaled, "bias": g}.items()
    }


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear,
    nn.Conv2d: convolution,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
}
"""By exact type: a subclass may compute something else."""


def layers_of(model: nn.Module, names: Iterable[str]) -> tuple[str, ...] | None:
    """Paths of the layers whose parameters ``names`` are; None where one of these has no rule.

    A rule holds for a layer that is applied once to all images, and whose parameters nobody else
    reads: ``torch.fx`` follows the model to see that.
    """
    names, modules = frozenset(names), dict(model.named_modules())
    paths = sorted({n.rpartition(".")[0] for n in names})
    tensors = {n for n, _ in (*model.named_parameters(), *model.named_buffers())}
    if not all(_has_rule(modules[path]) for path in paths) or not tensors.issuperset(
        model.state_dict()
    ):
        return None  # the second: a tensor with two names is two in a client's weights
    try:
        graph = fx.Tracer().trace(model)
    except Exception:  # the model's own code may raise anything when given proxies
        return None
    called = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    return None if read & names or any(called[path] != 1 for path in paths) else tuple(paths)


def magnitudes(
    cohort: Cohort,
    weights: Weights,
    paths: Iterable[str],
    x: Tensor,
    score: Callable[[Tensor], Tensor],
    magnitude: Magnitude,
) -> Weights | None:
    """Sum over images of the magnitude of each one's gradient by the parameters of some layers.

    Args:
        weights: Of one client.
        paths: See ``layers_of``.
        x: Inputs [B, ...]. Images must not meet each other in the network: evaluation mode.
        score: Logits [B, C] -> a mean over images.

    Returns:
        By the parameters' names, [...]; None where a layer turns out to be applied otherwise than
        once to all images.

    """
    layers = {path: cohort.model.get_submodule(path) for path in paths}
    with torch.enable_grad(), _watched(layers) as seen:
        # Nothing else is differentiated: gradients by the parameters are not even begun.
        logits = cohort.forward(weights, x.detach().requires_grad_())
        if not all(seen[path].fits(layer, len(x)) for path, layer in layers.items()):
            return None
        edges = [seen[path].leaving for path in layers]
        back = torch.autograd.grad(len(x) * score(logits), edges, allow_unused=True)
    totals: Weights = {}
    for (path, layer), g in zip(layers.items(), back, strict=True):
        tensors = {n: weights[f"{path}.{n}"] for n in layer.state_dict()}
        if g is None:  # computed for nothing
            totals |= {
                f"{path}.{n}": torch.zeros_like(tensors[n]) for n, _ in layer.named_parameters()
            }
            continue
        kind = tensors["weight"].dtype  # the forward pass may have been in fewer bits
        rule = RULES[type(layer)]
        sums = rule(layer, seen[path].entering.detach().to(kind), g.to(kind), tensors, magnitude)
        totals |= {f"{path}.{n}": t for n, t in sums.items() if n in tensors}
    return totals


class _Seen(NamedTuple):
    """What passed through a layer."""

    entering: Tensor
    leaving: GradientEdge  # a reference that stays valid where the output is overwritten

    def fits(self, layer: nn.Module, images: int) -> bool:
        """Whether images come first, and a linear layer is applied to each but once."""
        once = self.entering.dim() == 2 or not isinstance(layer, nn.Linear)
        return once and len(self.entering) == images


@contextmanager
def _watched(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, _Seen]]:
    """Record what passes through ``layers``, by path."""
    seen: dict[str, _Seen] = {}

    def record(path: str, _layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        [entering] = inputs
        seen[path] = _Seen(entering, get_gradient_edge(output))

    with hooked(layers, record):
        yield seen


def _has_rule(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return plain and type(layer) in RULES
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        return bool(layer.track_running_stats and layer.affine) and type(layer) in RULES
    return type(layer) in RULES
