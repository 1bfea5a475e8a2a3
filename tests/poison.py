"""Strategies that a real client's owner has allowed, and that go wrong where a file says so.

The folder POISON has a file ``<client>-<n>.plan`` with a word in it: what the n-th training of that
client does. POISONED_AS is the client's name.
"""

import ctypes
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from fedadapt.client.differential_privacy import KEPT
from fedadapt.selectors import head
from fedadapt.strategies.shared_model import SharedModel

CANARY = "canary-of-an-exception /secret/patients.csv"
NOISE = 4.0
"""How much noise an answer of ``PoisonedHeads`` claims to have, in sensitivities."""


@dataclass(frozen=True, kw_only=True)
class Poisoned(SharedModel):
    """FedAvg with accidents."""

    def train(self, cohort, shared):
        strike()
        return self.train_shared(cohort, shared)


@dataclass(frozen=True, kw_only=True)
class PoisonedHeads(SharedModel):
    """FedPer with accidents. Each answer counts as one more noisy release."""

    personal = "on client"

    def train(self, cohort, shared):
        strike()
        nothing = {"releases": torch.zeros(len(cohort)), "noise": torch.full((len(cohort),), NOISE)}
        release = cohort.state(KEPT, nothing)
        release["releases"] = release["releases"] + 1
        update = self.train_shared(cohort, shared).keeping(**{KEPT: release})
        count("answers")
        return update

    def stays(self, model):
        return head(model)


def strike() -> None:
    """Count this training, and do what is planned for it."""
    number = count("count")
    plan = Path(os.environ["POISON"]) / f"{os.environ['POISONED_AS']}-{number}.plan"
    what = plan.read_text().strip() if plan.exists() else ""
    if what == "raise":
        raise ValueError(CANARY)
    if what == "dawdle":  # until the plan is gone: there is time for something to happen
        until = time.monotonic() + 50
        while plan.exists() and time.monotonic() < until:
            time.sleep(0.1)
    if what == "hang":
        time.sleep(600)
    if what == "hang in native code":
        ctypes.CDLL(None).pause()
        ctypes.PyDLL(None).sleep(600)  # holds the interpreter's lock
    if what == "exit":
        sys.exit(0)
    if what == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


def count(what: str) -> int:
    """Count one more of this client's trainings that began (``count``) or were done (``answers``).

    Returns:
        How many there are now.

    """
    counter = Path(os.environ["POISON"]) / f"{os.environ['POISONED_AS']}.{what}"
    number = len(counter.read_text()) + 1 if counter.exists() else 1
    counter.write_text("x" * number)
    return number
