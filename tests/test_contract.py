"""What every strategy, adaptation and network must do: one row for each name in a registry."""

import pytest

from fedadapt.strategies.registry import STRATEGIES
from fedadapt.testing import strategy_contract

OURS = [name for name, path in STRATEGIES.ours.items() if path.startswith("fedadapt.")]
ARGUMENTS = {"pfa": {"groups": 2}}


def _name(check) -> str:
    return check.__name__


@pytest.mark.parametrize("check", strategy_contract, ids=_name)
@pytest.mark.parametrize("name", OURS)
def test_a_strategy_keeps_the_contract(name, check):
    check(name, ARGUMENTS.get(name))
