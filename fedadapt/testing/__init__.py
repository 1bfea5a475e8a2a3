"""The contract of strategies, adaptations and networks: for our tests, and for anybody's.

Each contract is a tuple of functions, one a rule, so that a test is three lines with pytest::

    @pytest.mark.parametrize("check", strategy_contract, ids=lambda check: check.__name__)
    def test_mine_keeps_the_contract(check):
        check("mine:Ditto", {"lam": 0.5})

A rule that is broken raises ``AssertionError``; a rule that cannot apply raises
``unittest.SkipTest`` with the reason, which pytest takes as a skipped test.
"""

from fedadapt.testing.adaptations import adaptation_contract
from fedadapt.testing.networks import network_contract
from fedadapt.testing.strategies import strategy_contract

__all__ = ["adaptation_contract", "network_contract", "strategy_contract"]
