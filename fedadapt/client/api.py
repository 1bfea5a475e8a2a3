"""One piece of the client side for people who have a network and images: module in, module out."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fedadapt.client.adaptations import registry as adaptations
from fedadapt.client.cohort import Cohort
from fedadapt.client.statistics.importance import Granularity, importances
from fedadapt.client.statistics.sparsity import Layer, sparsity_vectors
from fedadapt.datasets.benchmark import Examples, Split
from fedadapt.errors import InputError
from fedadapt.models.meta import on_meta
from fedadapt.models.norms import has_batch_norm
from fedadapt.parameters import check_parameters, param
from fedadapt.weights import Weights, repeat, row


@dataclass(frozen=True, kw_only=True)
class _SparsityArguments:
    """The arguments of ``sparsity`` that have a range."""

    batch_size: int | None = param(None, "images at once; None: as many as suit", at_least=1)
    epsilon: float = param(0.0, "magnitude below which a unit counts as off", at_least=0)

    def __post_init__(self) -> None:
        check_parameters(self, "sparsity: ")


@dataclass(frozen=True, kw_only=True)
class _ImportanceArguments:
    """The arguments of ``importance`` that have a range."""

    kind: str = param("mas", "the measure", choices=("mas", "fisher"))
    granularity: str = param("sample", "gradients it is made of", choices=("sample", "batch"))
    batch_size: int = param(20, "images in a batch", at_least=1)

    def __post_init__(self) -> None:
        check_parameters(self, "importance: ")


def adapt(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    method: str = "adabn",
    seed: int = 0,
    **hyper: Any,
) -> nn.Module:
    """A copy of ``model`` adapted to a client's images; the arguments stay as they were.

    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    >>> images = torch.rand(40, 1, 8, 8) + 3
    >>> adapted = adapt(net, images, method="adabn")
    >>> bool(adapted[1].running_mean.ne(net[1].running_mean).all())
    True

    Args:
        model: On any client, in any mode; a head is ``model.head`` or else its last Linear.
        images: [N, ...], as the network takes them (scaled, of its type), on the model's client.
        labels: [N] class numbers; ``none`` and ``adabn`` need none.
        method: A name that ``fedadapt adaptations`` lists, or ``module:Class``.
        seed: Fixes the order in which images are gone through.
        hyper: The method's own arguments, such as ``epochs`` or ``batch_size``; see
            ``fedadapt adaptations``.

    Raises:
        InputError: The method or an argument is unknown, or labels or batch normalisation are
            needed and not there.

    """
    adaptation = adaptations.build(method, hyper, "adapt")
    if adaptation.needs_labels and labels is None:
        raise InputError(f"adapt: {method} learns from labels; give them, or use method='adabn'")
    if adaptation.needs_batch_norm and not has_batch_norm(model):
        raise InputError(f"adapt: {method} needs a network with batch normalisation; this has none")
    if labels is None:
        labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    if len(labels) != len(images) or not len(images):
        raise InputError(
            f"adapt: {len(images)} images and {len(labels)} labels; one label an image"
        )
    cohort = _alone(model, Examples(images, labels), seed)
    start = repeat({n: t.detach() for n, t in model.state_dict().items()}, 1)
    adapted = copy.deepcopy(model)
    adapted.load_state_dict(row(adaptation.adapt(cohort, start), 0))
    return adapted


def sparsity(
    model: nn.Module,
    images: Tensor,
    *,
    layer: Layer = "first",
    channels: Sequence[int] | None = None,
    batch_size: int | None = None,
    epsilon: float = 0.0,
) -> Tensor:
    """Share of zeros in each channel of a ReLU layer on a client's images, in evaluation mode.

    It is not private by itself. ``fedadapt.client.differential_privacy.release`` adds noise, which
    covers one image if the vector was measured with ``batch_size=1`` and the scaling of the images
    does not depend on the client's images.

    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> sparsity(net, torch.rand(40, 1, 2, 2), channels=[2, 0]).shape
    torch.Size([2])

    Args:
        model: On any client, in any mode; it stays as it was.
        images: [N, ...], as the network takes them (scaled, of its type), on the model's client.
        layer: ``first``, the number of a ReLU layer by order of execution, or a dotted name; see
            ``fedadapt.client.statistics.sparsity.chosen``.
        channels: Which ones, in this order; all where None.
        batch_size: Images at once; None for as many as are fast. With 1 no image can have an
            influence on the zeros of another, whatever the network does.
        epsilon: 0 counts exact zeros; above it |a| < epsilon, for activations other than ReLU.

    Returns:
        [q], float64: for each channel the share of zeros over height and width, mean over images.

    Raises:
        InputError: no image, no ReLU layer, no such layer or channel, or batch norm without
            running statistics.

    """
    if not len(images):
        raise InputError("sparsity: 0 images; it is a mean over at least one")
    _SparsityArguments(batch_size=batch_size, epsilon=epsilon)
    if isinstance(layer, bool) or not isinstance(layer, int | str):
        raise InputError(f"sparsity: layer: {layer!r}; it is 'first', a whole number or a name")
    if channels is not None:
        channels = _whole_numbers(channels)
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    cohort = _alone(model, Examples(images, labels), seed=0)
    weights = repeat({n: t.detach() for n, t in model.state_dict().items()}, 1)
    [vector] = sparsity_vectors(
        cohort, weights, layer=layer, channels=channels, epsilon=epsilon, batch_size=batch_size
    )
    return vector


def importance(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    kind: Literal["mas", "fisher"] = "mas",
    granularity: Granularity = "sample",
    batch_size: int = 20,
    exclude: Iterable[str] = (),
    generator: torch.Generator | None = None,
) -> Weights:
    """How much each parameter matters on a client's images, in evaluation mode: DUA's psi.

    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> omega = importance(net, torch.rand(40, 1, 2, 2), exclude=["3"])
    >>> {name: tuple(tensor.shape) for name, tensor in omega.items()}
    {'1.weight': (3, 4), '1.bias': (3,)}

    Args:
        model: On any client, in any mode; it stays as it was, its statistics too.
        images: [N, ...], as the network takes them (scaled, of its type), on the model's client.
        labels: [N] class numbers; only ``fisher`` looks at them.
        kind: ``mas``: the mean |gradient of the squared norm of the logits|. ``fisher``: the mean
            squared gradient of the log-likelihood of ``labels`` (empirical Fisher), or where there
            are none of labels drawn from the model's own predictions (true Fisher).
        granularity: ``sample``: of each image's gradient. ``batch``: of each batch's mean gradient,
            in which opposite signs cancel.
        batch_size: Of ``batch``.
        exclude: Names of parameters or layers to leave out: the head.
        generator: Fixes the draws and the batches; equal calls without one give equal results.

    Returns:
        Of the model's parameters, each in its shape and type, non-negative.

    Raises:
        InputError: no image, not one label an image, an unknown kind, granularity or name.

    """
    _ImportanceArguments(kind=kind, granularity=granularity, batch_size=batch_size)
    targets = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
    if len(targets) != len(images) or not len(images):
        raise InputError(
            f"importance: {len(images)} images and {len(targets)} labels; one label an image"
        )
    seed = 0
    if generator is not None:
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    cohort = _alone(model, Examples(images, targets.to(images.device)), seed)
    stacked = importances(
        cohort,
        repeat({n: t.detach() for n, t in model.state_dict().items()}, 1),
        kind="true-fisher" if kind == "fisher" and labels is None else kind,
        granularity=granularity,
        batch_size=batch_size,
        exclude=exclude,
    )
    return row(stacked, 0)


def _whole_numbers(channels: Sequence[int]) -> list[int]:
    """Of any sequence, a tensor or an array among them."""
    numbers = [c.item() if hasattr(c, "item") else c for c in channels]
    if not all(type(c) is int for c in numbers):
        raise InputError(f"sparsity: channels: {numbers[:3]}; they must be whole numbers")
    return numbers


def _alone(model: nn.Module, images: Examples, seed: int) -> Cohort:
    """A cohort of one client that has nothing but these."""
    return Cohort(
        model=on_meta(model),
        clients=(0,),
        splits=(Split(images, images, images),),
        scaling=lambda inputs: inputs,
        seed=seed,
        states=({},),
    )
