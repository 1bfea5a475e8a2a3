"""PFA whose vectors leave the clients with differential privacy."""

import logging
import random

import pytest
import tiny
import torch
import toys
from torch import Tensor

from fedadapt.client.differential_privacy import Guarantee
from fedadapt.errors import InputError
from fedadapt.messages import Update
from fedadapt.simulations.results.parquet import read_communication
from fedadapt.strategies.pfa.strategy import PFA, SPARSITY
from fedadapt.strategies.registry import select

pytest.importorskip("dp_accounting")

LOOSE = 1e6  # so little noise that nothing is hidden


def pfa(**how: object) -> PFA:
    given = {"training": toys.training(), "federated_rounds": 1, "q": 5, "groups": 2}
    return PFA(model=toys.dense(), image_shape=toys.SHAPE, **{**given, **how})


def clients(count: int = 4) -> toys.Toys:
    return toys.Toys([toys.split(30, seed=d) for d in range(count)])


def answer(strategy: PFA, server: PFA | None = None) -> Update:
    """What four clients say to a server, which has the same settings if none is given."""
    cohort = toys.cohort(toys.dense(), [toys.split(30, seed=d) for d in range(4)], round=2)
    asking = server or strategy
    state = asking.begin(toys.initial(toys.dense()), [10, 11, 12, 13])
    return strategy.answer(SPARSITY, cohort, asking.send(state, SPARSITY, 2, state.clients))


def said(strategy: PFA, server: PFA | None = None) -> Tensor:
    return answer(strategy, server).report["sparsity"]


def test_with_a_very_large_epsilon_the_vector_is_exact():
    torch.testing.assert_close(said(pfa(dp_epsilon=LOOSE)), said(pfa()), rtol=0, atol=1e-3)


def test_without_an_epsilon_nothing_is_kept_and_nothing_is_said_of_it():
    assert answer(pfa()).states == {}
    state = pfa().begin(toys.initial(toys.dense()), [0, 1])
    assert "dp-epsilon" not in pfa().send(state, SPARSITY, 2, [0, 1]).config


def test_the_noise_has_the_size_that_was_promised():
    """Of many draws at an epsilon that cuts hardly anything off."""
    exact = said(pfa()).double()
    inside = (exact > 0.1) & (exact < 0.9)
    assert inside.sum() > 3
    found = torch.stack([said(pfa(dp_epsilon=50.0, noise_seed=s)) for s in range(40)]).double()
    promised = Guarantee(50.0, 1e-5).noise * 5**0.5 / 30  # sigma sqrt(q) / N
    spread = (found - exact)[:, inside].std()
    assert float(spread) == pytest.approx(promised, rel=0.1)


def test_a_simulation_repeats_its_noise_and_a_client_does_not():
    assert torch.equal(
        said(pfa(dp_epsilon=1.0, noise_seed=1)), said(pfa(dp_epsilon=1.0, noise_seed=1))
    )
    assert not torch.equal(said(pfa(dp_epsilon=1.0)), said(pfa(dp_epsilon=1.0)))


def test_a_client_does_not_need_the_server_to_ask_for_privacy():
    exact, told = said(pfa()), said(pfa(dp_epsilon=0.5), server=pfa())
    assert float((told - exact).abs().max()) > 0.05


def test_the_vector_is_four_bytes_a_channel_with_noise_too():
    told = said(pfa(dp_epsilon=1.0))
    assert told.dtype == torch.float32
    assert told.shape == (4, 5)
    assert bool(((told >= 0) & (told <= 1)).all())


def test_regrouping_asks_the_same_question_and_costs_nothing(caplog):
    """The federated model is fixed once there are groups, so one release serves all rounds."""
    strategy = pfa(dp_epsilon=1.0, regroup_every=1, noise_seed=1)
    start = toys.initial(toys.dense())
    with caplog.at_level(logging.INFO, "fedadapt.client.differential_privacy"):
        trial = toys.federate(strategy, clients(), toys.dense(), start, rounds=4)
    asked = [(e.round, e.client) for e in trial.communication if e.action == SPARSITY]
    assert asked == [(r, d) for r in (2, 3, 4) for d in range(4)]
    releases = [r.getMessage() for r in caplog.records if "release" in r.getMessage()]
    assert len(releases) == 4
    assert all("release 1; in all epsilon 1 at delta 1e-05" in line for line in releases)


def test_a_group_has_the_noisy_vectors_and_the_facts_say_so():
    trial = toys.federate(
        pfa(dp_epsilon=2.0, noise_seed=1), clients(), toys.dense(), toys.initial(toys.dense()), 2
    )
    exact = toys.federate(pfa(), clients(), toys.dense(), toys.initial(toys.dense()), 2)
    noisy = trial.method.pack()[0]
    assert not torch.equal(noisy["vectors"], exact.method.pack()[0]["vectors"])


def test_local_norms_are_refused_since_one_image_would_move_all_activations():
    with pytest.raises(ValueError, match="local"):
        pfa(dp_epsilon=1.0, batch_norm="local")
    config = tiny.config(
        strategy="pfa", strategy_args="federated_rounds=1 dp_epsilon=1", batch_norm="local"
    )
    with pytest.raises(InputError, match="batch-norm=local") as error:
        select(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "words",
    ["dp_epsilon=-1", "dp_epsilon=inf", "dp_epsilon=nan", "dp_epsilon=true", "dp_epsilon=little",
     "dp_delta=0", "dp_delta=1", "dp_delta=small", "dp_epsilon=1 random=true groups=2"],
)  # fmt: skip
def test_arguments_that_promise_nothing_are_refused_in_one_line(words):
    config = tiny.config(strategy="pfa", strategy_args=f"federated_rounds=1 {words}")
    with pytest.raises(InputError, match=r"strategy-args: (dp_|random)") as error:
        select(config)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_run_with_little_noise_groups_as_one_without(tmp_path):
    settings = {"strategy": "pfa", "clients": 10, "rounds": 3, "adapt": "none"}
    settings |= {"normalization": "unit"}
    plain = tiny.run(tmp_path / "plain", **settings, strategy_args="federated_rounds=2")
    words = f"federated_rounds=2 dp_epsilon={LOOSE}"
    private = tiny.run(tmp_path / "private", **settings, strategy_args=words)
    personal = [s["accuracy"]["personal"]["mean"] for s in (plain, private)]
    assert personal[0] == personal[1]
    sizes = {e.bytes_up for e in read_communication(tmp_path / "private") if e.action == SPARSITY}
    assert sizes == {4 * 30 + 8}


def test_entropy_is_asked_of_the_system_where_no_seed_is_given():
    """Neither the run's seed nor anybody's global generator reaches the noise."""
    random.seed(0)
    torch.manual_seed(0)
    first = said(pfa(dp_epsilon=1.0, seed=1))
    random.seed(0)
    torch.manual_seed(0)
    assert not torch.equal(said(pfa(dp_epsilon=1.0, seed=1)), first)
