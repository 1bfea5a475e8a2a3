"""Importances of images in a stack: those that autograd finds image by image."""

from dataclasses import replace
from functools import partial

import pytest
from importances import KINDS
from torch import nn
from toys import CLASSES, assert_close, assert_same_bits, cohort, copied, examples, initials, split

from fedadapt.client.stacking import image_stack
from fedadapt.client.stacking.image_stack import suits_images
from fedadapt.client.statistics import importance as importance_module
from fedadapt.client.statistics.importance import importances
from fedadapt.models.network import Network

SPLITS = [split(3, adapt=n, seed=n, make=partial(examples, shape=(3, 6, 6))) for n in (9, 4)]


def mobile() -> Network:
    """A first layer, 1x1 layers with and without bias and stride, channel by channel, two linear.

    Maps of 36, 9 and 1 pixels: at one place sums of products are products of sums.
    """
    body = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU6(),
        nn.Conv2d(4, 5, 1),
        nn.Conv2d(5, 5, 3, padding=1, groups=5),
        nn.BatchNorm2d(5),
        nn.ReLU6(),
        nn.Conv2d(5, 6, 1, stride=2, bias=False),
        nn.BatchNorm2d(6),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(6, 7, 1),
        nn.Flatten(),
        nn.Linear(7, 6),
        nn.ReLU(),
    )
    return Network(body, 6, CLASSES)


def plainly(clients, weights, **how):
    """By ``vmap`` of ``grad``, client by client."""
    return importances(replace(clients, network=None, stacked=False), weights, **how)


@pytest.mark.parametrize("execution", ["per-client", "stacked-kernels"])
@pytest.mark.parametrize(
    "exclude", [(), ("head",), ("body.3", "body.8")], ids=["all", "body", "few"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_they_are_those_of_each_image_by_itself(kind, exclude, execution, monkeypatch):
    clients, weights = cohort(mobile(), SPLITS, execution), initials(mobile(), 2)
    before = copied(weights)
    found = importances(clients, weights, kind=kind, exclude=exclude)
    assert_same_bits(weights, before)
    monkeypatch.setattr(importance_module, "layers_of", lambda *_: None)
    assert_close(found, plainly(clients, weights, kind=kind, exclude=exclude))


@pytest.mark.parametrize("block", [1, 2 * 5 * 4, 2**18])
def test_the_blocks_of_images_do_not_show(block, monkeypatch):
    clients, weights = cohort(mobile(), SPLITS, "stacked-kernels"), initials(mobile(), 2)
    whole = importances(clients, weights)
    monkeypatch.setattr(image_stack, "BLOCK", block)
    assert_close(importances(clients, weights), whole)


@pytest.mark.parametrize("at_once", [1, 3])
def test_how_many_images_are_in_a_stack_does_not_show(at_once, monkeypatch):
    clients, weights = cohort(mobile(), SPLITS, "stacked-kernels"), initials(mobile(), 2)
    whole = importances(clients, weights)
    monkeypatch.setattr(importance_module, "IMAGES_IN_STACK", at_once)
    assert_close(importances(clients, weights), whole)


def test_it_is_what_is_used(monkeypatch):
    calls = []
    monkeypatch.setattr(
        importance_module, "_of_image_stack", lambda *given: calls.append(given) or ({}, 1)
    )
    importances(cohort(mobile(), SPLITS, "stacked-kernels"), initials(mobile(), 2))
    assert calls
    calls.clear()
    importances(cohort(mobile(), SPLITS), initials(mobile(), 2))
    assert not calls


def test_large_filters_are_left_to_the_layers_own_rules():
    assert suits_images(mobile())
    assert suits_images(nn.Conv2d(64, 64, 3, groups=64))
    assert suits_images(nn.Conv2d(512, 512, 1))
    assert not suits_images(nn.Conv2d(32, 32, 3))
    assert not suits_images(nn.Sequential(nn.ReLU(), nn.Conv2d(64, 64, 1, groups=2, padding=1)))


class Shared(nn.Module):
    """A layer that is called twice: an image's gradient by it is the sum of both calls'."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 3, 1), nn.Linear(3, CLASSES)

    def forward(self, x):
        return self.head(self.conv(self.conv(x)).mean((2, 3)))


def test_a_layer_that_is_called_twice_is_measured_as_one():
    clients, weights = cohort(Shared(), SPLITS, "stacked-kernels"), initials(Shared(), 2)
    assert_close(importances(clients, weights), plainly(clients, weights))
