"""An evaluation that rides on a training message: half the messages, the same answers."""

import pytest
import torch
from fake_grid import FakeGrid, edited, failed
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from test_clients_over_grid import MODEL, NODES, client_app, client_pool

from fedadapt.flower import records
from fedadapt.flower.riding import RIDING, joined, parted, split, with_rider
from fedadapt.flower.run_facts import memory
from fedadapt.messages import Failure, Sent
from fedadapt.server.client_pool import EvaluationRequest
from fedadapt.weights import repeat

pytestmark = pytest.mark.usefixtures("flower_identity")


class Splitting:
    """A client app that answers both messages in one, as ours does."""

    def __init__(self, app: ClientApp) -> None:
        self._app = app
        self.ridden: list[int] = []  # the nodes whose message had a rider

    def __call__(self, message: Message, context) -> Message:
        own, rider = split(message)
        if rider is None:
            return self._app(message, context)
        self.ridden.append(message.metadata.dst_node_id)
        tried = self._app(rider, context)
        return joined(message, self._app(own, context), tried)


def grid(app: Splitting | None = None) -> FakeGrid:
    nodes = {node: {"partition-id": partition} for node, partition in NODES.items()}
    return FakeGrid(app or Splitting(client_app()), nodes)


def request(round: int = 1, clients=(0, 1, 2)) -> EvaluationRequest:
    return EvaluationRequest(
        round=round, clients=clients, models={"base": repeat(MODEL, len(clients))},
        adaptations=("none",),
    )  # fmt: skip


def names_only(on: FakeGrid) -> FakeGrid:
    """The app of the tests tells of a model that was not asked for: leave that out."""
    keep = edited(lambda c: [
        c[f"{before}{name}"].update({k: v[:1] for k, v in c[f"{before}{name}"].items()})
        for before in ("", "rider.") for name in (records.ROWS, records.LABELS)
        if f"{before}{name}" in c
    ])  # fmt: skip
    for node in NODES:
        on.faults["train", node] = on.faults["evaluate", node] = keep
    return on


def round_of(on: FakeGrid, trained=(0, 1, 2), tried=(0, 1, 2), *, riding: bool = True):
    """A trial of round 1 and the training of round 2: their answers, in the server's order."""
    clients = client_pool(on)
    clients.ready()
    on.sent.clear()
    results = clients.evaluate(request(1, tried))
    if not riding:
        results = iter(list(results))
    sent = Sent(trained, repeat(MODEL, len(trained)), {"server-round": 2})
    updates = clients.ask("train", 2, sent, MODEL)
    results = list(results)  # as the federation does, before the first update is taken in
    return results, list(updates)


def facts(results, updates):
    return (
        [(a.clients, repr(a.rows), a.failures) for a in results],  # NaN equals nothing
        [(a.clients, a.failures, a.update and a.update.weights["w"].tolist()) for a in updates],
    )


def test_both_answers_are_those_of_two_exchanges_and_each_node_gets_one_message():
    together, apart = names_only(grid()), names_only(grid())
    assert facts(*round_of(together)) == facts(*round_of(apart, riding=False))
    assert sorted(together.sent) == sorted(("train", node) for node in NODES)
    assert len(apart.sent) == 6


@pytest.mark.parametrize(
    ("trained", "tried"), [((0, 2), (0, 1, 2)), ((0, 1, 2), (1,)), ((0,), (1, 2))]
)
def test_who_is_asked_for_one_of_them_gets_that_one_in_the_same_exchange(trained, tried):
    on, apart = names_only(grid()), names_only(grid())
    assert facts(*round_of(on, trained, tried)) == facts(
        *round_of(apart, trained, tried, riding=False)
    )
    partitions = {partition: node for node, partition in NODES.items()}
    expected = [("train", partitions[d]) for d in trained]
    expected += [("evaluate", partitions[d]) for d in tried if d not in trained]
    assert sorted(on.sent) == sorted(expected)


@pytest.mark.parametrize("message", ["train", "evaluate"])
def test_who_answers_one_of_them_only_is_not_asked_for_the_other(message):
    app = Splitting(client_app())
    on, apart = names_only(grid(app)), names_only(grid())
    for each in (on, apart):
        each.faults["query.hello", 17] = edited(
            lambda c: c["config"].update({"egress-messages": [message]})
        )
    found = facts(*round_of(on))
    assert found == facts(*round_of(apart, riding=False))
    refused = [failures for _, _, failures in found[0] if failures]
    refused += [failures for _, failures, _ in found[1] if failures]
    assert [list(failures) for failures in refused] == [[1]]
    assert [kind for kind, node in on.sent if node == 17] == [message]
    assert sorted(app.ridden) == sorted({*NODES} - {17})


def test_large_answers_are_asked_for_some_at_a_time_and_no_trial_rides(monkeypatch):
    on = names_only(grid())
    with monkeypatch.context() as patch:
        patch.setattr(memory, "AT_ONCE", 1)
        found = facts(*round_of(on))
    assert found == facts(*round_of(names_only(grid())))
    assert sorted(on.sent) == sorted(
        (kind, node) for node in NODES for kind in ("evaluate", "train")
    )


def test_a_trial_that_nothing_follows_is_asked_for_by_itself():
    on = names_only(grid())
    clients = client_pool(on)
    clients.ready()
    on.sent.clear()
    assert [a.clients for a in clients.evaluate(request())] == [(0,), (1,), (2,)]
    assert {kind for kind, _ in on.sent} == {"evaluate"}
    on.sent.clear()
    sent = Sent((0,), repeat(MODEL, 1), {"server-round": 2})
    list(clients.ask("train", 2, sent, MODEL))
    assert on.sent == [("train", 901)]


def error_in(part: str):
    """One part of a joined answer becomes an error."""

    def change(content: RecordDict) -> None:
        content[RIDING] = ConfigRecord({f"{part}-code": 900, f"{part}-reason": "crash:KeyError"})
        gone = [n for n in content if n != RIDING and n.startswith("rider.") == (part == "rider")]
        for name in gone:
            del content[name]

    return edited(change)


def test_an_error_in_one_part_is_an_error_of_that_part_alone():
    on = names_only(grid())
    on.faults["train", 17] = error_in("rider")
    results, updates = round_of(on)
    assert results[1].failures == {1: Failure("error", "crash:KeyError")}
    assert updates[1].clients == (1,)
    on.faults["train", 17] = error_in("own")
    results, updates = round_of(on)
    assert updates[1].failures == {1: Failure("error", "crash:KeyError")}


@pytest.mark.parametrize(("fault", "outcome"), [
    (lambda reply: None, "late"),
    (failed(901, "timeout"), "error"),
    (edited(lambda c: c.pop(RIDING)), "error"),
    (edited(lambda c: c[RIDING].update({"rider-code": "x", "own-code": 2.5})), "error"),
])  # fmt: skip
def test_a_client_without_a_proper_answer_has_neither_and_the_others_go_on(fault, outcome):
    on = names_only(grid())
    on.faults["train", 530] = fault
    results, updates = round_of(on)
    for answers in (results, updates):
        assert [a.clients for a in answers] == [(0,), (1,), ()]
        assert answers[2].failures[2].outcome == outcome


def test_parts_come_out_as_they_went_in():
    own = records.request({"arrays": records.array_record({"w": torch.ones(2)})}, {"a": 1})
    rider = records.request({"arrays": records.array_record({"w": torch.zeros(2)})}, {"b": 2})
    message = Message(with_rider(own, rider), 7, "train", group_id="3")
    first, second = split(message)
    assert (first.metadata.message_type, second.metadata.message_type) == ("train", "evaluate")
    assert first.metadata.group_id == second.metadata.group_id == "3"
    assert dict(first.content) == dict(own)
    assert dict(second.content) == dict(rider)
    alone = Message(own, 7, "train")
    assert split(alone) == (alone, None)
    answer = Message(own, reply_to=first)
    error = Message(Error(900, "crash:X"), reply_to=second)
    back = parted(joined(message, answer, error))
    assert dict(back[0].content) == dict(own)
    assert (back[1].error.code, back[1].error.reason) == (900, "crash:X")


def test_the_model_that_came_is_tried_before_it_is_trained(monkeypatch):
    """Afterwards the client's state would be that of the next round."""
    from fedadapt.flower.client_app import RunClientApp

    order = []

    def answered(self, message: Message, context) -> Message:
        order.append(message.metadata.message_type)
        return Message(message.content, reply_to=message)

    monkeypatch.setattr(RunClientApp, "_answered", answered)
    content = records.request({}, {"a": 1})
    RunClientApp()(Message(with_rider(content, content), 7, "train"), None)
    assert order == ["evaluate", "train"]
