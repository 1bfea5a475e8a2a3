"""The numbers typed in from the paper agree with the sums it prints of them."""

import numpy as np
import pytest

from fedadapt.reproductions.pfa.published import METHODS, MOBILENETV2, VGG11

TABLE_5 = {
    "Baseline": (51.03, 46.18, 72.97, 64.09, 58.57),
    "Fine-tune": (54.32, 52.59, 77.37, 65.94, 62.55),
    "KD": (56.17, 54.53, 78.38, 67.08, 64.04),
    "EWC": (54.94, 54.19, 78.71, 66.39, 63.56),
    "PFA": (58.02, 58.79, 79.95, 68.57, 66.33),
}
TABLE_6 = {
    "Baseline": (46.08, 48.70, 68.59, 61.01, 56.09),
    "Fine-tune": (48.35, 55.00, 72.74, 61.12, 59.30),
    "KD": (49.58, 56.59, 71.73, 62.26, 60.04),
    "EWC": (50.81, 56.94, 72.98, 62.83, 60.89),
    "PFA": (51.43, 61.18, 78.71, 63.18, 63.62),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("published", "printed"), [(VGG11, TABLE_5), (MOBILENETV2, TABLE_6)], ids=["VGG", "MobileNet"]
)
def test_domain_means_follow_from_the_clients(published, printed, method):
    means = np.array(published.clients[method]).reshape(4, 5).mean(1)
    assert [*means, means.mean()] == pytest.approx(printed[method], abs=0.012)


def test_random_groups_have_the_average_that_table_8_prints():
    assert np.mean(MOBILENETV2.clients["Random"]) == pytest.approx(55.52, abs=0.006)
