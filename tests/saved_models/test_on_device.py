"""The models in a client's state folder: those of the newest run, of the one client there is."""

import os

import pytest
import torch

from fedadapt.errors import InputError
from fedadapt.saved_models.card import Card
from fedadapt.saved_models.files import find, write


def card(client: int, adaptation: str = "none") -> Card:
    return Card(
        network="mlp", image_shape=(1, 8, 8), classes=("a", "b"), mean=(0.5,), std=(0.5,),
        reading="middle-bicubic", client=client, adaptation=adaptation,
    )  # fmt: skip


def keep(state, run: str, client: int, whose: str, when: int, adaptation: str = "none"):
    folder = state / f"experiment-{run}" / f"client-{whose}"
    made = card(client, adaptation)
    write(folder, {"w": torch.ones(1)}, made)
    [path] = (folder / "models").rglob(f"*{adaptation if adaptation != 'none' else 'base'}/*.saf*")
    os.utime(path, (when, when))
    return path


def test_the_newest_run_is_meant_whatever_its_number_for_the_client(tmp_path):
    keep(tmp_path, "zz", 3, "key", when=100)
    new = keep(tmp_path, "aa", 12, "key", when=200)
    tuned = keep(tmp_path, "aa", 12, "key", when=200, adaptation="fine-tune")
    assert find(tmp_path) == new
    assert find(tmp_path, adaptation="fine-tune") == tuned


def test_of_several_clients_one_must_be_named(tmp_path):
    first = keep(tmp_path, "run", 0, "0", when=100)
    keep(tmp_path, "run", 1, "1", when=200)
    assert find(tmp_path, client=0) == first
    with pytest.raises(InputError, match="2 clients keep their models there; say whose"):
        find(tmp_path)
    with pytest.raises(InputError, match="no models are saved there"):
        find(tmp_path, client=7)
