"""Class means of the features as a head."""

import pytest
import torch
from torch import nn
from toys import (
    CLASSES,
    as_they_are,
    assert_close,
    assert_same_bits,
    cohort,
    conv,
    initial,
    initials,
    linear,
    split,
)

from fedadapt.client.adaptations.prototype import Prototype
from fedadapt.datasets.benchmark import Examples, Split
from fedadapt.errors import InputError
from fedadapt.models.network import Network
from fedadapt.selectors import head
from fedadapt.weights import repeat, row

SPLITS = [split(count, adapt=9, test=7, seed=count) for count in (25, 12, 18)]


def given(points, labels):
    """A client whose images are these points, which softmax regression takes as features."""
    values = torch.tensor(points, dtype=torch.float64)
    one = Examples(values, torch.tensor(labels))
    return Split(one, one, one)


def head_of(points, labels, **settings):
    """The new rows and biases, and the old ones, of one client of softmax regression."""
    model = linear(len(points[0]))
    start = initial(model)
    members = cohort(model, [given(points, labels)])
    found = row(Prototype(**settings).adapt(members, repeat(start, 1)), 0)
    return found["head.weight"], found["head.bias"], start["head.weight"], start["head.bias"]


POINTS = [[0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 1.0, 1.0], [0.0, 4.0, 0.0, 0.0]]


def test_rows_are_twice_the_means_by_hand():
    """Class 0 has mean (1, 0, 1, 1) and class 2 (0, 4, 0, 0); both over sqrt(4 features)."""
    weight, bias, old, old_bias = head_of(POINTS, [0, 0, 2], blend=1.0)
    wanted = torch.tensor([[2.0, 0, 2, 2], [0, 8, 0, 0]], dtype=torch.float64) / 2
    torch.testing.assert_close(weight[[0, 2]], wanted)
    torch.testing.assert_close(bias[[0, 2]], torch.tensor([-3.0, -16.0]).double() / 2)
    assert torch.equal(weight[1], old[1])  # no image of it: the trained row
    assert torch.equal(bias[1], old_bias[1])


def test_the_nearest_mean_wins():
    generator = torch.Generator().manual_seed(3)
    points = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    labels = [i % CLASSES for i in range(30)]
    weight, bias, *_ = head_of(points.tolist(), labels, blend=1.0)
    means = torch.stack([points[c::CLASSES].mean(0) for c in range(CLASSES)])
    nearest = torch.cdist(points, means).argmin(1)
    assert torch.equal((points @ weight.T + bias).argmax(1), nearest)


@pytest.mark.parametrize("blend", [0.0, 0.25, 1.0])
def test_logits_are_blended(blend):
    pure, pure_bias, old, old_bias = head_of(POINTS, [0, 1, 2], blend=1.0)
    weight, bias, *_ = head_of(POINTS, [0, 1, 2], blend=blend)
    torch.testing.assert_close(weight, blend * pure + (1 - blend) * old)
    torch.testing.assert_close(bias, blend * pure_bias + (1 - blend) * old_bias)


def test_a_blend_of_0_changes_nothing():
    weights = initials(conv(), 3)
    for shots in (0, 2):
        found = Prototype(blend=0.0, shots=shots).adapt(cohort(conv(), SPLITS), weights)
        assert_same_bits(found, weights)


def test_the_features_are_those_of_evaluation_and_only_the_head_moves():
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    found = Prototype(blend=1.0, batch_size=7).adapt(members, weights)
    assert {n for n in weights if not torch.equal(found[n], weights[n])} == head(conv())
    for d, own in enumerate(SPLITS):
        images = own.train.inputs[None]
        [z] = members.only(d).features({n: t[[d]] for n, t in weights.items()}, images)
        for c in own.train.labels.unique().tolist():
            mean = z[own.train.labels == c].mean(0)
            torch.testing.assert_close(found["head.weight"][d, c], 2 * mean / 4)  # 16 features
            torch.testing.assert_close(found["head.bias"][d, c], -(mean @ mean) / 4)


def shot_means(shots, seed=0):
    """Means of one feature that tells the images apart: powers of 2, added."""
    points, labels = [[float(2**i)] for i in range(12)], [i % 2 for i in range(12)]
    model = linear(1)
    members = cohort(model, [given(points, labels)], seed=seed)
    found = Prototype(blend=1.0, shots=shots).adapt(members, repeat(initial(model), 1))
    sums = [round(found["head.weight"][0, c, 0].item() / 2 * (shots or 6)) for c in range(2)]
    return [{i for i in range(12) if (total >> i) & 1} for total in sums]


def test_so_many_images_of_each_class_are_drawn_by_the_seed():
    for shots in (1, 3, 5):
        even, odd = shot_means(shots)
        assert len(even) == len(odd) == shots
        assert all(i % 2 == 0 for i in even)
        assert all(i % 2 for i in odd)
    assert shot_means(3) == shot_means(3)
    assert len({tuple(sorted(shot_means(3, seed)[0])) for seed in range(8)}) > 1


def test_fewer_shots_are_some_of_those_of_more_and_enough_are_all():
    for few, many in ((1, 3), (3, 5)):
        for a, b in zip(shot_means(few), shot_means(many), strict=True):
            assert a < b
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    all_of_them = Prototype().adapt(members, weights)
    assert_close(Prototype(shots=25).adapt(members, weights), all_of_them)


def test_a_head_without_a_bias_is_refused_in_a_line():
    network = Network(nn.Flatten(), 16, CLASSES)
    network.head = nn.Linear(16, CLASSES, bias=False)
    members = cohort(network, SPLITS, scaling=as_they_are)
    with pytest.raises(InputError, match=r"^prototype: distances need a head with a bias"):
        Prototype().adapt(members, repeat(initial(network), 3))
