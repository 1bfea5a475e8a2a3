"""Several models in one message, of which each client chooses one by its own images.

Their tensors travel under one set of names, ``0/<name>``, ``1/<name>``, and so on.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fedadapt.client.cohort import Cohort, Part
from fedadapt.client.evaluation import evaluate
from fedadapt.errors import InputError
from fedadapt.weights import Weights


def join_models(models: Sequence[Mapping[str, Tensor]]) -> Weights:
    """All models as one, model k's tensors under ``k/<name>``; the inverse of ``split_models``."""
    return {f"{k}/{n}": t for k, model in enumerate(models) for n, t in model.items()}


def split_models(weights: Mapping[str, Tensor]) -> list[Weights]:
    """The models whose tensors are named ``k/<name>``, in the order of k = 0, 1, ...

    Raises:
        InputError: A name does not begin with a model's number, or a number is left out.

    """
    models: dict[int, Weights] = {}
    for name, t in weights.items():
        number, slash, rest = name.partition("/")
        if not (slash and number.isdecimal()):
            raise InputError(f"candidates: {name!r}; a name must begin with its model's number, 0/")
        models.setdefault(int(number), {})[rest] = t
    missing = sorted(set(range(len(models))) - models.keys())
    if missing:
        raise InputError(f"candidates: no model {missing[0]} among {len(models)}")
    return [models[k] for k in range(len(models))]


def best_of(cohort: Cohort, models: Sequence[Weights], part: Part) -> Tensor:
    """Each client's model of least mean loss on its ``part`` images: [D], int64.

    The models are compared in evaluation mode, one after the other. Of equal losses the first one
    counts, and a loss that is not a number never does.

    Args:
        models: Each stacked, [D, ...]; one for all clients is an expanded view.
        part: ``train`` or ``adapt``: a choice made on test images would spoil the measurement.

    """
    scores = [evaluate(cohort, model, cohort.part(part)) for model in models]
    losses = np.array([[score.loss for score in row] for row in scores])
    return torch.from_numpy(np.nan_to_num(losses, nan=np.inf).argmin(0))


def pick(models: Sequence[Weights], choice: Tensor) -> Weights:
    """Row d of model ``choice[d]``, for every client d: [D, ...]."""
    chosen = choice.tolist()
    return {n: torch.stack([models[k][n][d] for d, k in enumerate(chosen)]) for n in models[0]}
