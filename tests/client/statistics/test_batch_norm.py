"""Batch-norm statistics measured on a client, against those of its images taken all at once."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call
from toys import (
    CLASSES,
    SHAPE,
    assert_close,
    assert_same_bits,
    cohort,
    conv,
    copied,
    dense,
    examples,
    initial,
    initials,
    plain,
    split,
)

import fedadapt.client
from fedadapt.client.cohort import Schedule
from fedadapt.client.statistics.batch_norm import batch_norm_statistics
from fedadapt.models.network import Network
from fedadapt.selectors import norm_statistics
from fedadapt.weights import repeat, row

SPLITS = [split(9, adapt=6, seed=d) for d in range(3)]


def entering_first_norm(make, weights, inputs):
    """[images or pixels, channels] of what the first batch-norm layer gets."""
    if make is dense:
        return inputs.flatten(1) @ weights["body.1.weight"].T + weights["body.1.bias"]
    convolved = torch.nn.functional.conv2d(inputs, weights["body.0.weight"], padding=1)
    return convolved.transpose(0, 1).flatten(1).T


FIRST = {dense: "body.2", conv: "body.1"}


@pytest.mark.parametrize("part", ["train", "adapt"])
@pytest.mark.parametrize("batch_size", [2, 3, 4, 5, 8, 100])
@pytest.mark.parametrize("make", FIRST)
def test_the_first_layers_are_those_of_all_images_whatever_the_batch_size(make, batch_size, part):
    weights = initials(make(), 3)
    found = batch_norm_statistics(cohort(make(), SPLITS), weights, Schedule(batch_size, 1, part))
    for d in range(3):
        images = getattr(SPLITS[d], part).inputs
        x = entering_first_norm(make, row(weights, d), images)
        torch.testing.assert_close(found[f"{FIRST[make]}.running_mean"][d], x.mean(0))
        variance = x.var(0, unbiased=False)
        torch.testing.assert_close(found[f"{FIRST[make]}.running_var"][d], variance)


def test_deeper_layers_are_those_of_torchs_own_pass_in_training_mode():
    start = initial(conv())
    found = batch_norm_statistics(cohort(conv(), SPLITS[:1]), repeat(start, 1), Schedule(100))
    model = conv().double().train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    after = copied(start)
    functional_call(model, after, (SPLITS[0].train.inputs,))
    pixels = {"body.1": 9 * 16, "body.4": 9 * 4}
    for layer, count in pixels.items():
        torch.testing.assert_close(
            found[f"{layer}.running_mean"][0], after[f"{layer}.running_mean"]
        )
        biased = after[f"{layer}.running_var"] * (count - 1) / count
        torch.testing.assert_close(found[f"{layer}.running_var"][0], biased)


@pytest.mark.parametrize("make", FIRST)
def test_stacked_is_one_by_one(make):
    uneven = [split(count, seed=count) for count in (5, 12, 9)]
    alone, *together = (
        batch_norm_statistics(cohort(make(), uneven, execution), initials(make(), 3), Schedule(4))
        for execution in ("sequential", "per-client", "stacked-kernels", "vmap")
    )
    for found in together:
        assert_close(found, alone)


@pytest.mark.parametrize("execution", ["sequential", "per-client", "stacked-kernels", "vmap"])
def test_nothing_is_left_behind(execution):
    weights = initials(conv(), 3)
    before = copied(weights)
    members = cohort(conv(), SPLITS, execution)
    members.model.train()
    found = batch_norm_statistics(members, weights, Schedule(4))
    assert_same_bits(weights, before)
    assert all(m.training and not m._forward_pre_hooks for m in members.model.modules())
    counters = {n for n in norm_statistics(conv()) if n.endswith("num_batches_tracked")}
    assert found.keys() == norm_statistics(conv()) - counters


def test_dropout_is_off_meanwhile():
    def make(p):
        body = nn.Sequential(nn.Flatten(), nn.Dropout(p), nn.Linear(16, 5), nn.BatchNorm1d(5))
        return Network(body, 5, CLASSES)

    weights = initials(make(0), 3)
    with_it, without = (
        batch_norm_statistics(cohort(make(p), SPLITS), weights, Schedule(4)) for p in (0.9, 0.0)
    )
    assert_same_bits(with_it, without)


@pytest.mark.parametrize("execution", ["sequential", "per-client", "stacked-kernels", "vmap"])
def test_layers_without_statistics_are_passed_over(execution):
    def make():
        body = nn.Sequential(
            nn.Flatten(), nn.BatchNorm1d(16, track_running_stats=False), nn.BatchNorm1d(16)
        )
        return Network(body, 16, CLASSES)

    def found(make):
        members = cohort(make(), SPLITS, execution)
        return batch_norm_statistics(members, initials(make(), 3), Schedule(4))

    assert set(found(make)) == {"body.2.running_mean", "body.2.running_var"}
    assert found(plain) == {}


def test_a_variance_far_from_zero_mean_survives():
    far = [s._replace(train=type(s.train)(s.train.inputs + 1e4, s.train.labels)) for s in SPLITS]
    weights = initials(dense(), 3)
    near_, far_ = (
        batch_norm_statistics(cohort(dense(), some), weights, Schedule(4))["body.2.running_var"]
        for some in (SPLITS, far)
    )
    torch.testing.assert_close(far_, near_, rtol=1e-5, atol=0)


def in_float32(count, seed):
    """As ``examples``, in float32."""
    made = examples(count, seed)
    return replace(made, inputs=made.inputs.float())


FLOATS = [split(count, seed=count, make=in_float32) for count in (700, 997)]
MANY = [split(count, seed=count) for count in (37, 301)]  # 592 and 4,816 values a channel


def test_the_sums_of_many_values_are_those_of_all_of_them():
    """Of runs of them, and of what is left over."""
    weights = initials(conv(), 2)
    found = batch_norm_statistics(cohort(conv(), MANY, "stacked-kernels"), weights, Schedule(1000))
    for d, own in enumerate(MANY):
        x = entering_first_norm(conv, row(weights, d), own.train.inputs)
        wanted = {"running_mean": x.mean(0), "running_var": x.var(0, unbiased=False)}
        assert_close({n: found[f"body.1.{n}"][d] for n in wanted}, wanted)


@pytest.mark.parametrize("far", [0.0, 30.0])
def test_in_float32_they_are_as_good_as_float32(far):
    """Variances too, where the mean is large: sums of squares would lose them."""
    clients = cohort(dense(), FLOATS, "stacked-kernels")
    weights = {
        n: t.float() if t.is_floating_point() else t for n, t in initials(dense(), 2).items()
    }
    weights["body.1.bias"] += far
    found = batch_norm_statistics(clients, weights, Schedule(1000))
    for d, own in enumerate(FLOATS):
        exact = {n: t.double() for n, t in row(weights, d).items()}
        x = entering_first_norm(dense, exact, own.train.inputs.double())
        mean, variance = x.mean(0), x.var(0, unbiased=False)
        torch.testing.assert_close(
            found["body.2.running_mean"][d].double(), mean, rtol=1e-6, atol=1e-6
        )
        torch.testing.assert_close(
            found["body.2.running_var"][d].double(), variance, rtol=1e-5, atol=0
        )


class Twice(nn.Module):
    """One batch-norm layer over 16 pixels of an image, then over the mean of each row of them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, CLASSES)

    def forward(self, images):
        x = self.conv(images)
        small = self.norm(x.mean(3, keepdim=True))
        return self.head((self.norm(x) + small).mean((2, 3)))


@pytest.mark.parametrize("batch_size", [4, 100])
@pytest.mark.parametrize("execution", ["sequential", "per-client", "stacked-kernels", "vmap"])
def test_the_statistics_of_a_layer_that_is_called_twice_are_of_the_values_of_both_calls(
    execution, batch_size
):
    """Twenty values an image and channel: 16 pixels and 4 means of rows."""
    weights = initials(Twice(), 3)
    found = batch_norm_statistics(cohort(Twice(), SPLITS, execution), weights, Schedule(batch_size))
    for d in range(3):
        own = row(weights, d)
        x = torch.nn.functional.conv2d(
            SPLITS[d].train.inputs, own["conv.weight"], own["conv.bias"], padding=1
        )
        values = torch.cat([x.flatten(2), x.mean(3)], 2).transpose(0, 1).flatten(1)
        assert values.shape == (3, 9 * 20)
        torch.testing.assert_close(found["norm.running_mean"][d], values.mean(1))
        torch.testing.assert_close(found["norm.running_var"][d], values.var(1, unbiased=False))


def test_adabn_gives_a_layer_that_is_called_twice_the_statistics_of_both_calls():
    model, images = Twice(), torch.rand(8, *SHAPE)
    adapted = fedadapt.client.adapt(model, images, method="adabn")
    x = model.conv(images)
    values = torch.cat([x.flatten(2), x.mean(3)], 2)
    torch.testing.assert_close(adapted.norm.running_mean, values.mean((0, 2)).detach())
