"""Flower's strategies and other people's, built from settings and driven round by round."""

import math
import random

import flwr.serverapp.strategy as stock
import numpy as np
import pytest
import third_party
import tiny
import torch
from flwr.app import Array, ArrayRecord

from fedadapt.errors import InputError
from fedadapt.flower.flower_as_ours import FlowerStrategyWithState
from fedadapt.messages import Answers, Update
from fedadapt.server.exchange import Exchange
from fedadapt.simulations.assembly import assemble
from fedadapt.simulations.results.parquet import read_communication
from fedadapt.strategies.registry import select
from fedadapt.strategies.shared.fedavg import FedAvg
from fedadapt.strategies.stateful import StrategyWithState


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    tiny.without_pictures(monkeypatch)


def load(name: str, arguments: str = ""):
    return select(tiny.config(strategy=name, strategy_args=arguments)).construct()


def test_arguments_reach_the_constructor_of_the_class_and_of_its_parents():
    found = load("fedadam", "eta=0.25 beta-1=0.5 fraction_train=0.5")
    assert isinstance(found, stock.FedAdam)
    assert (found.eta, found.beta_1, found.fraction_train) == (0.25, 0.5, 0.5)


def test_flower_waits_for_two_nodes_unless_told_and_here_for_one():
    assert load("flower-fedprox").min_available_nodes == 1
    assert load("flower-fedprox", "min_available_nodes=5").min_available_nodes == 5


def test_a_constructor_that_takes_anything_is_given_anything():
    found = load("third_party:Halfway", "share=0.5 note='two words' fraction_train=0.3")
    assert (found.share, found.note, found.fraction_train) == (0.5, "two words", 0.3)


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("fedadam", "etta=1", "strategy-args: fedadam has no argument 'etta'; did you mean 'eta'?"),
        ("third_party:Halfway", "", 'Halfway needs --strategy-args "share=..."'),
        ("third_party:Nobody", "", "strategy: third_party:Nobody: cannot import"),
        ("third_party:NOT_A_STRATEGY", "", "is a subclass neither of fedadapt's Strategy"),
        ("third_party:norm_mlp", "", "is a subclass neither of fedadapt's Strategy"),
        ("third_party:Starting", "", "overrides start()"),
    ],
)
def test_what_cannot_be_built_is_one_line(name, arguments, line):
    with pytest.raises(InputError) as refused:
        load(name, arguments)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def started(strategy, **weights) -> FlowerStrategyWithState:
    method = FlowerStrategyWithState(strategy, seed=1)
    method.begin(weights or {"w": torch.ones(2)}, [0, 1])
    return method


def test_its_own_state_comes_back_as_it_was():
    """Arrays, numbers, records and dictionaries of arrays: all that Flower's strategies hold."""
    strategy = third_party.Halfway(share=0.5)
    strategy.m_t = {"w": np.array([1.0, 2.0]), "b": np.array(3.0, np.float32)}
    strategy.step = np.arange(3)
    strategy.record = ArrayRecord({"w": Array(np.ones((2, 2)))})
    strategy.round, strategy.name, strategy.nothing, strategy.flag = 7, "x", None, True
    tensors, metadata = started(strategy, w=torch.tensor([1.0]), n=torch.tensor(4)).pack()

    other = third_party.Halfway(share=0.9)
    method = FlowerStrategyWithState(other, seed=1)
    method.unpack(tensors, metadata)
    assert (other.share, other.round, other.name, other.nothing, other.flag) == (
        0.5,
        7,
        "x",
        None,
        True,
    )
    assert other.m_t["w"].tolist() == [1.0, 2.0]
    assert other.m_t["b"].dtype == np.float32
    assert other.step.tolist() == [0, 1, 2]
    assert other.record["w"].numpy().tolist() == [[1, 1], [1, 1]]
    assert method.models([0])["base"]["w"].tolist() == [[1.0]]
    assert method.models([0])["base"]["n"].tolist() == [4]


class Clients:
    """Client d moves every weight by d + 1 and round / 10, from 10 (d + 1) examples."""

    def ask(self, action, round, sent, expected):
        assert action in ("train", "evaluate")
        by = torch.tensor([d + 1 for d in sent.clients])
        new = {n: t + by.view(-1, *[1] * (t.dim() - 1)) + round / 10
               for n, t in sent.weights.items()}  # fmt: skip
        weights = new if action == "train" else {}
        update = Update(weights, 10.0 * by.double(), {"loss": 1.0 / by.double()})
        yield Answers(sent.clients, update, {}, dict.fromkeys(sent.clients, 1))


def round_of(method, number: int, sampled=(0, 1)) -> None:
    exchange = Exchange(
        Clients(), number, min_replies=0.5, max_update_norm=0.0,
        record=lambda _: None, progress=lambda _: None,
    )  # fmt: skip
    method.round(exchange, sampled)


def weights_of(method) -> torch.Tensor:
    return method.models([0])["base"]["w"][0]


def test_flower_s_fedavg_is_the_mean_ours_is():
    """Of 10 and 20 examples that moved by 1 and 2, and both by a tenth of the round."""
    theirs = started(stock.FedAvg(min_available_nodes=2))
    ours = StrategyWithState(FedAvg(model=torch.nn.ParameterDict({"w": torch.ones(2)})))
    ours.begin({"w": torch.ones(2)}, [0, 1])
    for number in (1, 2):
        for method in (theirs, ours):
            round_of(method, number)
    torch.testing.assert_close(weights_of(theirs), torch.full((2,), 1 + 5 / 3 + 0.1 + 5 / 3 + 0.2))
    torch.testing.assert_close(weights_of(theirs), weights_of(ours))


def adam(steps: int) -> float:
    """FedAdam by hand (Reddi et al. 2021, algorithm 2), with the step size Flower corrects."""
    x, m, v = 1.0, 0.0, 0.0
    for t in range(1, steps + 1):
        delta = 5 / 3 + t / 10
        m = 0.9 * m + 0.1 * delta
        v = 0.99 * v + 0.01 * delta**2
        eta = 0.1 * math.sqrt(1 - 0.99 ** (t + 1)) / (1 - 0.9 ** (t + 1))
        x += eta * m / (math.sqrt(v) + 1e-3)
    return x


def test_fedadam_s_momenta_survive_packing_and_unpacking():
    whole, cut = (started(stock.FedAdam()) for _ in range(2))
    for number in (1, 2, 3):
        round_of(whole, number)
        round_of(cut, number)
        resumed = FlowerStrategyWithState(stock.FedAdam(), seed=1)
        resumed.unpack(*cut.pack())
        cut = resumed
    assert torch.equal(weights_of(whole), weights_of(cut))
    assert weights_of(whole)[0].item() == pytest.approx(adam(3), rel=1e-5)


def test_a_packed_state_is_a_copy():
    strategy = third_party.Halfway(share=0.5)
    strategy.step = np.zeros(2)
    tensors, _ = started(strategy).pack()
    strategy.step += 1
    [step] = [tensor for name, tensor in tensors.items() if "step" in name]
    assert step.tolist() == [0, 0]


def test_a_strategy_s_own_sampling_is_seeded_and_the_global_generator_is_left_alone(tmp_path):
    """Flower samples with ``random``: half the clients of each round, the same ones each time."""

    def trained(folder):
        random.seed(str(folder))  # whatever was drawn before
        before = random.getstate()
        tiny.run(
            folder, strategy="flower-fedprox", strategy_args="fraction_train=0.5", adapt="none"
        )
        assert random.getstate() == before
        return [(e.round, e.client) for e in read_communication(folder) if e.action == "train"]

    first, second = trained(tmp_path / "a"), trained(tmp_path / "b")
    assert first == second
    by_round = [{d for r, d in first if r == n} for n in (1, 2, 3)]
    assert [len(clients) for clients in by_round] == [3, 3, 3]
    assert len(set(map(frozenset, by_round))) > 1


def test_the_evaluation_a_strategy_hears_of_is_on_the_adapt_images(tmp_path, monkeypatch):
    """Recomputed by hand from the model; a score on test images would be a leak into training."""
    heard = []
    original = third_party.Listening.__init__

    def listen(self, **settings):
        original(self, **settings)
        heard.append(self)

    monkeypatch.setattr(third_party.Listening, "__init__", listen)
    changes = {"strategy": "third_party:Listening", "adapt_share": 0.3, "test_share": 0.1,
               "adapt": "none"}  # fmt: skip
    tiny.run(tmp_path, **changes)
    [strategy] = heard
    assembly = assemble(tiny.config(**changes))
    model = assembly.model
    model.load_state_dict(tiny.base(tmp_path))
    model.eval()
    wanted = []
    for client in range(6):
        adapt = assembly.benchmark.split(client).adapt
        with torch.no_grad():
            logits = model(assembly.benchmark.scaling(adapt.inputs))
        wanted.append((len(adapt), (logits.argmax(1) == adapt.labels).double().mean().item()))
    assemble.cache_clear()
    assert len(strategy.heard) == 3
    found = [(m["num-examples"], m["accuracy"]) for m in strategy.heard[-1]]
    assert sorted(found) == sorted(wanted)
    assert len({accuracy for _, accuracy in found}) > 2


def test_a_variance_that_a_server_s_step_made_negative_is_cut_off():
    method = started(third_party.Halfway(share=1.0), **{"bn.running_var": torch.ones(2)})
    record = ArrayRecord({"bn.running_var": Array(np.array([-0.5, 2.0]))})
    assert method._taken(record)["bn.running_var"].tolist() == [0.0, 2.0]
