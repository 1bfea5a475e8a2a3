"""Importances against plain autograd: colour images, batch norm, any kind; and in any portions."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from importances import KINDS, SPLITS
from torch import nn
from toys import CLASSES, assert_close, cohort, conv, examples, initials, split

from fedadapt.client.statistics import importance as importance_module
from fedadapt.client.statistics.importance import importances
from fedadapt.models.network import Network
from fedadapt.weights import row


def colourful():
    """Convolutions of three channels, which a client alone computes channels last."""
    body = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 2, 3),
        nn.Flatten(),
    )
    return Network(body, 8, CLASSES)


SCORES = {
    "mas": lambda logits, labels: (logits**2).sum(1).mean(),
    "fisher": lambda logits, labels: F.cross_entropy(logits, labels),
}


def by_autograd(weights, images, kind, size):
    """What ``backward`` finds for portions of ``size`` images in evaluation mode, their mean."""
    model = colourful().double().eval()
    model.load_state_dict(weights)
    found = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    parts = range(0, len(images), size)
    for first in parts:
        x, y = images.inputs[first : first + size], images.labels[first : first + size]
        model.zero_grad()
        SCORES[kind](model(x), y).backward()
        for n, p in model.named_parameters():
            found[n] += p.grad.abs() ** (1 if kind == "mas" else 2) / len(parts)
    return found


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("granularity", ["sample", "batch"])
@pytest.mark.parametrize("kind", SCORES)
def test_it_is_what_autograd_finds_in_evaluation_mode(kind, granularity, stacked):
    """One batch of all images, or each by itself, in a network that was in training mode."""
    rgb = [split(3, adapt=n, seed=n, make=partial(examples, shape=(3, 4, 4))) for n in (9, 1)]
    weights, members = initials(colourful(), 2), cohort(colourful(), rgb, stacked=stacked)
    members.model.train()
    given = {"kind": kind, "granularity": granularity, "batch_size": 20}
    found = importances(members, weights, **given)
    assert {t.dtype for t in found.values()} == {torch.float64}
    for d, own in enumerate(rgb):
        size = 1 if granularity == "sample" else 20
        assert_close(row(found, d), by_autograd(row(weights, d), own.adapt, kind, size))


@pytest.mark.parametrize("kind", KINDS)
def test_of_one_image_sample_and_batch_are_the_same(kind):
    one = [split(3, adapt=1, make=partial(examples, shape=(3, 4, 4)))]
    weights, members = initials(colourful(), 1), cohort(colourful(), one)
    sample, batch = (
        importances(members, weights, kind=kind, granularity=g) for g in ("sample", "batch")
    )
    assert_close(batch, sample)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_how_many_images_are_computed_at_once_does_not_show(kind, at_once, monkeypatch):
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    whole = importances(members, weights, kind=kind)
    monkeypatch.setattr(importance_module, "IMAGES_AT_ONCE", at_once)
    assert_close(importances(members, weights, kind=kind, batch_size=7), whole)


def watched(sizes):
    """``conv()`` that writes down how many images it is given at a time."""
    model = conv()
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return model


def test_the_activations_held_at_a_time_fit_their_budget(monkeypatch):
    """Of an image of 16 numbers of 8 bytes; a last image alone joins the others."""
    sizes: list[int] = []
    monkeypatch.setattr(
        importance_module, "GRADIENT_BYTES", 10 * importance_module.ACTIVATIONS * 16 * 8
    )
    importances(cohort(watched(sizes), SPLITS[:1]), initials(conv(), 1))
    assert max(sizes) == 7 == sum(sizes)
    sizes.clear()
    importances(cohort(watched(sizes), SPLITS[1:2]), initials(conv(), 1))
    assert max(sizes) == 11
    assert sum(sizes) == 131


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("budget", [1, 8 * 200 * 3, 2**26])
def test_the_general_way_is_the_fast_one_in_any_portions(kind, budget, monkeypatch):
    """``vmap`` holds each image's gradient, so many at a time as fit the budget."""
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    fast = importances(members, weights, kind=kind)
    monkeypatch.setattr(importance_module, "layers_of", lambda *_: None)
    monkeypatch.setattr(importance_module, "GRADIENT_BYTES", budget)
    assert_close(importances(members, weights, kind=kind), fast)
