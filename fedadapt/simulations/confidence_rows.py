"""How sure the models of some clients are of their own test images, as rows of a table."""

from collections.abc import Collection, Sequence

from fedadapt.client.calibration import confidences, fit_temperature
from fedadapt.client.cohort import Cohort
from fedadapt.client.cross_fitting import HeldOut
from fedadapt.client.evaluation import logits_of
from fedadapt.records import Confidence
from fedadapt.weights import Weights


def confidence_rows(
    cohort: Cohort,
    weights: Weights,
    held_out: Sequence[HeldOut],
    *,
    model: str,
    adaptation: str,
    unseen: Collection[int],
) -> list[Confidence]:
    """Return a row for each client, but for those whose model has diverged.

    Args:
        cohort: The clients.
        weights: The models that are tried, [D, ...].
        held_out: Each client's answers on adapt images that its model was not adapted to; its
            temperature is fitted to them, and is 1 where there are none.
        model: ``base`` or ``personal``.
        adaptation: What made ``weights`` of that model.
        unseen: Clients that take no part in training.

    """
    tests = [split.test for split in cohort.splits]
    rows = []
    for d, logits in enumerate(logits_of(cohort, weights, tests)):
        if not logits.isfinite().all():  # it is not sure of anything
            continue
        temperature = fit_temperature(*held_out[d])
        rows.append(
            Confidence(
                round=cohort.round,
                client=cohort.clients[d],
                seen=cohort.clients[d] not in unseen,
                model=model,
                adaptation=adaptation,
                temperature=temperature,
                right=(logits.argmax(1) == tests[d].labels).tolist(),
                raw=confidences(logits).tolist(),
                calibrated=confidences(logits, temperature).tolist(),
            )
        )
    return rows
