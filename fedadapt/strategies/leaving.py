"""What each message type may hold when a client answers it, in words, for people to read."""

from collections.abc import Iterator
from typing import NamedTuple

from fedadapt.client.adaptations import registry as adaptations
from fedadapt.strategies.registry import STRATEGIES, find, is_flowers

ANY = "any run"

OF_ANY_RUN = {
    "query.hello": "who the client is, versions, what the run is on, the number of training images",
    "query.count": "how many clients there are, where the run does not say",
    "query.classes": "names of classes, where the run gives none and the owner shares them",
    "query.normalization": "sums of the channels of all training images, if the owner shares them",
    "evaluate": "of each model and adaptation: accuracy, loss, number of test images; with "
    "confidence=true how sure it is of each test image",
    "any of these": "beside it the number of images and the loss; or an error: a fixed word, the "
    "type of an exception and a random number",
}


class Leaving(NamedTuple):
    """One row of the table."""

    message: str
    asked_by: tuple[str, ...]
    holds: str


def leaving(name: str | None = None) -> list[Leaving]:
    """Return what may leave a client, by message type and who asks.

    Args:
        name: A strategy, by name or as ``module:Class``; None: all of the registry, and the
            queries of local adaptations.

    Raises:
        InputError: There is no such strategy.

    """
    asked: dict[tuple[str, str], list[str]] = {}
    for each in (name,) if name else tuple(STRATEGIES.ours):
        for message, holds in _of_strategy(each):
            asked.setdefault((message, holds), []).append(each)
    if name is None:
        for adaptation in adaptations.ADAPTATIONS.ours:
            query = adaptations.find(adaptation)().query()
            if query is not None:
                asked.setdefault((query.action, query.leaves), []).append(adaptation)
    rows = [Leaving(message, tuple(by), holds) for (message, holds), by in asked.items()]
    order = sorted(rows, key=lambda row: (row.message != "train", row.message))
    return [*order, *(Leaving(message, (ANY,), holds) for message, holds in OF_ANY_RUN.items())]


def _of_strategy(name: str) -> Iterator[tuple[str, str]]:
    cls = find(name)
    if is_flowers(cls):
        yield "train", "the trained model"
        yield "evaluate", "accuracy and loss on the adapt images, and their number"
        return
    told = cls.told_of()
    for message in ("train", *cls.query_types):
        yield message, told.get(message, "the arrays that it declares")
