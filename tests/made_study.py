"""A made-up comparison: folders of finished runs of two methods, two settings, two seeds."""

from pathlib import Path

from made_up import communication, evaluation, losses
from pages import finish

CLIENTS = 12
METHODS = {"ditto": 0.60, "fedavg": 0.50}
SETTINGS = {0.01: 0.0, 0.1: 0.08}


def accuracy(method: str, lr: float, seed: int, client: int, label: str, round: int) -> float:
    """In whole hundredths; a client that has a higher number does better."""
    if label == "local":
        return 0.55 + 0.01 * client
    gain = 0.06 if label == "base+fine-tune" else 0.0
    grown = 0.04 * round
    value = METHODS[method] + SETTINGS[lr] + gain + grown + 0.02 * client * (client % 3 - 1) / 2
    return round_to(value + 0.01 * seed)


def round_to(value: float) -> float:
    return int(100 * min(1.0, max(0.0, value)) + 0.5) / 100


def rows(method: str, lr: float, seed: int) -> list:
    return [
        evaluation(client, accuracy(method, lr, seed, client, label, round), label, round=round)
        for round in (1, 2, 3)
        for label in (("base",) if round < 3 else ("local", "base", "base+fine-tune"))
        for client in range(CLIENTS)
    ]


def make(folder: Path, settings: tuple[float, ...] = (0.01,)) -> list[Path]:
    """Write the runs below a folder; return theirs."""
    made = []
    for method in METHODS:
        for lr in settings:
            for seed in (1, 2):
                run = folder / f"{method}-{lr}-{seed}"
                run.mkdir(parents=True)
                made.append(
                    finish(run, rows(method, lr, seed), communication(CLIENTS), losses(3),
                           strategy=method, lr=lr, seed=seed, rounds=3, clients=CLIENTS)
                )  # fmt: skip
                (run / "report.html").write_text("of a run")
    return made
