"""Images that the server keeps for itself, drawn before the clients get theirs."""

import numpy as np

from fedadapt.datasets.partitioning.stratified import Rows, stratified_order
from fedadapt.errors import InputError


def drawn_for_server(
    rows: Rows, labels: Rows, domains: Rows | None, share: float, rng: np.random.Generator
) -> tuple[Rows, Rows]:
    """Draw the server's share of ``rows``, every class of every domain in proportion.

    Args:
        rows: The images to divide, [n].
        labels: Labels of all images in the store, [N]; ``domains`` likewise, or None.
        share: Of the images, above 0 and below 1.

    Returns:
        The server's images and the others, both ascending.

    Raises:
        InputError: The share is less than one image.

    """
    cells = labels if domains is None else labels + (int(labels.max()) + 1) * domains
    number = round(share * len(rows))
    if number == 0:
        raise InputError(f"server-share: {share:g} of {len(rows)} images is none; give it more")
    order = rows[stratified_order(cells[rows], rng)]
    return np.sort(order[:number]), np.sort(order[number:])
