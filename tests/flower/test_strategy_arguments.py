"""Arguments of Flower's strategies are refused before anything is read, and good ones pass."""

import pytest
import tiny
from click.testing import CliRunner

from fedadapt.cli import main
from fedadapt.errors import InputError
from fedadapt.simulations.check import check

STOCK = ("flower-fedprox", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedmedian",
         "fedtrimmedavg", "krum", "multikrum", "bulyan")  # fmt: skip


@pytest.mark.parametrize("name", STOCK)
def test_defaults_pass(name):
    check(tiny.config(strategy=name))


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("fedadam", "eta=abc", "fedadam: eta: expected float, got str 'abc'"),
        ("fedadam", "eta=nan", "fedadam: eta: nan is not a finite number"),
        ("fedadam", "eta=true", "fedadam: eta: expected float, got bool True"),
        ("fedadam", "tau=0", "its model is not finite after two rounds"),
        ("krum", "num_malicious_nodes=nan", "num_malicious_nodes: nan is not a finite number"),
        ("krum", "num_malicious_nodes=1.5", "expected int, got float 1.5"),
        ("multikrum", "num_nodes_to_select=''", "num_nodes_to_select: expected int, got str ''"),
        ("fedtrimmedavg", "beta=0.9", "`beta` must be in the range"),
        ("fedadam", "weighted_by_key=nosuch", "fedadam does not work with these arguments"),
        ("fedadam", "fraction_train=0", "it asks no client to train"),
        ("qfedavg", "", 'needs --strategy-args "client_learning_rate=..."'),
        ("fedadam", "train_metrics_aggr_fn=f", "takes a function; it cannot be given here"),
        ("third_party:Halfway", "share=nan", "share: nan is not a finite number"),
        ("third_party:Halfway", "share=much", "share: expected float, got str 'much'"),
    ],
)
def test_arguments_that_cannot_work_are_one_line(name, arguments, reason):
    with pytest.raises(InputError, match=r"^strategy(-args)?: ") as caught:
        check(tiny.config(strategy=name, strategy_args=arguments))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_whole_number_is_one_with_a_point():
    from fedadapt.strategies.registry import select

    strategy = select(tiny.config(strategy="fedadam", strategy_args="eta=1")).construct()
    assert type(strategy.eta) is float


def test_a_strategy_is_tried_with_as_many_clients_as_a_round_has(monkeypatch):
    """Six clients can be waited for, three of them cannot."""
    monkeypatch.setattr("flwr.serverapp.strategy.strategy_utils.sleep", lambda _: None)
    waiting = {"strategy": "fedadam", "strategy_args": "min_available_nodes=6"}
    check(tiny.config(**waiting))
    with pytest.raises(InputError, match="waits for more than the 3 clients of this round"):
        check(tiny.config(**waiting, fraction=0.5))


def test_the_command_ends_with_2_and_leaves_no_folder(tmp_path):
    given = tiny.options(strategy="fedadam", **{"strategy-args": "eta=abc"}, out=tmp_path / "run")
    result = CliRunner().invoke(main, ["simulate", *given])
    assert result.exit_code == 2
    assert not (tmp_path / "run").exists()
