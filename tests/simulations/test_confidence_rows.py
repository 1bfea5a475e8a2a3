"""How sure models are of test images, as rows: raw, and at the temperature of held-out images."""

import numpy as np
import torch
from toys import cohort, initials, linear, split

from fedadapt.client.calibration import fit_temperature
from fedadapt.client.cross_fitting import HeldOut
from fedadapt.client.evaluation import logits_of
from fedadapt.simulations.confidence_rows import confidence_rows

SPLITS = [split(4, test=n, seed=d) for d, n in enumerate((5, 7, 6))]


def rows(weights, held_out):
    members = cohort(linear(16), SPLITS, round=4)
    names = {"model": "personal", "adaptation": "adabn", "unseen": {11}}
    return members, confidence_rows(members, weights, held_out, **names)


def held(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return HeldOut(logits, torch.randint(0, 3, (count,), generator=generator))


def test_raw_is_as_the_model_is_and_calibrated_at_the_clients_own_temperature():
    weights, held_out = initials(linear(16), 3), [held(9), held(9, 1), held(0)]
    members, found = rows(weights, held_out)
    tests = [s.test for s in SPLITS]
    assert [(r.client, r.seen, r.label, r.round) for r in found] == [
        (10, True, "personal+adabn", 4),
        (11, False, "personal+adabn", 4),
        (12, True, "personal+adabn", 4),
    ]
    for row, logits, test, images in zip(
        found, logits_of(members, weights, tests), tests, held_out, strict=True
    ):
        temperature = fit_temperature(*images)
        assert row.temperature == temperature
        np.testing.assert_allclose(row.raw, logits.softmax(1).amax(1))
        np.testing.assert_allclose(row.calibrated, (logits / temperature).softmax(1).amax(1))
        assert row.right == (logits.argmax(1) == test.labels).tolist()
    assert len({r.temperature for r in found}) == 3
    assert found[2].temperature == 1.0  # nothing was held out


def test_a_diverged_model_has_no_row_and_the_others_keep_theirs():
    weights = initials(linear(16), 3)
    weights["head.bias"][1, 0] = torch.nan
    _, found = rows(weights, [held(4)] * 3)
    assert [row.client for row in found] == [10, 12]
