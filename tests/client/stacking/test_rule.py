"""Which networks are stacked, how many clients at a time, and that it is always the same answer."""

import pytest
import torch
from torch import nn

from fedadapt.client.stacking import plan
from fedadapt.models.build import make_network
from fedadapt.models.norms import batch_norms


def made(name, shape=(3, 32, 32)):
    with torch.device("meta"):
        return make_network(name, shape, 10)


@pytest.mark.parametrize("name", ["mlp", "lenet", "mobilenetv2-0.25", "squeezenet1_1", "resnet18"])
def test_where_calling_operators_costs_most_clients_are_stacked(name):
    found = plan(made(name), (3, 32, 32), 20)
    assert found.execution == "stacked-kernels"
    least = {"resnet18": 2, "lenet": 8}  # the weights fill the memory; convolutions the cache
    assert found.cohort_size >= least.get(name, 10)


def test_a_dense_network_is_stacked_while_its_steps_are_small():
    found = [plan(made("cnn", (1, side, side)), (1, side, side), 20) for side in (28, 64)]
    assert [f.execution for f in found] == ["stacked-kernels", "per-client"]
    assert 1 < found[0].cohort_size < 10


def test_the_weights_of_a_stack_are_bounded_but_for_a_few_clients():
    """So is what many clients send at a time, however many there are."""
    sizes = []
    for hidden in (100, 3000, 6000):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
        sizes.append(plan(model, (1, 8, 8), 20).cohort_size)
    weights = 4 * (64 * 3000 + 3000 + 3000 * 10 + 10)
    assert sizes == [50, 2**24 // weights, 10]


def test_large_convolutions_are_computed_one_client_at_a_time_except_on_a_gpu():
    found = plan(made("vgg11"), (3, 32, 32), 20)
    assert (found.execution, found.cohort_size) == ("per-client", 1)
    assert "% of the arithmetic is in convolutions too large for a stack" in found.reason
    on_gpu = plan(made("vgg11"), (3, 32, 32), 20, torch.device("cuda"))
    assert on_gpu.execution == "stacked-kernels"
    assert on_gpu.cohort_size > 1


def test_what_counts_as_dense_grows_with_the_step():
    kinds = [plan(made("squeezenet1_1"), (3, side, side), 20).execution for side in (32, 224)]
    assert kinds == ["stacked-kernels", "per-client"]


def test_larger_images_and_batches_make_smaller_stacks_until_none_is_left():
    sizes = [
        plan(made("mobilenetv2-0.25"), (3, side, side), batch).cohort_size
        for side, batch in [(32, 20), (64, 20), (224, 100)]
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
    assert sizes[-1] == 1


class Odd(nn.Module):
    """A function without a kernel."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x.flatten(1)).cumsum(1)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 3)

    def forward(self, x):
        y = self.layer(x.flatten(1))
        return y if y.sum() > 0 else -y


class Convolving(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.layer(x).flatten(1).cumsum(1)


@pytest.mark.parametrize(
    ("model", "execution"),
    [
        (Odd(nn.Linear(12, 3)), "vmap"),
        (Odd(nn.Linear(12, 3), nn.Dropout(0.1)), "sequential"),
        (Odd(nn.Linear(12, 3), nn.BatchNorm1d(3)), "vmap"),
        (Branching(), "sequential"),
        (Convolving(), "sequential"),
    ],
)
def test_without_kernels_vmap_is_taken_where_it_can_be_and_pays(model, execution):
    assert plan(model, (3, 2, 2), 4).execution == execution


def test_dropout_is_stacked_by_kernels():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Dropout(0.5))
    assert plan(model, (3, 2, 2), 4).execution == "stacked-kernels"


def test_the_rule_plans_a_network_that_does_not_fit_the_images_without_an_error():
    assert plan(nn.Linear(5, 3), (3, 2, 2), 4).execution == "sequential"


def test_planning_leaves_the_network_alone():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Flatten()).eval()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    first = plan(model, (3, 2, 2), 4)
    assert plan(model, (3, 2, 2), 4) == first
    assert not any(m.training for m in model.modules())
    assert not any(layer._forward_hooks for layer in model.modules())
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert len(batch_norms(model)) == 1
