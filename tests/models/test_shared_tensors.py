"""Networks in which a tensor, or a layer, occurs more than once."""

import pytest
import torch
import toys
from torch import nn

import fedadapt.client
from fedadapt.client.cohort import Schedule
from fedadapt.client.fit import Sgd, fit
from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.models.build import build_model
from fedadapt.models.meta import on_meta
from fedadapt.models.shared_tensors import refuse_shared_tensors
from fedadapt.weights import repeat, row


class Blocks(nn.Module):
    """Two hidden layers of equal size between the images and the head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 5), nn.Linear(5, 5), nn.Linear(5, 5)
        self.relu = nn.ReLU()
        self.head = nn.Linear(5, toys.CLASSES)

    def forward(self, images):
        x = self.relu(self.a(images.flatten(1)))
        return self.head(self.relu(self.c(self.relu(self.b(x)))))


def tied(num_classes=toys.CLASSES):
    model = Blocks()
    model.c.weight = model.b.weight
    return model


def same_memory(num_classes=toys.CLASSES):
    model = Blocks()
    model.c.weight = nn.Parameter(model.b.weight.data)
    return model


def registered_twice(num_classes=toys.CLASSES):
    model = Blocks()
    model.c = model.b
    return model


def shared_buffer(num_classes=toys.CLASSES):
    model = nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(16), nn.BatchNorm1d(16), nn.Linear(16, num_classes)
    )
    model[2].running_mean = model[1].running_mean
    return model


SHARED = {
    tied: ("b.weight", "c.weight"),
    same_memory: ("b.weight", "c.weight"),
    registered_twice: ("b.weight", "c.weight"),
    shared_buffer: ("1.running_mean", "2.running_mean"),
}


@pytest.mark.parametrize("make", SHARED)
def test_one_tensor_with_two_names_is_refused_by_both_names(make):
    first, second = SHARED[make]
    with pytest.raises(InputError, match=f"'{first}' and '{second}' are one tensor") as error:
        refuse_shared_tensors(make())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", SHARED)
def test_the_run_is_refused_when_its_network_is_built(make, monkeypatch):
    monkeypatch.setattr(toys, "shared", make, raising=False)
    with pytest.raises(InputError, match="are one tensor"):
        build_model(RunConfig(model="toys:shared"), toys.SHAPE, toys.CLASSES)


def test_the_library_refuses_it_too():
    images = torch.randn(6, *toys.SHAPE)
    for call in (on_meta, lambda m: fedadapt.client.importance(m, images)):
        with pytest.raises(InputError, match="are one tensor"):
            call(tied())


def reused():
    """Layers that are registered once and called twice, and a ReLU that is registered twice."""
    relu = nn.ReLU()

    class Twice(Blocks):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.relu, self.again = nn.Identity(), relu, relu

        def forward(self, images):
            x = self.relu(self.a(images.flatten(1)))
            return self.head(self.again(self.b(self.relu(self.b(x)))))

    return Twice()


@pytest.mark.parametrize("execution", ["sequential", "per-client", "stacked-kernels", "vmap"])
def test_a_layer_that_is_called_twice_trains_as_in_plain_torch(execution, monkeypatch):
    monkeypatch.setattr(toys, "reused", lambda num_classes: reused(), raising=False)
    build_model(RunConfig(model="toys:reused"), toys.SHAPE, toys.CLASSES)
    model = reused().double()
    start = toys.initial(model)
    model.load_state_dict(start)
    splits = [toys.split(12, seed=d) for d in range(2)]
    cohort = toys.cohort(on_meta(model), splits, execution)
    found = fit(cohort, repeat(start, 2), Sgd(0.1), Schedule(100)).weights
    for d, split in enumerate(splits):
        model.load_state_dict(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        nn.functional.cross_entropy(model(split.train.inputs), split.train.labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        toys.assert_close(row(found, d), model.state_dict())
