"""Descriptions of tasks: which classes a client has, and of which domain its images are.

A description is a vector [C + G]: a share of each of C classes, which sum to 1, and where there are
G domains a one for that of the client.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from fedadapt.client.cohort import Cohort


def class_shares(cohort: Cohort, num_classes: int) -> Tensor:
    """Return the share of each class in each client's training images, [D, C]."""
    counts = [torch.bincount(part.labels, minlength=num_classes) for part in cohort.part("train")]
    shares = torch.stack(counts).float()
    return shares / shares.sum(1, keepdim=True)


def bag_of_words(present: Tensor) -> Tensor:
    """Return equal shares of the classes that are present, [D, C], bool -> float.

    Chen et al. 2023 take ones; divided by their number they are shares like all others.
    """
    words = present.float()
    return words / words.sum(1, keepdim=True).clamp(min=1)


def with_domains(classes: Tensor, domains: Tensor, num_domains: int) -> Tensor:
    """Append the domains [D] to the classes [D, C], as ones: [D, C + G]."""
    return torch.cat([classes, F.one_hot(domains, num_domains).to(classes)], 1)


def most_frequent(shares: Tensor, number: int) -> Tensor:
    """Return which classes are the ``number`` most frequent ones, [D, C], bool.

    A class that does not occur is never among them; of equal ones the first are taken.
    """
    chosen = shares.argsort(dim=1, descending=True, stable=True)[:, :number]
    among = torch.zeros_like(shares, dtype=torch.bool).scatter_(1, chosen, True)
    return among & (shares > 0)


def no_descriptions(tasks: Tensor, num_classes: int) -> Mapping[int, str]:
    """Name the rows of [D, C + G] that are no descriptions, for a server to refuse."""
    parts = [tasks[:, :num_classes], tasks[:, num_classes:]]
    right = torch.ones(len(tasks), dtype=torch.bool)
    for part in parts:
        if part.shape[1]:
            right &= (part >= 0).all(1) & ((part.sum(1) - 1).abs() <= 1e-3)
    return {d: "its description is no shares" for d in (~right).nonzero().flatten().tolist()}
