"""Networks without tensors of their own, but for what no ``state_dict`` holds."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

import fedadapt.client
from fedadapt.models.meta import on_meta


class Shifted(nn.Module):
    """Images minus a fixed mean that is not saved: as preprocessing often is."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.full((1, 2, 1, 1), 0.5), persistent=False)
        self.register_buffer("nothing", None, persistent=False)
        self.conv, self.norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)
        self.head = nn.Linear(12, 2)

    def forward(self, x):
        return self.head(self.norm(self.conv(x - self.mean)).relu().flatten(1))


@pytest.fixture
def images():
    return torch.rand(9, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def test_a_model_on_meta_computes_with_given_weights_and_keeps_unsaved_buffers(images):
    model = Shifted()
    empty = on_meta(model.eval())
    assert {n for n, t in empty.named_buffers() if not t.is_meta} == {"mean"}
    assert all(p.is_meta for p in empty.parameters())
    weights = {n: t.detach() for n, t in model.state_dict().items()}
    assert torch.equal(functional_call(empty, weights, (images,)), model(images))
    weights.pop("head.bias")
    with pytest.raises(RuntimeError, match="meta"):
        functional_call(empty, weights, (images,)).sum().item()


def test_the_model_stays_as_it_was_and_shares_nothing(images):
    model = Shifted()
    on_meta(model).mean.zero_()
    assert model.mean.eq(0.5).all()
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))


def test_such_a_network_has_importances_and_can_be_adapted(images):
    model = Shifted()
    found = fedadapt.client.importance(model, images, exclude=["head"])
    assert found.keys() == {"conv.weight", "conv.bias", "norm.weight", "norm.bias"}
    shifted = Shifted()
    shifted.load_state_dict(model.state_dict())
    shifted.mean.zero_()  # the buffer counts: without it images are others
    other = fedadapt.client.importance(shifted, images, exclude=["head"])
    assert not torch.isclose(found["conv.weight"], other["conv.weight"]).all()
    adapted = fedadapt.client.adapt(model, images, method="adabn")
    assert not torch.isclose(adapted.norm.running_mean, model.norm.running_mean).any()
