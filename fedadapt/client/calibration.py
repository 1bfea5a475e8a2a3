"""The temperature that makes a model as sure as it is right."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

COOLEST, HOTTEST = 0.05, 20.0
SPREAD = 0.5  # of log T before any image has been seen


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature T > 0 by which logits are divided before the softmax.

    It minimises the negative log-likelihood of the labels (Guo et al. 2017, sec. 4.2) over [0.05,
    20]. A few images that are all predicted rightly would make a model infinitely sure, so log T
    has a normal prior of mean 0 and standard deviation 0.5, which is ours: without images T is 1,
    and with many the prior does not count.

    Args:
        logits: [N, num_classes], of images that the model was not fitted to.
        labels: [N], int64.

    """
    from scipy.optimize import minimize_scalar

    if not len(labels):
        return 1.0
    z = logits.detach().double().cpu()
    own = z[torch.arange(len(labels)), labels.cpu()]

    def cost(log_t: float) -> float:
        t = math.exp(log_t)
        likelihood = (torch.logsumexp(z / t, 1) - own / t).sum()
        return float(likelihood) + 0.5 * (log_t / SPREAD) ** 2

    bounds = (math.log(COOLEST), math.log(HOTTEST))
    return math.exp(minimize_scalar(cost, bounds=bounds, method="bounded").x)


def confidences(logits: Tensor, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the probability of the predicted class, [N], at a temperature."""
    return (logits.detach().double() / temperature).softmax(1).amax(1).cpu().numpy()
