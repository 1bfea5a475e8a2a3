"""Importances in closed form: MAS, the empirical and the true Fisher."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toys import CLASSES, assert_close, cohort, conv, initials, linear, split

from fedadapt.client import importance, precisions
from fedadapt.client.precisions import importances
from fedadapt.datasets.benchmark import Examples, Split
from fedadapt.errors import InputError

IMAGES = torch.rand(13, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) - 0.5
LABELS = torch.arange(13) % 3


def net() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(16, 3, dtype=torch.float64)


def test_mas_of_a_linear_layer_is_twice_the_output_times_the_input():
    model = net()
    out = IMAGES @ model.weight.T + model.bias
    each = 2 * out[:, :, None] * IMAGES[:, None, :]
    found = importance(model, IMAGES)
    assert_close(found, {"weight": each.abs().mean(0), "bias": (2 * out).abs().mean(0)}, rtol=1e-10)


def test_mas_by_batch_lets_opposite_signs_cancel():
    model = net()
    out = IMAGES @ model.weight.T + model.bias
    each = 2 * out[:, :, None] * IMAGES[:, None, :]
    whole = importance(model, IMAGES, granularity="batch", batch_size=13)
    assert_close(whole, {"weight": each.mean(0).abs(), "bias": (2 * out).mean(0).abs()}, rtol=1e-10)
    apart = importance(model, IMAGES)
    assert (whole["weight"] < apart["weight"] - 1e-6).any()
    assert (whole["weight"] <= apart["weight"] + 1e-12).all()


def test_the_empirical_fisher_of_softmax_regression():
    model = net()
    p = F.softmax(IMAGES @ model.weight.T + model.bias, 1)
    gap = p - F.one_hot(LABELS, 3)
    wanted = {
        "weight": (gap[:, :, None] * IMAGES[:, None, :]).square().mean(0),
        "bias": gap.square().mean(0),
    }
    assert_close(importance(model, IMAGES, LABELS, kind="fisher"), wanted, rtol=1e-10)


def test_the_true_fisher_of_softmax_regression_is_its_expectation():
    model = net()
    p = F.softmax(IMAGES @ model.weight.T + model.bias, 1)
    # E_y (p_c - 1[y = c])^2 = p_c (1 - p_c)
    spread = p * (1 - p)
    wanted = {
        "weight": (spread[:, :, None] * IMAGES[:, None, :] ** 2).mean(0),
        "bias": spread.mean(0),
    }
    many = IMAGES.repeat(400, 1)
    generator = torch.Generator().manual_seed(5)
    found = importance(model, many, kind="fisher", generator=generator)
    for n, t in wanted.items():
        assert ((found[n] - t).abs() <= 0.05 * t.mean() + 0.08 * t).all()


def test_the_true_fisher_never_looks_at_labels():
    splits = [split(9, adapt=9, seed=1)]
    images = splits[0].adapt
    other = Examples(images.inputs, (images.labels + 1) % CLASSES)
    weights = initials(linear(16), 1)
    found, again = (
        importances(cohort(linear(16), [Split(e, e, e)]), weights, kind="true-fisher")
        for e in (images, other)
    )
    assert_close(found, again, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["mas", "fisher", "true-fisher"])
def test_the_head_is_left_out_by_layer_or_by_name(kind):
    splits = [split(6, adapt=8, seed=s) for s in (1, 2)]
    weights = initials(conv(), 2)
    by_layer, by_name = (
        importances(cohort(conv(), splits), weights, kind=kind, exclude=names)
        for names in (["head"], ["head.weight", "head.bias"])
    )
    assert_close(by_layer, by_name, rtol=0, atol=0)
    assert not any(n.startswith("head") for n in by_layer)
    assert all((t >= 0).all() for t in by_layer.values())
    with pytest.raises(InputError, match="has no 'heat'"):
        importances(cohort(conv(), splits), weights, exclude=["heat"])


def test_batch_norm_neither_moves_nor_takes_the_batchs_statistics():
    model = nn.Sequential(nn.Linear(16, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double().train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    whole = importance(model, IMAGES)
    parts = [importance(model, IMAGES[i : i + 1]) for i in range(len(IMAGES))]
    mean = {n: sum(part[n] for part in parts) / len(parts) for n in whole}
    assert_close(whole, mean, rtol=1e-9, atol=1e-12)  # in training mode images would mix
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert model.training


@pytest.mark.parametrize("kind", ["mas", "fisher"])
def test_neither_portions_nor_order_show(kind, monkeypatch):
    weights = initials(conv(), 1)
    images = split(6, adapt=11, seed=4).adapt
    turned = Examples(images.inputs.flip(0), images.labels.flip(0))
    wanted = importances(cohort(conv(), [Split(images, images, images)]), weights, kind=kind)
    monkeypatch.setattr(precisions, "IMAGES_AT_ONCE", 2)
    for some in (images, turned):
        found = importances(cohort(conv(), [Split(some, some, some)]), weights, kind=kind)
        assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_colour_images_of_a_device_alone():
    """Its convolutions work channels last, which cannot be copied image by image."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).double()
    images = torch.rand(5, 3, 6, 6, dtype=torch.float64)
    found = importance(model, images)
    assert found["0.weight"].shape == (4, 3, 3, 3)
    assert found["0.weight"].dtype == torch.float64


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "fischer"}, "importance: kind"),
        ({"granularity": "epoch"}, "importance: granularity"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"labels": LABELS[:2]}, "13 images and 2 labels"),
        ({"exclude": ["heat"]}, "has no 'heat'"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(changes, said):
    with pytest.raises(InputError, match=said) as caught:
        importance(net(), IMAGES, **changes)
    assert "\n" not in str(caught.value)
