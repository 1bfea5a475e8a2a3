"""What the local adaptations do. phi in DUA (sec. 3.3), the baselines in PFA (sec. 5).

Weights in, adapted weights out; each composes with every base or personal model. The names and
hyper-parameters are in ``fedadapt.client.adaptations.settings``.
"""

from collections.abc import Iterator
from functools import singledispatch

from fedadapt.client.adaptations.settings import (
    AdaBN,
    AdaBNS,
    Adaptation,
    Ewc,
    FineTune,
    Kd,
    NoAdaptation,
    Tuning,
)
from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.client.fit import Sgd, fit
from fedadapt.client.statistics.batch_norm import batch_norm_statistics
from fedadapt.client.statistics.importance import fisher
from fedadapt.models.mode import training_norms
from fedadapt.objectives import Distillation, Objective, cross_entropy
from fedadapt.objectives import Ewc as Elastic
from fedadapt.selectors import Selector, everything, head, norm_affine
from fedadapt.weights import Weights

SELECTORS: dict[str, Selector] = {
    "all": everything,
    "head": head,
    "norm-affine": norm_affine,
}


@singledispatch
def adapt(
    method: Adaptation, cohort: Cohort, weights: Weights, fisher_of_all: Weights | None = None
) -> Weights:
    """Adapt each row of ``weights`` [D, ...] to its client's images; arguments are not moved.

    Args:
        method: Which adaptation, with its hyper-parameters. ``adapt.register`` adds another.
        fisher_of_all: The Fisher of the federation, stacked, for EWC; None where nobody asked.

    """
    raise TypeError(f"{type(method).__name__} has no implementation; register one with adapt")


@adapt.register
def _(
    method: NoAdaptation, cohort: Cohort, weights: Weights, fisher_of_all: Weights | None = None
) -> Weights:
    return weights


@adapt.register
def _(
    method: AdaBN, cohort: Cohort, weights: Weights, fisher_of_all: Weights | None = None
) -> Weights:
    schedule = Schedule(method.batch_size, 1, method.part, method.name)
    return weights | batch_norm_statistics(cohort, weights, schedule)


@adapt.register
def _(
    method: AdaBNS, cohort: Cohort, weights: Weights, fisher_of_all: Weights | None = None
) -> Weights:
    trained = fit(
        cohort,
        weights,
        Sgd(method.lr, method.momentum),
        Schedule(method.batch_size, method.epochs, method.part, method.name),
        trainable=norm_affine,
        mode=training_norms,
    ).weights
    # The statistics are those of a final pass, so that they fit the trained scale and shift.
    final = Schedule(method.batch_size, 1, method.part, f"{method.name}/statistics")
    return trained | batch_norm_statistics(cohort, trained, final)


@adapt.register
def _(
    method: Tuning, cohort: Cohort, weights: Weights, fisher_of_all: Weights | None = None
) -> Weights:
    *_, (_, tuned) = stages(method, cohort, weights, fisher_of_all)
    return tuned


def stages(
    method: Tuning, cohort: Cohort, weights: Weights, fisher_of_all: Weights | None = None
) -> Iterator[tuple[int, Weights]]:
    """Train on each client, stage by stage: the epochs done so far and the weights [D, ...]."""
    objective, memory = task(method, cohort, weights, fisher_of_all)
    length = method.stage or method.epochs
    for done in range(0, method.epochs, length):
        epochs = min(length, method.epochs - done)
        purpose = f"{method.name}/{done}" if done else method.name
        weights = fit(
            cohort,
            weights,
            Sgd(method.lr, method.momentum, method.weight_decay),
            Schedule(method.batch_size, epochs, method.part, purpose),
            objective=objective,
            trainable=SELECTORS[method.trainable],
            memory=memory,
        ).weights
        yield done + epochs, weights


@singledispatch
def task(
    method: Tuning, cohort: Cohort, weights: Weights, fisher_of_all: Weights | None = None
) -> tuple[Objective, dict[str, Weights]]:
    """What a client minimises, and what it remembers of the model it received for it."""
    raise TypeError(f"{type(method).__name__} has no objective; register one with task")


@task.register
def _(
    method: FineTune, cohort: Cohort, weights: Weights, fisher_of_all: Weights | None = None
) -> tuple[Objective, dict[str, Weights]]:
    return cross_entropy, {}


@task.register
def _(
    method: Kd, cohort: Cohort, weights: Weights, fisher_of_all: Weights | None = None
) -> tuple[Objective, dict[str, Weights]]:
    return Distillation(method.share, method.temperature), {"teacher": weights}


@task.register
def _(
    method: Ewc, cohort: Cohort, weights: Weights, fisher_of_all: Weights | None = None
) -> tuple[Objective, dict[str, Weights]]:
    importance = fisher_of_all
    if importance is None or method.fisher == "own":
        importance = fisher_for(method, cohort, weights)
    if method.lam:
        # At 1 / (lr lam) one step pulls a parameter all the way back; SGD diverges from three times
        # that on (momentum 0.5), as the papers' constants do on unlike clients.
        most = 1 / (method.lr * method.lam)
        importance = {n: t.clamp(max=most) for n, t in importance.items()}
    return Elastic(method.lam), {"anchor": weights, "importance": importance}


def fisher_for(method: Ewc, cohort: Cohort, weights: Weights) -> Weights:
    """The Fisher that EWC takes, of each client alone: batch by batch, as its ``lam`` supposes."""
    return fisher(
        cohort, weights, part=method.part, granularity="batch", batch_size=method.batch_size
    )
