"""``fedadapt.load``: a saved model as the network it is, ready to predict."""

from pathlib import Path

from torch import nn

from fedadapt.errors import InputError
from fedadapt.models.build import make_network
from fedadapt.saved_models.card import Card
from fedadapt.saved_models.files import find, read


def load(
    run: str | Path,
    client: int | None = None,
    adaptation: str = "none",
    model: str | None = None,
    task: int | None = None,
) -> nn.Module:
    """Load a model that a run has saved: the network in evaluation mode, on the CPU.

    It takes images as the network takes them, float32 [N, C, H, W] and normalised, and returns
    logits [N, classes]. Its attribute ``card`` says everything else: ``model.card.classes`` are the
    names of the classes, ``model.card.images(paths)`` reads image files as the network takes them,
    ``model.card.scaling(pixels)`` normalises images of bytes.

    Args:
        run: The folder of a run, the state folder of a client, or the file of one model.
        client: Whose model; None: the base model that is the same for all.
        adaptation: ``none`` or one of the run's local adaptations.
        model: ``base``, ``personal``, or ``served``, what the client chose by its adapt images;
            None: the served one where clients chose, else personal, else base.
        task: Of a task-incremental run.

    Raises:
        InputError: There is no such model, and which there are; or its file is damaged.

    """
    network, card = load_with_card(find(Path(run), client, adaptation, model, task))
    setattr(network, "card", card)  # noqa: B010, nn.Module types its attributes otherwise
    return network


def load_with_card(path: Path) -> tuple[nn.Module, Card]:
    """The network in a file, in evaluation mode, and its card."""
    weights, card = read(path)
    network = make_network(card.network, card.image_shape, len(card.classes), card.vocabulary)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: does not fit the network {card.network!r} of its card ({reason})"
        ) from None
    return network.eval(), card
