"""Selectors go by type and identity; names only mislead."""

import pytest
import torch
from torch import nn

from fedadapt.config import RunConfig
from fedadapt.models.build import build_model
from fedadapt.models.registry import ENTRIES, IMAGES, TOKENS
from fedadapt.selectors import (
    all_but,
    everything,
    head,
    head_of,
    norm_affine,
    norm_statistics,
    norms,
)


class Misleading(nn.Module):
    """``bn`` and ``header`` are plain layers; the norm is called ``linear``."""

    def __init__(self) -> None:
        super().__init__()
        self.header = nn.Linear(4, 4)
        self.bn = nn.Linear(4, 4)
        self.linear = nn.BatchNorm1d(4)
        self.plain = nn.BatchNorm1d(4, affine=False)
        self.bare = nn.BatchNorm1d(4, track_running_stats=False)
        self.out = nn.Linear(4, 2)


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def test_norms_are_found_by_type_not_by_name():
    model = Misleading()
    affine = {f"{layer}.{t}" for layer in ("linear", "bare") for t in ("weight", "bias")}
    statistics = {f"{layer}.{t}" for layer in ("linear", "plain") for t in STATISTICS}
    assert norm_affine(model) == affine
    assert norm_statistics(model) == statistics
    assert norms(model) == affine | statistics


def test_without_a_head_the_last_linear_layer_is_it():
    model = Misleading()
    assert head_of(model) is model.out
    assert head(model) == {"out.weight", "out.bias"}


def test_a_layer_called_head_is_the_head_with_all_below_it():
    model = Misleading()
    model.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model.last = nn.Linear(2, 2)
    assert head(model) == {f"head.{i}.{t}" for i in (0, 2) for t in ("weight", "bias")}


def test_a_head_that_is_something_else_does_not_count():
    model = Misleading()
    model.head = 3
    assert head_of(model) is model.out


def test_a_head_under_two_names_is_selected_under_both():
    model = nn.Module()
    model.trunk = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model.head = model.trunk[1]
    names = {f"{path}.{t}" for path in ("trunk.1", "head") for t in ("weight", "bias")}
    assert head(model) == names
    assert names <= everything(model)


def test_a_norm_under_two_names_is_selected_under_both():
    layer = nn.BatchNorm1d(2)
    assert norm_affine(nn.ModuleDict({"a": layer, "b": layer})) == {
        "a.weight",
        "a.bias",
        "b.weight",
        "b.bias",
    }


def test_a_model_may_be_one_layer():
    assert head(nn.Linear(2, 2)) == {"weight", "bias"}
    assert norms(nn.BatchNorm1d(2)) == everything(nn.BatchNorm1d(2))


def test_a_model_without_any_head_is_an_error():
    with pytest.raises(ValueError, match="name its classifier 'head'"):
        head(nn.Conv2d(1, 1, 1))


def test_buffers_that_are_not_saved_are_not_selected():
    model = nn.BatchNorm1d(2)
    model.register_buffer("scratch", torch.zeros(1), persistent=False)
    assert norm_statistics(model) == set(STATISTICS)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_head_and_body_share_every_network_between_them(entry):
    shape = (3, 64, 64) if IMAGES in entry.takes else entry.usual_shape
    vocabulary = 7 if TOKENS in entry.takes else 0
    with torch.device("meta"):
        model = build_model(RunConfig(model=entry.name), shape, 5, vocabulary)
    assert head(model) == {"head.weight", "head.bias"}
    assert all_but(head)(model) | head(model) == everything(model)
    assert not all_but(head)(model) & head(model)
    assert all(n.startswith("body.") for n in all_but(head)(model))
    assert norm_affine(model) <= {n for n, _ in model.named_parameters()}
    assert norm_statistics(model) <= {n for n, _ in model.named_buffers()}
    assert norms(model) <= all_but(head)(model)
