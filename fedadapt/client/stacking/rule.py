"""Decide whether to stack the clients of a run, and how many, from the network alone.

Stacking wins where calling operators costs more than their arithmetic, and loses where most of the
arithmetic is in large dense convolutions: grouped ones are slower than plain ones there. Clients a
second of a stack, as multiples of one client after another with images laid channels last, on one
CPU core, 20 or 32 images a step: MobileNetV2 3.1 (width 0.25) and 2.3 (width 1), ResNet-18 2.1,
LeNet-5 1.6, MLP 1.5 on 28 x 28 pixels (and 7 on 8 x 8), SqueezeNet 1.15, the small CNN 1.12 on 28 x
28 and 1.0 on 32 x 32; VGG-11 1.15, where the same kernels for one client at a time give 1.4. A GPU
is mostly idle with one client's small batches.
"""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from fedadapt.client.cohort import Execution
from fedadapt.client.stacking.network import trace
from fedadapt.client.statistics.activation_hooks import hooked
from fedadapt.models.mode import evaluating, training
from fedadapt.models.norms import has_batch_norm
from fedadapt.models.sequences.inputs import blank
from fedadapt.weights import Weights

LARGE = 10**8  # multiply-adds of a step in one convolution: from there a stack gains nothing
MAX_DENSE_SHARE = 0.25  # of the arithmetic; above it one client at a time is faster on a CPU
CACHE = 32 * 2**20  # bytes: what the widest layer of a stack may work on, on a CPU
CONVOLVING = 0.83  # share of the arithmetic in convolutions: few operators, which wait for memory
NEAR_CACHE = 8 * 2**20  # bytes: ``CACHE`` for networks that convolve so much
MEMORY = 2**30  # bytes: all activations and weights of a stack
GPU_MEMORY = 4 * 2**30
MOST_CLIENTS = 50  # more are no faster
ENOUGH = 10  # clients if models are large; more are no faster and take memory
WEIGHTS = 16 * 2**20  # bytes: of more clients than that, a stack's weights are no more than this
MOST_ON_GPU = 256
FLOAT = 4  # bytes


class Plan(NamedTuple):
    """How the clients of a run are computed."""

    execution: Execution
    cohort_size: int  # clients at a time
    reason: str  # a clause, for the log


class _Work(NamedTuple):
    """The arithmetic and the memory that one client's step takes."""

    weights: int  # bytes of a model
    dense: int  # multiply-adds in large convolutions that are neither 1x1 nor depthwise
    convolving: int  # multiply-adds in all convolutions that are neither
    total: int  # multiply-adds in all layers
    memory: int  # bytes: all layers' outputs, and weights, gradients, velocity and a copy
    widest: int  # bytes of what enters and leaves a layer, at most
    logits: tuple[int, ...]  # their shape; () where the network fails on such images

    @property
    def convolves(self) -> bool:
        """Whether it hardly does anything but convolve."""
        return self.convolving > CONVOLVING * self.total


def plan(
    model: nn.Module,
    image_shape: tuple[int, ...],
    batch_size: int,
    compute: torch.device | str = "cpu",
) -> Plan:
    """Return the fastest way to compute clients with batches of ``batch_size`` images.

    Nothing is measured, so a run is planned alike on every machine. Shapes are found with images of
    zeros, because PyTorch takes seconds to load what the meta device needs.
    """
    image = blank(model, image_shape)
    state = {n: torch.zeros(t.shape, dtype=t.dtype) for n, t in model.state_dict().items()}
    work = _work(model, state, image, batch_size)
    on_gpu = torch.device(compute).type != "cpu"
    size = _cohort_size(work, on_gpu)
    if _kernels_work(model, state, image, work):
        share = work.dense / max(1, work.total)
        if share > MAX_DENSE_SHARE and not on_gpu:
            reason = f"{share:.0%} of the arithmetic is in convolutions too large for a stack"
            return Plan("per-client", 1, reason)
        if size == 1:
            reason = "one client's activations fill the memory there is for a stack"
            return Plan("per-client", 1, reason)
        return Plan(
            "stacked-kernels", size, f"every layer has a stacked kernel, {size} clients at a time"
        )
    if any(isinstance(m, _ConvNd) for m in model.modules()) and not on_gpu:
        return _one_by_one("parts of the network have no stacked kernel, and it has convolutions")
    if any(isinstance(m, _DropoutNd) and m.p > 0 for m in model.modules()):
        return _one_by_one("parts of the network have no stacked kernel, and it has dropout")
    if size == 1 or not _vmap_works(model, state, image):
        return _one_by_one("parts of the network can be stacked neither by kernels nor by vmap")
    return Plan("vmap", size, f"parts of the network have no stacked kernel; {size} at a time")


def gains_from_bf16(model: nn.Module, image_shape: tuple[int, ...], batch_size: int) -> bool:
    """Return whether training is faster in bf16 on a processor that has arithmetic for it.

    As multiples of float32's speed, with AVX-512 and AMX: LeNet-5 and the small CNN 1.4 to 1.5,
    SqueezeNet 1.0, and where much is not convolved but converted back and forth 0.5 to 0.6: MLP,
    AlexNet, MobileNetV2 and ResNet-18, the last two for their batch norm. VGG-11 with batch norm
    has 1.1; it is left in float32 as well.
    """
    state = {n: torch.zeros(t.shape, dtype=t.dtype) for n, t in model.state_dict().items()}
    work = _work(model, state, blank(model, image_shape), batch_size)
    return work.convolves and not has_batch_norm(model)


def _one_by_one(reason: str) -> Plan:
    return Plan("sequential", 1, reason)


def _cohort_size(work: _Work, on_gpu: bool) -> int:
    if on_gpu:
        return max(1, min(MOST_ON_GPU, GPU_MEMORY // max(1, work.memory)))
    of_cache = max(2, (NEAR_CACHE if work.convolves else CACHE) // max(1, work.widest))
    enough = max(ENOUGH, WEIGHTS // max(1, work.weights))
    return max(1, min(MOST_CLIENTS, enough, of_cache, MEMORY // max(1, work.memory)))


def _work(model: nn.Module, state: Weights, image: Tensor, batch_size: int) -> _Work:
    """Return the work of one client's step, counted with hooks on one image.

    All numbers but that of the weights are proportional to the batch size.
    """
    dense, convolving, total, outputs, widest = [0], [0], [0], [0], [0]

    def count(_path: str, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(layer, nn.GRU):
            output = output[0]  # the states; the last ones are among them
        if not (isinstance(output, Tensor) and inputs and isinstance(inputs[0], Tensor)):
            return
        made = batch_size * output.numel()
        outputs.append(made)
        widest.append(made + batch_size * inputs[0].numel())
        if isinstance(layer, nn.Conv1d | nn.Conv2d):
            taps = prod(layer.kernel_size)
            total.append(made * taps * layer.in_channels // layer.groups)
            if taps > 1 and layer.in_channels > layer.groups:
                convolving.append(total[-1])
                dense.append(total[-1] if total[-1] > LARGE else 0)
        elif isinstance(layer, nn.GRU):
            total.append(made * 3 * (layer.input_size + layer.hidden_size) * layer.num_layers)
        elif isinstance(layer, nn.Linear):
            total.append(made * layer.in_features)

    leaves = {path: m for path, m in model.named_modules() if not any(True for _ in m.children())}
    with hooked(leaves, count):
        logits = _shape(lambda: functional_call(model, state, (image,)), model)
    weights = sum(t.numel() for t in state.values())
    memory = sum(outputs) + 4 * weights
    sizes = (FLOAT * memory, FLOAT * max(widest))
    counts = (sum(dense), sum(convolving), sum(total))
    return _Work(FLOAT * weights, *counts, *sizes, logits)


def _shape(run: Callable[[], Tensor], model: nn.Module) -> tuple[int, ...]:
    """Return the shape of what ``run`` returns in evaluation mode; () where it fails."""
    try:
        with evaluating(model), torch.no_grad():
            return tuple(run().shape)
    except Exception:  # a network may raise any exception
        return ()


def _kernels_work(model: nn.Module, state: Weights, image: Tensor, work: _Work) -> bool:
    """Return whether the model can be traced and a stack of two clients gives logits for both."""
    network = trace(model)
    if network is None:
        return False
    pair = _shape(lambda: network(_pair(state), image.expand(2, *image.shape)), model)
    return pair == (2, *work.logits)


def _vmap_works(model: nn.Module, state: Weights, image: Tensor) -> bool:
    images = image.expand(2, *image.shape[1:])  # batch norm in training wants more than one

    def forward(weights: Weights, inputs: Tensor) -> Tensor:
        return functional_call(model, weights, (inputs,))

    try:
        with training(model):
            vmap(forward)(_pair(state), images.expand(2, *images.shape))
    except Exception:  # functorch has no single error for what it cannot do
        return False
    return True


def _pair(state: Weights) -> Weights:
    return {n: torch.stack([t, t]) for n, t in state.items()}
