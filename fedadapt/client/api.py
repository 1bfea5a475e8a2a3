"""One piece of the device side for people who have a network and images: module in, module out."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from fedadapt import adaptations
from fedadapt.client.adaptation import adapt as adapt_stacked
from fedadapt.client.cohort import Cohort
from fedadapt.datasets.benchmark import Examples, Split
from fedadapt.errors import InputError
from fedadapt.models.norms import has_batch_norm
from fedadapt.weights import repeat, row


def adapt(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    method: str = "adabn",
    seed: int = 0,
    **hyper: Any,
) -> nn.Module:
    """A copy of ``model`` adapted to a device's images; the arguments stay as they were.

    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    >>> images = torch.rand(40, 1, 8, 8) + 3
    >>> adapted = adapt(net, images, method="adabn")
    >>> bool(adapted[1].running_mean.ne(net[1].running_mean).all())
    True

    Args:
        model: On any device, in any mode; a head is ``model.head`` or else its last Linear.
        images: [N, ...], as the network takes them (scaled, of its type), on the model's device.
        labels: [N] class numbers; ``none`` and ``adabn`` need none.
        method: ``none``, ``adabn``, ``adabn-s``, ``fine-tune``, ``kd`` or ``ewc``.
        seed: Of the order in which images are gone through.
        hyper: The method's own arguments, such as ``epochs`` or ``batch_size``; see
            ``fedadapt.adaptations``.

    Raises:
        InputError: unknown method or argument, no labels or no batch norm where they are needed.

    """
    wanted = adaptations.build(method, hyper, "adapt")
    if wanted.needs_labels and labels is None:
        raise InputError(f"adapt: {method} learns from labels; give them, or use method='adabn'")
    if wanted.needs_batch_norm and not has_batch_norm(model):
        raise InputError(f"adapt: {method} needs a network with batch normalisation; this has none")
    if labels is None:
        labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    if len(labels) != len(images) or not len(images):
        raise InputError(
            f"adapt: {len(images)} images and {len(labels)} labels; one label an image"
        )
    mine = Examples(images, labels)
    cohort = Cohort(
        model=copy.deepcopy(model).to("meta"),
        devices=(0,),
        splits=(Split(mine, mine, mine),),
        scaling=lambda inputs: inputs,
        seed=seed,
        kept=({},),
    )
    start = repeat({n: t.detach() for n, t in model.state_dict().items()}, 1)
    adapted = copy.deepcopy(model)
    adapted.load_state_dict(row(adapt_stacked(wanted, cohort, start), 0))
    return adapted
