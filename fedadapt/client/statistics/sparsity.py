"""The share of zeros in each channel of a ReLU layer on a client's images: PFA's sparsity vector.

Liu et al. 2021, "PFA: Privacy-preserving federated adaptation for effective model
personalization", section 3.2. Only zeros are counted, not the values that ReLU6 cuts off at 6.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import vmap

from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.client.statistics.activation_hooks import SMOOTH, StopForward, listening
from fedadapt.errors import InputError, unknown
from fedadapt.models.meta import on_meta
from fedadapt.models.mode import evaluating
from fedadapt.models.norms import normalised_by_batch
from fedadapt.models.sequences.inputs import blank
from fedadapt.weights import Weights, is_shared, row

SPARSITY = "query.sparsity"
BATCH = 64  # images at once, at least, where nothing is asked for
ROOM = 2**17  # numbers in a portion of small images: 167 of 28 x 28; more leave the cache

Layer = int | str


class Activation(NamedTuple):
    """One output of an activation layer on the way through the network."""

    path: str
    call: int  # counts from 0 where one layer is used several times
    channels: int  # axis 1 of the output
    positions: int  # H x W; 1 for hidden units


def sparsity_vectors(
    cohort: Cohort,
    weights: Weights,
    *,
    layer: Layer = "first",
    channels: Sequence[int] | None = None,
    epsilon: float = 0.0,
    batch_size: int | None = None,
) -> Tensor:
    """Share of zeros after ``layer`` by channel, averaged over the client's training images.

    Images without labels are among them. Zeros are counted and divided once, so neither the order
    of the images nor the batch size has an influence on the result. Where all clients have the same
    weights, their images go through the network together.

    Args:
        weights: Stacked, each [D, ...]; in PFA the federated model, the same for all.
        layer: See ``chosen``.
        channels: Which ones, in this order; all where None.
        epsilon: 0 counts exact zeros; above it |a| < epsilon, for activations other than ReLU.
        batch_size: Images at once; None for as many as are fast. With 1 every image goes through
            the network alone, so that no image can have an influence on the zeros of another,
            whatever the network does: what differential privacy needs.

    Returns:
        [D, q], float64, in [0, 1].

    Raises:
        InputError: There is no such layer or channel, or no ReLU layer at all, or the network
            normalises by the statistics of its batch.

    """
    refuse_batch_statistics(cohort.model)
    cohort = cohort.without_labels()
    first = cohort.scaling(cohort.splits[0].train.inputs[:1])
    with torch.no_grad(), evaluating(cohort.model):
        one = row(weights, 0)
        seen = trace(cohort.model, lambda: cohort.forward(one, first), epsilon)
        wanted = chosen(cohort.model, seen, layer, epsilon)
        zeros, count = _count(cohort, weights, wanted, epsilon, batch_size)
    shares = zeros / count[:, None]
    return shares if channels is None else shares[:, _checked(channels, shares.shape[1])]


def num_channels(
    model: nn.Module, image_shape: Sequence[int], layer: Layer = "first", epsilon: float = 0.0
) -> int:
    """Count the channels of ``sparsity_vectors`` without a selection; nothing is computed.

    Args:
        image_shape: Of one network input, (C, H, W).

    Raises:
        InputError: As ``sparsity_vectors``.

    """
    refuse_batch_statistics(model)
    empty = on_meta(model).eval()
    inputs = blank(empty, image_shape, device="meta")
    with torch.no_grad():
        seen = trace(empty, lambda: empty(inputs), epsilon)
    return sum(a.channels for a in chosen(empty, seen, layer, epsilon))


def refuse_batch_statistics(model: nn.Module) -> None:
    """Refuse batch norm without running statistics: the vector would not be the client's alone.

    Raises:
        InputError: There is such a layer.

    """
    mixing = normalised_by_batch(model)
    if mixing:
        raise InputError(
            f"sparsity: the batch norm {mixing[0]!r} keeps no running statistics, so an image's "
            "zeros depend on the images that go through the network with it; set "
            "track_running_stats=True or use a group norm"
        )


def trace(model: nn.Module, forward: Callable[[], object], epsilon: float) -> list[Activation]:
    """The activations of a forward pass, in order of execution."""
    seen: list[Activation] = []

    def listen(path: str, output: Tensor) -> None:
        call = sum(a.path == path for a in seen)
        seen.append(Activation(path, call, output.shape[1], output[0, 0].numel()))

    with listening(model, listen, smooth=epsilon > 0):
        forward()
    return seen


def chosen(
    model: nn.Module, seen: Sequence[Activation], layer: Layer, epsilon: float = 0.0
) -> list[Activation]:
    """Which activations ``layer`` stands for; the channels of several are concatenated.

    ``first``: the first one; in a MobileNetV2, whose first layers are too narrow, the two of the
    first inverted residual that expands (PFA's code: 96 channels at width 0.25). A number: by order
    of execution, from 0. A dotted name: that layer, or all those inside that block.
    """
    if not seen:
        what = "ReLU" if epsilon == 0 else "activation"
        raise InputError(
            f"sparsity: the network has no {what} on its way; give it one (nn.ReLU or relu()), or "
            "epsilon > 0 for other activations"
        )
    if layer == "first":
        return _of_first_expansion(model, seen) or [seen[0]]
    if isinstance(layer, int):
        if not 0 <= layer < len(seen):
            raise InputError(
                f"sparsity: layer {layer}; the network has {len(seen)} of them, 0 to "
                f"{len(seen) - 1}"
            )
        return [seen[layer]]
    inside = [a for a in seen if a.path == layer or a.path.startswith(f"{layer}.")]
    if inside:
        return inside
    module = dict(model.named_modules()).get(layer) if layer else None
    if module is None:
        raise unknown("sparsity: layer", layer, ("first", *dict.fromkeys(a.path for a in seen)))
    need = "; epsilon > 0 counts |a| < epsilon" if isinstance(module, SMOOTH) else ""
    raise InputError(
        f"sparsity: layer {layer!r} is a {type(module).__name__} without a ReLU{need}; those are "
        f"at {', '.join(dict.fromkeys(a.path for a in seen))}"
    )


def _of_first_expansion(model: nn.Module, seen: Sequence[Activation]) -> list[Activation]:
    """A block without expansion has one ReLU6. The class has this name wherever it is written."""
    for path, module in model.named_modules():
        if type(module).__name__ == "InvertedResidual":
            inside = [a for a in seen if a.path.startswith(f"{path}.")]
            if len(inside) > 1:
                return inside
    return []


def _count(
    cohort: Cohort,
    weights: Weights,
    wanted: list[Activation],
    epsilon: float,
    batch_size: int | None,
) -> tuple[Tensor, Tensor]:
    """Zeros by channel [D, C], each position counting 1 / positions; images [D]. float64."""
    zeros = torch.zeros(len(cohort), sum(a.channels for a in wanted), dtype=torch.float64)
    measure = partial(_zeros, cohort, wanted, epsilon)
    # Whole numbers are added up: exact in any order.
    if is_shared(weights):
        model = row(weights, 0)
        for owners, inputs in _portions(cohort, batch_size):
            zeros.index_add_(0, owners, measure(model, inputs).double().cpu())
    else:
        for groups in cohort.steps(Schedule(batch_size or BATCH, 1, "train", SPARSITY)):
            for members, batch in groups:
                zeros[members] += _of_each(cohort, measure, weights, members, batch.inputs)
    positions = [float(a.positions) for a in wanted for _ in range(a.channels)]
    return zeros / torch.tensor(positions, dtype=torch.float64), cohort.num_examples


def _of_each(
    cohort: Cohort,
    measure: Callable[[Weights, Tensor], Tensor],
    weights: Weights,
    members: list[int],
    inputs: Tensor,
) -> Tensor:
    """Zeros of clients with different models: of their images [M, B, ...], [M, C]."""
    if cohort.stacked:
        zeros = vmap(measure)({n: t[members] for n, t in weights.items()}, inputs)
    else:
        pairs = zip(members, inputs, strict=True)
        zeros = torch.stack([measure(row(weights, d), images) for d, images in pairs])
    return zeros.sum(1).double().cpu()


def _portions(cohort: Cohort, batch_size: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """All clients' images one after the other: their clients [B] and network inputs [B, ...].

    Without a batch size, small images come in larger portions: it costs less and needs no more
    memory.
    """
    first = cohort.splits[0].train.inputs
    portion = batch_size or max(BATCH, ROOM // max(1, first[0].numel()))
    taken: list[tuple[int, Tensor]] = []
    room = portion
    for client, split in enumerate(cohort.splits):
        images = split.train.inputs
        ends = range(room, len(images), portion)
        for piece in torch.tensor_split(images, tuple(ends)):
            taken.append((client, piece))
            room -= len(piece)
            if not room:
                yield _joined(cohort, taken)
                taken, room = [], portion
    if taken:
        yield _joined(cohort, taken)


def _joined(cohort: Cohort, taken: list[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
    owners = torch.cat([torch.full((len(images),), client) for client, images in taken])
    return owners, cohort.scaling(torch.cat([images for _, images in taken]))


def _zeros(
    cohort: Cohort, wanted: list[Activation], epsilon: float, weights: Weights, inputs: Tensor
) -> Tensor:
    """Zeros by channel in each image of one model: [B, C], int64."""
    counts: dict[tuple[str, int], Tensor] = {}
    calls: dict[str, int] = {}
    keys = [(a.path, a.call) for a in wanted]

    def listen(path: str, output: Tensor) -> None:
        key = (path, calls.get(path, 0))
        calls[path] = key[1] + 1
        if key in keys:
            # At once: a later layer may write into this memory.
            off = output == 0 if epsilon == 0 else output.abs() < epsilon
            counts[key] = _counted(off)
        if len(counts) == len(keys):
            raise StopForward

    with listening(cohort.model, listen, smooth=epsilon > 0):
        cohort.forward(weights, inputs)
    return torch.cat([counts[key] for key in keys], dim=-1)


def _counted(off: Tensor) -> Tensor:
    """How often, by image and channel: [B, C]. float32 counts exactly, and twice as fast as int64.

    A map has less than 2^24 positions.
    """
    if off.dim() == 2:
        return off.long()
    return off.float().sum(dim=tuple(range(2, off.dim()))).long()


def _checked(channels: Sequence[int], count: int) -> list[int]:
    wrong = [c for c in channels if not 0 <= c < count]
    if wrong or not channels or len(set(channels)) < len(channels):
        what = f"{wrong[0]}" if wrong else f"{len(channels)}, some twice" if channels else "none"
        raise InputError(f"sparsity: channels: {what}; different ones of 0 to {count - 1}")
    return list(channels)
