"""The subspace that a client's images span, class by class: what PACFL compares clients by.

Vahidian et al. 2023, "Efficient distribution similarity identification in clustered federated
learning via principal angles between client data subspaces", section 3.
"""

import torch
from torch import Tensor

from fedadapt.client.cohort import Cohort

LEAST = 1e-6  # of the largest singular value: what is smaller is rounding


def class_subspaces(cohort: Cohort, per_class: int, num_classes: int) -> Tensor:
    """An orthonormal basis of what the leading left singular vectors of all classes span.

    A class's matrix has its images as they are stored, an image a column. Bases have columns for
    all classes; those that a client needs none of are zero, and come last.

    Args:
        per_class: Singular vectors of a class; as many as it has images where those are fewer.

    Returns:
        [D, pixels, columns], float64; columns: per_class * num_classes, or pixels where they are
        fewer.

    """
    return torch.stack([
        _basis(split.train.inputs.cpu(), split.train.labels.cpu(), per_class, num_classes)
        for split in cohort.splits
    ])  # fmt: skip


def _basis(images: Tensor, labels: Tensor, per_class: int, num_classes: int) -> Tensor:
    columns = images.flatten(1).double().T
    leading = [_leading(columns[:, labels == c], per_class) for c in labels.unique().tolist()]
    width = min(per_class * num_classes, len(columns))
    basis = _leading(torch.cat(leading, 1), width)
    padded = columns.new_zeros(len(columns), width)
    padded[:, : basis.shape[1]] = basis
    return padded


def _leading(matrix: Tensor, most: int) -> Tensor:
    """Left singular vectors of the largest singular values that are not zero."""
    vectors, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    return vectors[:, : min(most, int((values > LEAST * values[0]).sum()))]
