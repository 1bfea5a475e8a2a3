"""The tables of a run: how good each model was on each client, and what travelled."""

import math
from typing import Literal, NamedTuple

Outcome = Literal["accepted", "rejected", "error", "late", "lost"]
Phase = Literal["training", "evaluation"]

LOCAL = "local"  # the model of a client that trains alone and never takes part in a federation
SERVED = "served"  # of the federation's models the one that a client chose by its adapt images
HELD_OUT = "held-out"  # adapt images, each scored by a model that was not adapted to it


class Evaluation(NamedTuple):
    """One client x model x adaptation x test set, after one round."""

    round: int  # 0 is before training
    client: int
    kind: str  # the client's domain, class pair, ...
    seen: bool  # took part in training
    model: str  # "base", "personal", "local" or "served"
    adaptation: str  # "none", "adabn", ...
    split: str  # "test": its own; "global": everybody's; "adapt", "held-out": to choose by
    num_examples: int
    accuracy: float  # share of right answers, in [0, 1]
    loss: float  # mean cross-entropy, nats
    epoch: int = 0  # of a local adaptation, where it was looked at on the way; 0: at its end
    task: int = 0  # of a task-incremental benchmark; clients are scored on each task
    # Each class counts once. NaN in runs of an earlier version.
    balanced_accuracy: float = math.nan
    f1: float = math.nan
    auc: float = math.nan  # NaN where the images are all of one class too

    @property
    def label(self) -> str:
        """``base``, ``base+adabn``, ``personal+fine-tune``: the key in ``summary.json``."""
        return self.model if self.adaptation == "none" else f"{self.model}+{self.adaptation}"


class Confidence(NamedTuple):
    """How sure one client x model x adaptation is of each of the client's own test images.

    Sureness is the probability of the predicted class.
    """

    round: int
    client: int
    seen: bool
    model: str
    adaptation: str
    temperature: float  # that makes it as sure as it is right, from adapt images alone
    right: list[bool]  # of each image
    raw: list[float]  # as the model is, in [0, 1]
    calibrated: list[float]  # at the temperature

    @property
    def label(self) -> str:
        """As ``Evaluation.label``."""
        return self.model if self.adaptation == "none" else f"{self.model}+{self.adaptation}"


class EvaluationFailure(NamedTuple):
    """One client x model x adaptation that was asked for and has no result; others may have."""

    round: int
    client: int
    model: str
    adaptation: str
    reason: str  # a type and an incident id; never data
    task: int = 0

    @property
    def label(self) -> str:
        """As ``Evaluation.label``."""
        return self.model if self.adaptation == "none" else f"{self.model}+{self.adaptation}"


class TaskForgetting(NamedTuple):
    """One user x model x adaptation x task, at the end of a task-incremental run."""

    client: int
    kind: str
    model: str
    adaptation: str
    task: int
    when_new: float  # accuracy just after the task was learnt, in [0, 1]; NaN: not measured
    at_end: float  # accuracy after the last task
    forgetting: float  # when_new - at_end: below zero, later tasks have helped


class CommunicationEntry(NamedTuple):
    """One message to one client and what became of it."""

    round: int
    client: int
    action: str  # "train", "evaluate", "query.sparsity", ...
    outcome: Outcome
    reason: str  # empty when accepted
    bytes_down: int  # payload of arrays sent to the client
    bytes_up: int  # payload of arrays and metrics sent by the client
    seconds: float  # on the client, where it is known; else 0
    phase: Phase = "training"  # "evaluation": the message served numbers, not the model


class RoundLoss(NamedTuple):
    """What training reported: the mean of the clients' losses, weighted by examples."""

    round: int
    loss: float
    num_clients: int
