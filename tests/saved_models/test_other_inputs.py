"""Saved networks for time series and tokens: loaded, exported, and refused what is for images."""

import pytest
import torch

from fedadapt.errors import InputError
from fedadapt.models.build import make_network
from fedadapt.saved_models.card import Card
from fedadapt.saved_models.export import export
from fedadapt.saved_models.files import encode
from fedadapt.saved_models.load import load_with_card

CARDS = {
    "har-cnn": Card(network="har-cnn", image_shape=(2, 16), classes=("a", "b"), mean=(1.0, -2.0),
                    std=(0.5, 2.0), reading="middle-bilinear", unit=1.0),
    "char-gru": Card(network="char-gru", image_shape=(6,), classes=("a", "b"), mean=(), std=(),
                     reading="middle-bilinear", unit=1.0, vocabulary=9),
}  # fmt: skip


@pytest.mark.parametrize("name", CARDS)
def test_a_card_says_all_that_a_network_needs(tmp_path, name):
    card = CARDS[name]
    network = make_network(name, card.image_shape, 2, card.vocabulary, seed=3).eval()
    (tmp_path / "m.safetensors").write_bytes(encode(network.state_dict(), card))
    again, read = load_with_card(tmp_path / "m.safetensors")
    assert (read.scaling, read.vocabulary, read.image_shape) == (
        card.scaling,
        card.vocabulary,
        card.image_shape,
    )
    inputs = torch.randint(9, (3, *card.image_shape))
    inputs = inputs if card.vocabulary else inputs.float()
    with torch.no_grad():
        assert torch.equal(again(read.scaling(inputs)), network(card.scaling(inputs)))
    with pytest.raises(InputError, match=f"images: the network '{name}' takes"):
        read.images(["photo.png"])
    assert "scaling(inputs)" in read.loading()[-1]


def test_a_network_for_time_series_is_exported_with_its_normalisation(tmp_path):
    card = CARDS["har-cnn"]
    network = make_network("har-cnn", card.image_shape, 2).eval()
    export(network, card, "torch-export", tmp_path / "m.pt2")
    program = torch.export.load(tmp_path / "m.pt2").module()
    series = torch.randn(4, 2, 16)
    with torch.no_grad():
        torch.testing.assert_close(program(series), network(card.scaling(series)))
