"""What the local adaptations do. phi in DUA (sec. 3.3), the baselines in PFA (sec. 5).

Weights in, adapted weights out; each composes with every base or personal model. The names and
hyper-parameters are in ``fedadapt.adaptations``.
"""

from collections.abc import Mapping
from functools import singledispatch

from fedadapt.adaptations import AdaBN, AdaBNS, Adaptation, Ewc, FineTune, Kd, NoAdaptation, Tuning
from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.client.fit import Sgd, fit
from fedadapt.client.moments import norm_moments
from fedadapt.client.precisions import fisher
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
    """Adapt each row of ``weights`` [D, ...] to its device's images; arguments are not moved.

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
    return weights | norm_moments(cohort, weights, schedule)


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
    return trained | norm_moments(cohort, trained, final)


@adapt.register
def _(
    method: FineTune, cohort: Cohort, weights: Weights, fisher_of_all: Weights | None = None
) -> Weights:
    return _tune(method, cohort, weights, cross_entropy, {})


@adapt.register
def _(
    method: Kd, cohort: Cohort, weights: Weights, fisher_of_all: Weights | None = None
) -> Weights:
    objective = Distillation(method.share, method.temperature)
    return _tune(method, cohort, weights, objective, {"teacher": weights})


@adapt.register
def _(
    method: Ewc, cohort: Cohort, weights: Weights, fisher_of_all: Weights | None = None
) -> Weights:
    importance = fisher_of_all
    if importance is None or method.fisher == "own":
        importance = fisher_for(method, cohort, weights)
    if method.lam:
        # At 1 / (lr lam) one step pulls a parameter all the way back; SGD diverges from three times
        # that on (momentum 0.5), as the papers' constants do on unlike devices.
        most = 1 / (method.lr * method.lam)
        importance = {n: t.clamp(max=most) for n, t in importance.items()}
    memory = {"anchor": weights, "importance": importance}
    return _tune(method, cohort, weights, Elastic(method.lam), memory)


def fisher_for(method: Ewc, cohort: Cohort, weights: Weights) -> Weights:
    """The Fisher that EWC takes, of each device alone: batch by batch, as its ``lam`` supposes."""
    return fisher(
        cohort, weights, part=method.part, granularity="batch", batch_size=method.batch_size
    )


def _tune(
    method: Tuning,
    cohort: Cohort,
    weights: Weights,
    objective: Objective,
    memory: Mapping[str, Weights],
) -> Weights:
    return fit(
        cohort,
        weights,
        Sgd(method.lr, method.momentum, method.weight_decay),
        Schedule(method.batch_size, method.epochs, method.part, method.name),
        objective=objective,
        trainable=SELECTORS[method.trainable],
        memory=memory,
    ).weights
