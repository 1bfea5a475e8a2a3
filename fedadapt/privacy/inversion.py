"""Reconstruct an image from the output of a ReLU layer: the inversion attack of PFA, section 5.4.

Liu et al. 2021, "PFA: Privacy-preserving federated adaptation for effective model
personalization". The attacker knows the network (white box) and a property P of one image's map
after a ReLU, and looks for an image that has it. The paper names Fredrikson et al. 2015 and gives
neither code nor numbers; the loss is that of Mahendran and Vedaldi 2015, "Understanding deep image
representations by inverting them", eq. 2 and 4. Deviation: Adam, and the range of pixels kept in
every step, in place of their norm prior.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fedadapt.client.statistics.activation_hooks import StopForward, listening
from fedadapt.client.statistics.sparsity import Activation, chosen, trace
from fedadapt.datasets.benchmark import Scaling
from fedadapt.errors import InputError
from fedadapt.models.mode import evaluating
from fedadapt.privacy.settings import MOST_LAYERS

NOISE = 0.1  # standard deviation of the start, in units of the network's input

View = Callable[[Tensor], Tensor]
"""What the attacker sees of images [B, C, H, W]: any shape that begins with B."""


def hard_sparsity(maps: Tensor) -> Tensor:
    """Share of zeros by channel, [B, C, H, W] -> [B, C]: PFA's feature.

    A step function: its gradient is zero wherever it has one, so that no gradient leads back to
    the image. The sums below are what the paper attacks in its place.
    """
    return (maps == 0).to(maps.dtype).mean((2, 3))


PROPERTIES: dict[str, View] = {
    "fm": lambda maps: maps,
    "h_sp": lambda maps: maps.sum(3),
    "v_sp": lambda maps: maps.sum(2),
    "w_sp": lambda maps: maps.sum((2, 3)),
    "sparsity": hard_sparsity,
}
"""Of maps [B, C, H, W]: as they are, [B, C, H], [B, C, W], [B, C] and [B, C]."""


def relu_map(model: nn.Module, layer: Activation, images: Tensor) -> Tensor:
    """The layer's output [B, C, H, W]; what comes after it is not computed."""
    outputs: list[Tensor] = []
    calls = 0

    def listen(path: str, output: Tensor) -> None:
        nonlocal calls
        calls += path == layer.path
        if calls > layer.call:
            outputs.append(output)
            raise StopForward

    with listening(model, listen):
        model(images)
    return outputs[0]


def relu_layers(
    model: nn.Module, image_shape: Sequence[int], wanted: Sequence[int | str] = ()
) -> dict[int, Activation]:
    """The layers under attack by their number in order of execution, from 0.

    Args:
        wanted: Numbers, or names of layers or blocks; the first four where it is empty.

    Raises:
        InputError: There is no such layer, or it has no map but hidden units.

    """
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.no_grad(), evaluating(model):
        image = torch.zeros((1, *image_shape), dtype=dtype, device=device)
        seen = trace(model, lambda: model(image), 0.0)
    maps = [number for number, layer in enumerate(seen) if layer.positions > 1]
    try:
        named = [layer for word in wanted for layer in chosen(model, seen, word)]
    except InputError as error:
        line = str(error).removeprefix("sparsity: ").removeprefix("layer: ")
        raise InputError(f"layers: {line}") from None
    numbers = [seen.index(layer) for layer in named] if wanted else maps[:MOST_LAYERS]
    if not maps:
        raise InputError(
            "model: no ReLU of this network has maps, only hidden units, which have nothing to be "
            "summed over; attack one with convolutions, e.g. cnn"
        )
    for number in numbers:
        if number not in maps:
            raise InputError(
                f"layers: {number} ({seen[number].path}) has hidden units and no map; those with "
                f"maps are {', '.join(map(str, maps))}"
            )
    return {number: seen[number] for number in numbers}


def mid_grey(image_shape: Sequence[int], scaling: Scaling, seed: int) -> Tensor:
    """Where the attack starts: [C, H, W], mid-grey with a little noise, as a network's input.

    Every image has the same start, so that its result does not depend on the others.
    """
    noise = np.random.default_rng(seed).normal(0, NOISE, tuple(image_shape))
    grey = scaling(torch.full((image_shape[0], 1, 1), 127.5, dtype=torch.float64))
    return (grey + torch.from_numpy(noise)).float()


def pixel_range(channels: int, scaling: Scaling) -> tuple[Tensor, Tensor]:
    """Black and white as a network's input, each [C, 1, 1]."""
    black = torch.zeros(channels, 1, 1)
    return scaling(black), scaling(black + 255)


def relative_error(found: Tensor, wanted: Tensor) -> Tensor:
    """||found - wanted||^2 / ||wanted||^2, image by image: [B, ...] -> [B].

    A ``wanted`` of zeros, of a layer that is silent, is taken as it is.
    """
    size = (wanted**2).flatten(1).sum(1)
    error = ((found - wanted) ** 2).flatten(1).sum(1)
    return error / torch.where(size > 0, size, torch.ones_like(size))


def total_variation(images: Tensor) -> Tensor:
    """Squared differences of neighbours, by pixel: [B, C, H, W] -> [B] (their eq. 4, beta = 2)."""
    down = (images.diff(dim=2) ** 2).flatten(1).sum(1)
    right = (images.diff(dim=3) ** 2).flatten(1).sum(1)
    return (down + right) / images[0].numel()


def invert(
    view: View,
    wanted: Tensor,
    start: Tensor,
    bounds: tuple[Tensor, Tensor],
    *,
    steps: int = 1000,
    learning_rate: float = 0.05,
    smoothness: float = 1e-4,
    progress: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """Images whose ``view`` is ``wanted``, as near as Adam gets.

    Each minimises ||P(x) - P(x0)||^2 / ||P(x0)||^2 + smoothness * total_variation(x). The losses
    of a batch are added, and Adam works number by number: images do not mix.

    Args:
        wanted: P(x0), [B, ...].
        start: [B, C, H, W], a network's input; it is left as it is.
        bounds: The least and the greatest value of a pixel, each [C, 1, 1].
        progress: Called with 1 after every step.

    Returns:
        [B, C, H, W], within the bounds.

    """
    x = start.clone().requires_grad_()
    adam = torch.optim.Adam([x], learning_rate)
    for _ in range(steps):
        losses = relative_error(view(x), wanted) + smoothness * total_variation(x)
        (x.grad,) = torch.autograd.grad(losses.sum(), x)
        adam.step()
        with torch.no_grad():
            x.clamp_(*bounds)
        progress(1)
    return x.detach()
