"""Strategies by name, before anything is loaded."""

import flwr.serverapp.strategy
import pytest
import tiny

from fedadapt.errors import InputError
from fedadapt.flower.flower_as_ours import _parameters
from fedadapt.strategies.catalog import FLOWER, OWN, STRATEGIES, check, is_own


def test_names_are_unique_and_lower_case():
    assert len(STRATEGIES) == len(OWN) + len(FLOWER)
    assert all(name == name.lower() and name.isascii() for name in STRATEGIES)


def test_every_entry_is_described_and_has_its_paper():
    assert all(e.description and e.paper for e in STRATEGIES.values())


@pytest.mark.parametrize("entry", FLOWER, ids=lambda e: e.name)
def test_what_is_said_of_flower_s_is_true_of_flower_s(entry):
    """The class is there, a strategy, and takes the arguments the list shows."""
    kind = getattr(flwr.serverapp.strategy, entry.flower_class)
    assert issubclass(kind, flwr.serverapp.strategy.Strategy)
    accepted = _parameters(kind)
    assert accepted is None or set(entry.arguments) <= set(accepted)


def test_the_strategies_that_were_promised_are_there():
    promised = {
        "fedavg",
        "fedprox",
        "fedadam",
        "fedyogi",
        "fedadagrad",
        "fedavgm",
        "fedmedian",
        "krum",
    }
    assert promised <= set(STRATEGIES)


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_name_is_accepted_as_it_is(name):
    check(tiny.config(strategy=name))


def test_own_are_own():
    assert is_own("fedavg")
    assert not is_own("fedadam")
    assert not is_own("module:Class")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"strategy": "fedagv"}, "strategy: unknown 'fedagv'; did you mean 'fedavg'?"),
        ({"strategy": "no where:X"}, "strategy: 'no where:X' is not of the form module:Class"),
        ({"strategy": ":X"}, "strategy: ':X' is not of the form module:Class"),
        ({"strategy": "math:"}, "strategy: 'math:' is not of the form module:Class"),
        ({"strategy": "nowhere.at.all:X"}, "strategy: there is no module 'nowhere.at.all'"),
        ({"strategy_args": "nu=1"}, "strategy-args: fedavg: unknown 'nu'"),
        ({"strategy_args": "mu=-1"}, "strategy-args: mu: -1; it must be a number >= 0"),
        ({"strategy_args": "mu=nan"}, "strategy-args: mu: nan; it must be a number >= 0"),
        ({"strategy_args": "mu=inf"}, "strategy-args: mu: inf; it must be a number >= 0"),
        ({"strategy_args": "mu=true"}, "strategy-args: mu: True; it must be a number >= 0"),
        ({"strategy_args": "mu=much"}, "strategy-args: mu: 'much'; it must be a number >= 0"),
        ({"strategy_args": "mu=1 mu=2"}, "strategy-args: 'mu' is given twice"),
        ({"strategy": "krum", "batch_norm": "local"}, "batch-norm: 'local' is for fedadapt's own"),
    ],
)
def test_what_cannot_work_is_one_line(changes, line):
    with pytest.raises(InputError) as refused:
        check(tiny.config(**changes))
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


def test_a_module_on_the_path_is_enough():
    check(tiny.config(strategy="third_party:Halfway", strategy_args="share=0.5 anything=1"))
