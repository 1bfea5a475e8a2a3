"""Training on the client in stages: the model after each of them can be looked at."""

from collections.abc import Callable, Iterator

from fedadapt.weights import Weights

STAGE = (
    "epochs after which the optimiser starts anew, as it does in federated rounds, and after which "
    "a run with --curves evaluates the model; 0: one stage"
)
"""What the parameter ``stage`` of an adaptation means."""

Train = Callable[[Weights, int, str], Weights]
"""Takes the weights of the clients, [D, ...], epochs, and what the random stream is for."""


def in_stages(
    train: Train, weights: Weights, epochs: int, stage: int, name: str
) -> Iterator[tuple[int, Weights]]:
    """Train for ``epochs`` in stages of ``stage`` epochs, each from where the one before ended.

    Yields:
        Epochs done and the weights after each stage; 0 in place of the epochs after the last one,
        as the adapted model is numbered.

    """
    length = stage or epochs
    for done in range(0, epochs, length):
        ended = min(done + length, epochs)
        weights = train(weights, ended - done, f"{name}/{done}" if done else name)
        yield ended if ended < epochs else 0, weights
