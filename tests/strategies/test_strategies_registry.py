"""Strategies by name: ours, Flower's, those of installed packages, anybody's class."""

import flwr.serverapp.strategy
import pytest
import tiny

from fedadapt.errors import InputError
from fedadapt.parameters import parameters
from fedadapt.strategies.base import SETTINGS, Strategy
from fedadapt.strategies.listing import arguments, listing, summary
from fedadapt.strategies.registry import STRATEGIES, find, is_flowers, select
from fedadapt.strategies.selected import settings_of

OURS = [name for name in STRATEGIES.ours if not is_flowers(find(name))]
FLOWERS = [name for name in STRATEGIES.ours if name not in OURS]


def test_names_are_lower_case_words():
    assert all(name == name.lower() and name.isascii() for name in STRATEGIES.names())


@pytest.mark.parametrize("name", OURS)
def test_a_name_is_a_class_of_our_interface_that_says_what_it_is(name):
    cls = find(name)
    assert issubclass(cls, Strategy)
    assert not getattr(cls, "__abstractmethods__", None), "a registered class is final"
    assert len(summary(cls).split()) > 4
    assert all(described.param.help for described in parameters(cls).values())


@pytest.mark.parametrize("name", FLOWERS)
def test_a_name_of_flowers_is_a_class_of_flowers(name):
    cls = find(name)
    assert issubclass(cls, flwr.serverapp.strategy.Strategy)
    assert summary(cls)


def test_no_class_has_two_names():
    assert len({STRATEGIES.path(name) for name in STRATEGIES.ours}) == len(STRATEGIES.ours)


@pytest.mark.parametrize("name", OURS)
def test_what_a_strategy_takes_from_the_run_is_there(name):
    assert settings_of(find(name)) <= frozenset().union(*SETTINGS.values()) | {
        "fraction", "max-update-norm", "max-update-factor", "server-share",
    }  # fmt: skip


def test_a_strategy_uses_the_settings_its_fields_are_made_from():
    training = {
        "lr", "momentum", "weight-decay", "batch-size", "local-epochs",
        "optimizer", "lr-schedule", "augmentation",
    }  # fmt: skip
    sampling = {"fraction", "max-update-norm", "max-update-factor"}
    assert settings_of(find("fedavg")) == training | sampling | {"batch-norm"}
    assert settings_of(find("fedbn")) == training | sampling
    assert settings_of(find("mas-racl")) == set()
    assert select(tiny.config(strategy="fedadam")).settings == training | sampling


def test_arguments_are_those_of_the_class():
    assert arguments(find("fedprox")) == ("mu",)
    assert arguments(find("fedavg")) == ()
    assert {"eta", "beta_1", "tau"} <= set(arguments(find("fedadam")))
    assert "upload" in arguments(find("mas-racl"))
    assert "upload" not in arguments(find("mas-imm"))


def test_the_listing_names_every_strategy_and_shows_one_with_its_arguments():
    assert listing().names == [*STRATEGIES.names(), "module:Class"]
    assert "mu" in str([cell for column in listing("fedprox").renderables[3].columns
                        for cell in column.cells])  # fmt: skip
    with pytest.raises(InputError, match="did you mean 'fedprox'"):
        listing("fedpro")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"strategy": "fedagv"}, "strategy: unknown 'fedagv'; did you mean 'fedavg'?"),
        ({"strategy": "no where:X"}, "strategy: 'no where:X' is not of the form module:Class"),
        ({"strategy": ":X"}, "strategy: ':X' is not of the form module:Class"),
        ({"strategy": "math:"}, "strategy: 'math:' is not of the form module:Class"),
        ({"strategy": "math:pi"}, "strategy: math:pi is a subclass neither of fedadapt's"),
        ({"strategy": "math:tau_"}, "strategy: math:tau_: cannot import math:tau_: Attribute"),
        ({"strategy": "nowhere.at.all:X"}, "strategy: there is no module 'nowhere.at.all'"),
        (
            {"strategy_args": "nu=1"},
            "strategy-args: fedprox has no argument 'nu'; it has: mu",
        ),
        ({"strategy_args": "mu=-1"}, "strategy-args: mu: -1.0 is out of range; it must be >= 0"),
        ({"strategy_args": "mu=nan"}, "strategy-args: mu: nan is not a finite number"),
        ({"strategy_args": "mu=inf"}, "strategy-args: mu: inf is not a finite number"),
        ({"strategy_args": "mu=true"}, "strategy-args: mu: expected float, got bool True"),
        ({"strategy_args": "mu=much"}, "strategy-args: mu: expected float, got str 'much'"),
        ({"strategy_args": "mu=1 mu=2"}, "strategy-args: 'mu' is given twice"),
    ],
)
def test_what_cannot_work_is_one_line(changes, line):
    with pytest.raises(InputError) as refused:
        select(tiny.config(**{"strategy": "fedprox", **changes}))
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


def test_a_module_on_the_path_is_enough():
    selected = select(tiny.config(strategy="third_party:Halfway", strategy_args="share=0.5"))
    assert selected.construct().share == 0.5
