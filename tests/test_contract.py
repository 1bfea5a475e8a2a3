"""What every strategy, adaptation and network must do: one row for each name in a registry."""

import pytest

from fedadapt.client.adaptations.registry import ADAPTATIONS
from fedadapt.models.registry import ENTRIES
from fedadapt.strategies.registry import STRATEGIES
from fedadapt.testing import adaptation_contract, network_contract, strategy_contract

OURS = [name for name, path in STRATEGIES.ours.items() if path.startswith("fedadapt.")]
ARGUMENTS = {
    "pfa": {"groups": 2},
    # Any cluster of three clients and more is split, from the first round on.
    "cfl": {"first_round": 1, "rule": "norms", "eps1": 1e6, "eps2": 1e-6},
    "pacfl": {"threshold": 30.0},
    "taper": {"warm_up": 10},
    # Where a filter before a batch norm is dropped, its units lie at the kink of their ReLU, and
    # rounding errors decide their gradients.
    "pfedgate": {"budget": 1.0},
}
COMPOSITIONS = ("adabn+ewc", "bn-mix+t3a")  # one asks and reads labels, the other does neither


def _name(check) -> str:
    return check.__name__


def _groups(names):
    """Each name is a group of its own for pytest-xdist: the cores share what would be minutes."""
    return [pytest.param(n, marks=pytest.mark.xdist_group(f"contract {n}")) for n in names]


@pytest.mark.parametrize("check", strategy_contract, ids=_name)
@pytest.mark.parametrize("name", _groups(OURS))
def test_a_strategy_keeps_the_contract(name, check):
    check(name, ARGUMENTS.get(name))


@pytest.mark.parametrize("check", adaptation_contract, ids=_name)
@pytest.mark.parametrize("name", _groups([*ADAPTATIONS.ours, *COMPOSITIONS]))
def test_an_adaptation_keeps_the_contract(name, check):
    check(name)


@pytest.mark.parametrize("check", network_contract, ids=_name)
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_network_keeps_the_contract(entry, check):
    check(entry.name)
