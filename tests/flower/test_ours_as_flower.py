"""Strategies of ours in somebody else's ServerApp, over somebody else's ClientApp."""

import logging

import numpy as np
import pytest
import third_party
import torch
from fake_grid import FakeGrid, edited, failed
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from toys import initial, plain

from fedadapt.client.fit import Sgd
from fedadapt.errors import QuorumLostError
from fedadapt.flower import as_flower
from fedadapt.flower.grid_over_clients import flower_identity
from fedadapt.flower.records import array_record, tensors
from fedadapt.strategies.base import LocalTraining
from fedadapt.strategies.shared.fedavg import FedAvg
from fedadapt.strategies.shared.fedloge import FedLoGe
from fedadapt.weights import Weights

NODES = {901: 1.0, 17: 2.0, 530: -4.0, 4: 0.5}  # node id -> the slope of its line
EXAMPLES = {901: 10, 17: 30, 530: 20, 4: 40}
START = {"weight": torch.tensor([[0.0]]), "bias": torch.tensor([1.0])}


@pytest.fixture(autouse=True)
def _task():
    logging.getLogger("flwr").setLevel(logging.ERROR)
    with flower_identity():
        yield


# Somebody's ClientApp: a step of least squares on y = slope x.
app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    arrays = next(iter(message.content.array_records.values()))
    w, b = arrays["weight"].numpy(), arrays["bias"].numpy()
    x = np.linspace(-1, 1, context.node_config["examples"], dtype=np.float32)
    error = w[0, 0] * x + b[0] - context.node_config["slope"] * x
    new = {"weight": w - 0.1 * np.mean(error * x), "bias": b - 0.1 * np.mean(error)}
    numbers = MetricRecord({"num-examples": len(x), "loss": float(np.mean(error**2))})
    arrays = ArrayRecord({n: Array(a.astype(np.float32)) for n, a in new.items()})
    return Message(RecordDict({"arrays": arrays, "metrics": numbers}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    got = tensors(next(iter(message.content.array_records.values())))
    distance = abs(got["weight"].item() - context.node_config["slope"])
    numbers = MetricRecord({"num-examples": context.node_config["examples"], "distance": distance})
    return Message(RecordDict({"metrics": numbers}), reply_to=message)


def grid() -> FakeGrid:
    nodes = {n: {"slope": slope, "examples": EXAMPLES[n]} for n, slope in NODES.items()}
    return FakeGrid(app, nodes)


def fedavg(**changes) -> FedAvg:
    local = LocalTraining(optimizer=Sgd(0.1), batch_size=8, epochs=1)
    return FedAvg(model=torch.nn.Linear(1, 1), training=local, **changes)


def start(on: FakeGrid, rounds: int = 1, strategy=None, **settings):
    flower = as_flower(strategy or fedavg(), **settings)
    return flower.start(grid=on, initial_arrays=array_record(START), num_rounds=rounds, timeout=5)


def by_hand(start: Weights, nodes) -> Weights:
    """The mean of what those nodes answer, weighted by their examples."""
    total = sum(EXAMPLES[n] for n in nodes)
    found = {n: torch.zeros_like(t, dtype=torch.float64) for n, t in start.items()}
    for node in nodes:
        x = torch.linspace(-1, 1, EXAMPLES[node], dtype=torch.float64)
        error = start["weight"].double().item() * x + start["bias"].double() - NODES[node] * x
        share = EXAMPLES[node] / total
        found["weight"] += share * (start["weight"].double() - 0.1 * (error * x).mean())
        found["bias"] += share * (start["bias"].double() - 0.1 * error.mean())
    return {n: t.float() for n, t in found.items()}


def assert_close(found: ArrayRecord, wanted: Weights) -> None:
    torch.testing.assert_close(tensors(found), wanted, rtol=1e-5, atol=1e-6)


def test_fedavg_is_the_weighted_mean_of_anybody_s_answers():
    assert_close(start(grid()).arrays, by_hand(START, NODES))


def test_replies_are_summed_in_node_order_whatever_order_they_arrive_in(monkeypatch):
    """Or the same seed would give other last bits each time."""
    orders, merge = [], FedAvg.merge

    def noted(self, state, action, round, answers):
        answers = list(answers)
        orders.append([a.clients for a in answers])
        return merge(self, state, action, round, iter(answers))

    monkeypatch.setattr(FedAvg, "merge", noted)
    on = grid()
    start(on, rounds=3)
    assert orders == [[(4,), (17,), (530,), (901,)]] * 3
    arrived = [r.metadata.src_node_id for r in on.replies if r.metadata.message_type == "train"]
    assert arrived != sorted(NODES) * 3


def test_rounds_follow_on_each_other():
    twice = by_hand(by_hand(START, NODES), NODES)
    assert_close(start(grid(), rounds=2).arrays, twice)


def test_losses_and_evaluations_are_means_over_examples():
    result = start(grid())
    assert result.train_metrics_clientapp[1]["num-replies"] == 4
    assert result.train_metrics_clientapp[1]["train-loss"] > 0
    slope = by_hand(START, NODES)["weight"].item()
    distance = sum(EXAMPLES[n] * abs(slope - NODES[n]) for n in NODES) / 100
    assert result.evaluate_metrics_clientapp[1]["distance"] == pytest.approx(distance, rel=1e-5)


def corrupted(**arrays):
    return edited(lambda c: c.update({"arrays": array_record(START | arrays)}))


@pytest.mark.parametrize(
    "fault",
    [
        lambda reply: None,
        failed(1, "crash"),
        failed(1),
        corrupted(bias=torch.tensor([float("nan")])),
        corrupted(bias=torch.tensor(1.0)),  # would broadcast
        corrupted(weight=torch.ones(1, 1, dtype=torch.float64)),
        corrupted(more=torch.ones(1)),
        edited(lambda c: c.pop("arrays")),
        edited(lambda c: c["metrics"].update({"num-examples": -5})),
        edited(lambda c: c["metrics"].update({"num-examples": float("inf")})),
        edited(lambda c: c["metrics"].pop("num-examples")),
    ],
)
def test_a_bad_reply_is_dropped_and_the_rest_averaged(fault):
    on = grid()
    on.faults["train", 530] = fault
    assert_close(start(on).arrays, by_hand(START, [901, 17, 4]))


def test_a_round_without_a_usable_reply_leaves_the_model_as_it_was():
    on = grid()
    for node in NODES:
        on.faults["train", node] = failed(1, "crash")
    result = start(on)
    assert len(result.train_metrics_clientapp) == 0
    assert len(result.arrays) == 0  # Flower's own word for "never trained"


def test_a_failed_round_is_followed_by_one_from_the_same_model():
    on = grid()
    for node in NODES:
        on.faults["train", node] = failed(1, "crash")
    flower = as_flower(fedavg())
    given = {"grid": on, "initial_arrays": array_record(START), "timeout": 5}
    flower.start(num_rounds=1, **given)
    on.faults.clear()
    assert_close(flower.start(num_rounds=1, **given).arrays, by_hand(START, NODES))


@pytest.mark.parametrize(
    "fault",
    [
        lambda reply: None,
        failed(1, "crash"),
        edited(lambda c: c.pop("metrics")),
        edited(lambda c: c["metrics"].pop("num-examples")),
        edited(lambda c: c["metrics"].update({"num-examples": -30})),
        edited(lambda c: c["metrics"].update({"distance": float("nan")})),
        edited(lambda c: c.update({"arrays": array_record(START)})),
    ],
)
def test_a_bad_evaluation_is_dropped_and_the_rest_averaged(fault):
    on = grid()
    on.faults["evaluate", 17] = fault
    metrics = start(on).evaluate_metrics_clientapp[1]
    slope = by_hand(START, NODES)["weight"].item()
    wanted = sum(EXAMPLES[n] * abs(slope - NODES[n]) for n in (901, 530, 4)) / 70
    assert dict(metrics) == {"distance": pytest.approx(wanted, rel=1e-5)}


def test_a_metric_is_the_mean_over_those_who_told_it():
    """Not of half the clients' sums over everybody's examples."""
    on = grid()
    for node in (901, 4):
        on.faults["evaluate", node] = edited(lambda c: c["metrics"].pop("distance"))
        on.faults["train", node] = edited(lambda c: c["metrics"].pop("loss"))
    result = start(on)
    slope = by_hand(START, NODES)["weight"].item()
    wanted = (30 * abs(slope - 2.0) + 20 * abs(slope + 4.0)) / 50
    assert result.evaluate_metrics_clientapp[1]["distance"] == pytest.approx(wanted, rel=1e-5)
    losses = {r.metadata.src_node_id: r.content["metrics"].get("loss") for r in on.replies
              if r.metadata.message_type == "train"}  # fmt: skip
    wanted = (30 * losses[17] + 20 * losses[530]) / 50
    assert result.train_metrics_clientapp[1]["train-loss"] == pytest.approx(wanted)


def test_clients_that_tell_no_loss_have_none():
    on = grid()
    for node in NODES:
        on.faults["train", node] = edited(lambda c: c["metrics"].pop("loss"))
    assert dict(start(on).train_metrics_clientapp[1]) == {"num-replies": 4}


def test_starting_again_begins_with_the_arrays_given_then():
    """As Flower's own strategies do; whatever the first run has left behind."""
    on, flower = grid(), as_flower(fedavg())
    other = {n: t + 3 for n, t in START.items()}
    flower.start(grid=on, initial_arrays=array_record(START), num_rounds=2, timeout=5)
    again = flower.start(grid=on, initial_arrays=array_record(other), num_rounds=1, timeout=5)
    assert_close(again.arrays, by_hand(other, NODES))


def test_a_share_of_the_nodes_trains_and_all_evaluate():
    on = grid()
    start(on, rounds=3, fraction=0.5, seed=3)
    trained = [node for kind, node in on.sent if kind == "train"]
    assert len(trained) == 6
    again = grid()
    start(again, rounds=3, fraction=0.5, seed=3)
    assert [node for kind, node in again.sent if kind == "train"] == trained
    assert sum(kind == "evaluate" for kind, _ in on.sent) == 3 * 4


def test_it_waits_for_as_many_nodes_as_it_is_told_and_then_gives_up(monkeypatch):
    monkeypatch.setattr("fedadapt.flower.ours_as_flower.QUERY_SECONDS", 0.02)
    monkeypatch.setattr("fedadapt.flower.nodes.POLL", 0.001)
    with pytest.raises(QuorumLostError, match=r"4 of 9 clients after 0\.02 s"):
        start(grid(), min_nodes=9)


def test_settings_of_the_run_reach_the_nodes():
    seen = []
    curious = ClientApp(
        mods=[lambda m, c, call: (seen.append(dict(m.content["config"])), call(m, c))[1]]
    )
    curious.train()(train)
    curious.evaluate()(evaluate)
    on = grid()
    on.app = curious
    as_flower(fedavg()).start(
        grid=on, initial_arrays=array_record(START), num_rounds=1, timeout=5,
        train_config=ConfigRecord({"mine": 3}), evaluate_config=ConfigRecord({"also": "x"}),
    )  # fmt: skip
    assert [s for s in seen if "mine" in s] == [{"mine": 3, "server-round": 1}] * 4
    assert [s["also"] for s in seen if "also" in s] == ["x"] * 4


# A strategy with a further question in each round


def norm_app(statistics) -> ClientApp:
    """Trains nothing, measures ``moments[partition]`` of one batch-norm layer."""
    answering = ClientApp()

    @answering.train()
    def train_nothing(message: Message, context: Context) -> Message:
        numbers = MetricRecord({"num-examples": context.node_config["examples"], "loss": 1.0})
        return Message(RecordDict({"arrays": message.content["arrays"], "metrics": numbers}),
                       reply_to=message)  # fmt: skip

    @answering.query("moments")
    def measure(message: Message, context: Context) -> Message:
        mean, variance = statistics[context.node_config["at"]]
        found = {
            "2.running_mean": torch.full((16,), mean),
            "2.running_var": torch.full((16,), variance),
        }
        numbers = MetricRecord({"num-examples": context.node_config["examples"]})
        return Message(RecordDict({"arrays": array_record(found), "metrics": numbers}),
                       reply_to=message)  # fmt: skip

    @answering.evaluate()
    def nothing(message: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

    return answering


def test_a_strategy_asks_its_further_questions():
    """Pooled moments of clients with 10 and 30 images: mean 2.5, variance 1.5 + 0.75."""
    model = third_party.norm_mlp((1, 2, 2), 3)
    strategy = FedAvg(model=model, batch_norm="reestimate")
    on = FakeGrid(norm_app([(1.0, 0.0), (3.0, 2.0)]),
                  {5: {"at": 0, "examples": 10}, 9: {"at": 1, "examples": 30}})  # fmt: skip
    result = as_flower(strategy).start(
        grid=on, initial_arrays=array_record(dict(model.state_dict())), num_rounds=1, timeout=5
    )
    found = tensors(result.arrays)
    assert {kind for kind, _ in on.sent} == {"train", "query.moments", "evaluate"}
    torch.testing.assert_close(found["2.running_mean"], torch.full((16,), 2.5))
    torch.testing.assert_close(found["2.running_var"], torch.full((16,), 2.25))
    assert found["2.num_batches_tracked"].dtype == torch.int64


def test_a_question_nobody_answers_ends_the_run_in_words():
    model = third_party.norm_mlp((1, 2, 2), 3)
    on = FakeGrid(norm_app([(1.0, 0.0)]), {5: {"at": 0, "examples": 10}})
    on.faults["query.moments", 5] = failed(1, "crash")
    with pytest.raises(QuorumLostError, match=r"round 1: no client answered 'query\.moments'"):
        as_flower(FedAvg(model=model, batch_norm="reestimate")).start(
            grid=on, initial_arrays=array_record(dict(model.state_dict())), num_rounds=1, timeout=5
        )


def test_an_evaluation_sends_a_network_where_clients_make_their_own_of_more():
    flower = as_flower(FedLoGe(model=plain()))
    flower.configure_train(1, array_record(initial(plain())), ConfigRecord(), grid())
    for message in flower.configure_evaluate(1, ArrayRecord(), ConfigRecord(), grid()):
        [arrays] = message.content.array_records.values()
        assert arrays.keys() == initial(plain()).keys()
