"""Everything that can be refused before data or a network are made is refused there."""

import importlib.util

import pytest
import tiny

from fedadapt.errors import InputError
from fedadapt.simulations import check as checking
from fedadapt.simulations.assembly import assemble


def test_what_works_is_not_refused():
    checking.check(tiny.config())
    checking.check(
        tiny.config(model="vgg11", image_size=32, adapt="none,adabn", batch_norm="local")
    )
    checking.check(tiny.config(strategy="fedadam", benchmark="digits-domains"))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"adapt": "tuning"}, "adapt"),
        ({"strategy": "fedadamm"}, "strategy"),
        ({"model": "cmm"}, "model"),
        ({"benchmark": "digits"}, "benchmark"),
        ({"benchmark": "mnist", "data_root": "/no/such"}, "data-root"),
        ({"weights": "gone.safetensors"}, "weights"),
    ],
)
def test_every_part_is_asked(changes, key):
    with pytest.raises(InputError, match=f"^{key}: "):
        checking.check(tiny.config(**changes))


@pytest.mark.parametrize("adaptation", ["adabn", "adabn-s"])
def test_an_adaptation_of_batch_norm_is_refused_where_there_is_none(adaptation):
    """Of our networks that is known; of anybody's factory once it has made one."""
    checking.check(tiny.config(model="vgg11", image_size=32, adapt=f"none,{adaptation}"))
    with pytest.raises(InputError) as refused:
        checking.check(tiny.config(model="mlp", adapt=f"none,{adaptation}"))
    line = f"adapt: {adaptation} needs a network with batch normalisation, 'mlp' has none; "
    assert str(refused.value).startswith(line)
    assert "vgg11" in str(refused.value)
    plain = tiny.config(model="third_party:without_norms", adapt=f"none,{adaptation}")
    checking.check(plain)
    with pytest.raises(InputError, match=f"adapt: {adaptation} needs a network with batch"):
        assemble(plain)
    assemble(tiny.config(model=tiny.NORM_MLP, adapt=f"none,{adaptation}"))


@pytest.mark.parametrize("module", checking.NEEDED)
def test_what_a_simulation_needs_and_a_client_does_not_is_named(monkeypatch, module):
    """An edge device installs neither; there ``fedadapt simulate`` says what is missing."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        checking.importlib.util, "find_spec", lambda name: None if name == module else found(name)
    )
    with pytest.raises(InputError, match=rf'{module}: not installed; .*"fedadapt\[simulation\]"'):
        checking.check(tiny.config())
