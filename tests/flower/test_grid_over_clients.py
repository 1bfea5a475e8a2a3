"""Our clients as Flower nodes: what a third party's strategy sees of them, and does not."""

import math

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedadapt.errors import InputError
from fedadapt.flower import records
from fedadapt.flower.grid_over_clients import PATIENCE, GridOverClients, floats, flower_identity
from fedadapt.messages import Answers, Failure, Update
from fedadapt.server.exchange import Exchange, RoundFailedError

MODEL = {"w": torch.tensor([1.0, 2.0]), "h": torch.tensor([0.5]).half(), "count": torch.tensor(9)}
CLIENTS = (3, 5, 8)


@pytest.fixture(autouse=True)
def _task():
    with flower_identity():
        yield


class ClientPool:
    """Client d adds d to every float; ``corrupted`` ones answer NaN, ``failed`` ones not at all."""

    def __init__(self, corrupted=(), failed=()) -> None:
        self.corrupted, self.failed = corrupted, failed
        self.asked: list = []

    def ask(self, action, round, sent, expected):
        self.asked.append((action, sent))
        for row, d in enumerate(sent.clients):
            if d in self.failed:
                yield Answers((), None, {d: Failure("error", "crash:X")})
                continue
            by = math.nan if d in self.corrupted else d
            new = {n: t[row : row + 1] + (by if t.is_floating_point() else 1)
                   for n, t in sent.weights.items()}  # fmt: skip
            numbers = {"loss": torch.tensor([1.0 / d])}
            update = Update({} if action == "evaluate" else new, torch.tensor([10.0 * d]), numbers)
            yield Answers((d,), update, {}, {d: 1}, {d: 0.0})


def over(client_pool: ClientPool, communication=None, min_replies=0.01) -> GridOverClients:
    exchange = Exchange(
        client_pool, 4, min_replies=min_replies, max_update_norm=0.0,
        record=(communication if communication is not None else []).append, progress=lambda _: None,
    )  # fmt: skip
    return GridOverClients(exchange, CLIENTS, MODEL)


def to(client: int, model=None, kind="train", **config) -> Message:
    arrays = records.array_record(floats(MODEL) if model is None else model)
    return Message(records.request({"arrays": arrays}, config), client + 1, kind)


def to_all(**config) -> list[Message]:
    """As Flower does it: one record for all."""
    content = records.request({"arrays": records.array_record(floats(MODEL))}, config)
    return [Message(content, client + 1, "train") for client in CLIENTS]


def by_client(replies) -> dict[int, Message]:
    return {reply.metadata.src_node_id - 1: reply for reply in replies}


def test_nodes_are_the_clients_of_the_round_and_none_is_zero():
    assert over(ClientPool()).get_node_ids() == [4, 6, 9]


def test_a_strategy_that_waits_for_others_is_told_to_stop():
    grid = over(ClientPool())
    for _ in range(PATIENCE):
        grid.get_node_ids()
    with pytest.raises(InputError, match="it waits for more than the 3 clients of this round"):
        grid.get_node_ids()


def test_each_node_s_answer_comes_back_with_its_numbers():
    found = by_client(over(ClientPool()).send_and_receive(to_all()))
    assert set(found) == set(CLIENTS)
    for client, reply in found.items():
        arrays = records.tensors(reply.content["arrays"])
        assert arrays["w"].tolist() == [1.0 + client, 2.0 + client]
        numbers = dict(reply.content["metrics"])
        assert numbers["num-examples"] == 10 * client
        assert numbers["loss"] == numbers["train_loss"] == pytest.approx(1 / client)
        assert isinstance(numbers["num-examples"], int)


def test_integers_go_down_as_they_are_and_are_left_out_on_the_way_up():
    client_pool = ClientPool()
    found = by_client(over(client_pool).send_and_receive(to_all()))
    [(_, sent)] = client_pool.asked
    assert sent.weights["count"].tolist() == [9, 9, 9]
    assert set(records.tensors(found[3].content["arrays"])) == {"w", "h"}


def test_arrays_travel_in_the_model_s_own_types():
    """Flower's strategies compute in float64; clients take what their networks hold."""
    client_pool = ClientPool()
    wide = {"w": MODEL["w"].double(), "h": MODEL["h"].double()}
    list(over(client_pool).send_and_receive([to(d, wide) for d in CLIENTS]))
    [(_, sent)] = client_pool.asked
    assert {n: t.dtype for n, t in sent.weights.items()} == {n: t.dtype for n, t in MODEL.items()}


def test_one_model_for_all_is_not_copied_for_each():
    client_pool = ClientPool()
    over(client_pool).send_and_receive(to_all())
    assert client_pool.asked[0][1].weights["w"].stride(0) == 0


def test_each_node_may_be_sent_its_own_model_and_in_any_order():
    client_pool = ClientPool()
    models = {d: {"w": MODEL["w"] * d, "h": MODEL["h"]} for d in CLIENTS}
    messages = [to(d, models[d]) for d in reversed(CLIENTS)]
    found = by_client(over(client_pool).send_and_receive(messages))
    assert client_pool.asked[0][1].clients == CLIENTS
    for d in CLIENTS:
        assert records.tensors(found[d].content["arrays"])["w"].tolist() == [d + d, 2 * d + d]


def test_messages_with_other_settings_are_asked_apart():
    """One ``Sent`` has one configuration for all it is addressed to."""
    client_pool = ClientPool()
    over(client_pool).send_and_receive([to(3, mu=0.1), to(5, mu=0.2), to(8, mu=0.1)])
    assert [(s.clients, s.config["mu"]) for _, s in client_pool.asked] == [
        ((3, 8), 0.1),
        ((5,), 0.2),
    ]


def test_a_bad_answer_is_an_error_for_the_strategy_and_an_outcome_in_the_communication_log():
    communication: list = []
    found = by_client(
        over(ClientPool(corrupted=(5,), failed=(8,)), communication).send_and_receive(to_all())
    )
    assert not found[3].has_error()
    assert found[5].has_error()
    assert found[8].has_error()
    assert {e.client: e.outcome for e in communication} == {
        3: "accepted",
        5: "rejected",
        8: "error",
    }


def test_below_quorum_the_strategy_never_gets_to_aggregate():
    with pytest.raises(RoundFailedError, match="1 of 3 clients gave a usable answer, 2 needed"):
        over(ClientPool(failed=(5, 8)), min_replies=0.5).send_and_receive(to_all())


def test_evaluations_carry_numbers_only():
    messages = [to(d, kind="evaluate") for d in CLIENTS]
    found = by_client(over(ClientPool()).send_and_receive(messages))
    assert set(found[5].content) == {"metrics"}
    assert "train_loss" not in found[5].content["metrics"]


@pytest.mark.parametrize("kind", ["query", "query.secrets", "train.other"])
def test_a_question_clients_do_not_know_is_refused(kind):
    with pytest.raises(InputError, match=f"it sends '{kind}'; clients answer train and evaluate"):
        over(ClientPool()).send_and_receive([to(3, kind=kind)])


@pytest.mark.parametrize("clients", [(3, 4), (-1, 5), (3, 5, 3)])
def test_only_nodes_of_this_round_can_be_asked_and_once(clients):
    """A strategy that remembers nodes would train who was not sampled, or is held out."""
    client_pool = ClientPool()
    with pytest.raises(InputError) as refused:
        over(client_pool).send_and_receive([to(d) for d in clients])
    assert "it sends 'train' to the nodes" in str(refused.value)
    assert client_pool.asked == []


@pytest.mark.parametrize("count", [0, 2])
def test_a_message_must_hold_one_model(count):
    content = RecordDict({f"model-{n}": ArrayRecord() for n in range(count)})
    content["config"] = ConfigRecord()
    with pytest.raises(InputError, match=f"a message holds {count} array records; it must hold"):
        over(ClientPool()).send_and_receive([Message(content, 4, "train")])


def test_other_ways_to_send_are_refused_in_words():
    grid = over(ClientPool())
    for call in (lambda: grid.push_messages([]), lambda: grid.pull_messages([]), lambda: grid.run):
        with pytest.raises(InputError, match=r"only grid\.send_and_receive and grid\.get_node_ids"):
            call()


def test_messages_made_by_the_grid_are_flower_s():
    message = over(ClientPool()).create_message(RecordDict(), "train", 4, "7")
    assert (message.metadata.dst_node_id, message.metadata.group_id) == (4, "7")


def test_the_task_identity_is_set_only_inside_the_block(monkeypatch):
    """Inside a real Flower process there is one already, and it stays."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, None)
    with flower_identity():
        assert TaskIdentity.run_id == 1
    assert TaskIdentity._run_id is None
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 77)
    with flower_identity():
        assert TaskIdentity.run_id == 77
    assert TaskIdentity.run_id == 77
