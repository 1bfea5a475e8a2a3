"""Rows as a run leaves them, made up: quick, of any size, and the same every time."""

from collections.abc import Sequence

import numpy as np

from fedadapt.records import CommunicationEntry, Evaluation, RoundLoss

GAINS = {"none": 0.0, "adabn-s": 0.04, "fine-tune": 0.12}
FAILURES = {
    "rejected": "conv1.weight: not finite",
    "error": "ValueError, incident 3fa2",
    "late": "no answer after 60 s",
    "lost": "the node is gone",
}


def evaluation(client: int, accuracy: float, label: str = "base", **fields: object) -> Evaluation:
    """One row, of round 5 and 100 test images unless told otherwise."""
    model, _, adaptation = label.partition("+")
    row = Evaluation(
        5, client, "all", True, model, adaptation or "none", "test", 100, accuracy, 0.5
    )
    return row._replace(**fields)  # type: ignore[arg-type]


def evaluations(
    num_clients: int,
    *,
    kinds: Sequence[str] = ("plain", "inverted", "rotated"),
    adaptations: Sequence[str] = tuple(GAINS),
    unseen_share: float = 0.2,
    last_round: int = 10,
) -> list[Evaluation]:
    """The base every second round; every adaptation after the last; a global test of the base."""
    random = np.random.default_rng(1)
    rows = []
    offsets = random.normal(0, 0.08, num_clients)
    for round in range(0, last_round + 1, 2):
        for client in range(num_clients):
            kind = client % len(kinds)
            base = 0.12 + (0.7 - 0.05 * kind) * (1 - np.exp(-round / 3)) + offsets[client]
            for adaptation in adaptations if round == last_round else ("none",):
                gain = GAINS[adaptation] * random.normal(1, 0.8)
                right = round_half(40 * np.clip(base + gain, 0, 1))
                rows.append(
                    Evaluation(
                        round,
                        client,
                        kinds[kind],
                        client >= unseen_share * num_clients,
                        "base",
                        adaptation,
                        "test",
                        40,
                        right / 40,
                        2 * (1 - right / 40),
                    )
                )
    return [*rows, Evaluation(last_round, -1, "all", True, "base", "none", "global", 90, 0.7, 0.9)]


def round_half(value: float) -> int:
    """To the nearest whole number."""
    return int(value + 0.5)


def communication(num_clients: int, rounds: int = 4) -> list[CommunicationEntry]:
    """Training messages; every seventh client fails in one of four ways."""
    rows = []
    for round in range(1, rounds + 1):
        for client in range(num_clients):
            outcome = list(FAILURES)[round % 4] if client % 7 == 3 else "accepted"
            up = 1000 if outcome == "accepted" else 0
            reason = FAILURES.get(outcome, "")
            rows.append(CommunicationEntry(round, client, "train", outcome, reason, 4000, up, 0.25))  # type: ignore[arg-type]
    return rows


def losses(rounds: int = 10) -> list[RoundLoss]:
    """A loss that falls."""
    return [RoundLoss(r, float(2.3 * np.exp(-r / 4)), 80) for r in range(1, rounds + 1)]


ODD_RUNS = {
    "one client": evaluations(1),
    "no adaptation": evaluations(5, adaptations=("none",)),
    "a personal model without a base": [evaluation(0, 0.5, "personal")],
    "only unseen clients": [evaluation(0, 0.5, seen=False)],
    "only a global test": [evaluation(-1, 0.5, split="global")],
    "nothing": [],
    "a client without the adapted model": [*evaluations(2), evaluation(7, 0.5, round=10)],
    "many kinds": evaluations(
        60, kinds=[f"classes {k} and {k + 1}" for k in range(30)], last_round=0
    ),
}
