"""How much memory clients' answers take on the server, and how many are asked for at once."""

import math

AT_ONCE = 2**30
"""Bytes of answers that are waited for together; further clients are asked when these are in."""


def asked_at_once(answer: int) -> int:
    """Return how many clients are asked at once, whose answers have so many bytes."""
    return max(1, AT_ONCE // max(1, answer))


def memory_estimate(model: int, clients: int, *, compared: bool) -> str:
    """Describe the memory that answers as large as the model will take.

    Args:
        model: Bytes.
        clients: That are asked in a round.
        compared: The round's updates are compared, so that all are held until the last has come.

    """
    together = min(clients, asked_at_once(model))
    portions = math.ceil(clients / together) if together else 0
    # As it came, as tensors, and once more while it is added.
    held = model * (3 * together + (clients if compared else 0))
    how = "all at once" if portions <= 1 else f"{together} at a time, in {portions} portions"
    return (
        f"answers of {model / 1e6:.1f} MB from {clients} clients, {how}: about "
        f"{max(1, round(held / 1e6)):,} MB of memory here"
        + ("; max-update-factor holds a round's answers together" if compared else "")
    )
