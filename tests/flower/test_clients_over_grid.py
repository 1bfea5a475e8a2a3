"""Clients behind a Grid that fail in every way a message can."""

import json

import pytest
import torch
from fake_grid import FakeGrid, edited, failed
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedadapt import __version__
from fedadapt.config import RunConfig
from fedadapt.errors import InputError, QuorumLostError
from fedadapt.flower import nodes as grid_nodes
from fedadapt.flower import records
from fedadapt.flower.clients_over_grid import GridClients, check_as_asked, count_clients
from fedadapt.flower.roll_call import BenchmarkRollCall
from fedadapt.flower.run_facts import memory
from fedadapt.flower.software import software
from fedadapt.messages import Failure, Sent
from fedadapt.records import HELD_OUT, Evaluation, EvaluationFailure
from fedadapt.server.client_pool import EvaluationRequest
from fedadapt.weights import repeat, stack

pytestmark = pytest.mark.usefixtures("flower_identity")

NODES = {901: 0, 17: 1, 530: 2}  # node id -> partition
MODEL = {"w": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(4)}
MANIFEST = "ab" * 32


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(grid_nodes, "POLL", 0.001)


def client_app() -> ClientApp:
    """Client d adds d + 1 to every weight and says it has 10 (d + 1) examples."""
    app = ClientApp()

    @app.query("count")
    def count(message: Message, context) -> Message:
        return Message(records.request({}, {"clients": 3}), reply_to=message)

    @app.query("hello")
    def hello(message: Message, context) -> Message:
        partition = context.node_config["partition-id"]
        told = {**software(), "partition-id": partition,
                "manifest": MANIFEST, "num-examples": 10 * (partition + 1)}  # fmt: skip
        return Message(records.request({}, told), reply_to=message)

    @app.train()
    def train(message: Message, context) -> Message:
        by = context.node_config["partition-id"] + 1
        got = records.tensors(message.content["arrays"])
        new = {"w": got["w"] + by, "count": got["count"]}
        numbers = MetricRecord({"num-examples": 10 * by, "loss": 1.0 / by})
        content = RecordDict({"arrays": records.array_record(new), "metrics": numbers})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context) -> Message:
        client = context.node_config["partition-id"]
        names = sorted(message.content.array_records)
        rows = [
            Evaluation(1, client, json.dumps(names), True, model, method, "test", 7, 0.5, 0.1)
            for model in ("base", "personal")
            for method in records.settings(message.content)["adaptations"]
        ]
        return Message(records.rows_record(rows), reply_to=message)

    return app


def grid() -> FakeGrid:
    nodes = {node: {"partition-id": partition} for node, partition in NODES.items()}
    return FakeGrid(client_app(), nodes)


def client_pool(on: FakeGrid, **settings) -> GridClients:
    given = {"clients": 3, "node_wait": 0.02, **settings}
    config = RunConfig(**given)
    return GridClients(on, config, BenchmarkRollCall(on, config, MANIFEST), ("a", "b", "c"))


def train(on: FakeGrid):
    clients = client_pool(on)
    clients.ready()
    sent = Sent((0, 1, 2), repeat(MODEL, 3), {"server-round": 1})
    return list(clients.ask("train", 1, sent, MODEL))


def test_each_client_is_sent_its_own_model_and_answers_for_itself():
    """Node ids are in another order than partitions, and replies in no order."""
    clients = client_pool(grid())
    clients.ready()
    models = [{"w": torch.full((2, 3), 10.0 * d), "count": torch.tensor(d)} for d in range(3)]
    sent = Sent((0, 1, 2), stack(models), {"server-round": 1})
    found = list(clients.ask("train", 1, sent, MODEL))
    assert [a.clients for a in found] == [(0,), (1,), (2,)]
    for d, answers in enumerate(found):
        assert torch.equal(answers.update.weights["w"], torch.full((1, 2, 3), 10.0 * d + d + 1))
        assert answers.update.weights["count"].tolist() == [d]
        assert answers.update.num_examples.tolist() == [10.0 * (d + 1)]
        assert answers.bytes_up == {d: 6 * 4 + 8 + 16}


def arrays(found):
    """A node that answers these arrays."""
    return edited(lambda c: c.update({"arrays": records.array_record(found)}))


@pytest.mark.parametrize(
    ("fault", "outcome", "reason"),
    [
        (lambda reply: None, "late", "no answer by the deadline"),
        (failed(1, "crash:ValueError"), "error", "crash:Val"),
        (failed(1), "error", "no reason"),
        (edited(lambda c: c.pop("arrays")), "rejected", "array records: none"),
        (edited(lambda c: c.pop("metrics")), "rejected", "metric records: none"),
        (edited(lambda c: c["metrics"].pop("num-examples")), "rejected", "num-examples: missing"),
        (edited(lambda c: c["metrics"].update({"num-examples": -5})), "rejected", "is -5"),
        (edited(lambda c: c["metrics"].update({"loss": float("nan")})), "rejected", "'loss'"),
        (edited(lambda c: c.update({"more": MetricRecord({"x": 1})})), "rejected", "'more'"),
        (arrays({"w": MODEL["w"]}), "rejected", "missing 'count'"),
        (arrays(MODEL | {"w": torch.ones(1)}), "rejected", "shape (1,), expected (2, 3)"),
        (arrays(MODEL | {"w": MODEL["w"] / 0}), "rejected", "NaN or infinite"),
        (arrays(MODEL | {"w": MODEL["w"] + 3e38}), "rejected", "6 of 6 values beyond 1e+12"),
        (edited(lambda c: c["metrics"].update({"num-examples": 10**12})), "rejected",
         "num-examples: 1e+12, but the client announced 20 before the run"),
    ],
)  # fmt: skip
def test_a_bad_reply_is_that_client_s_and_nobody_else_s(fault, outcome, reason):
    on = grid()
    on.faults["train", 17] = fault
    good, bad, also_good = train(on)
    assert good.clients == (0,)
    assert also_good.clients == (2,)
    assert bad.clients == ()
    assert bad.update is None
    [(client, failure)] = bad.failures.items()
    assert (client, failure.outcome) == (1, outcome)
    assert reason in failure.reason


def weights(on: FakeGrid, **settings) -> list[float]:
    """By which each client's answer counts, in client order."""
    clients = client_pool(on, **settings)
    clients.ready()
    sent = Sent((0, 1, 2), repeat(MODEL, 3), {"server-round": 1})
    return [a.update.num_examples.item() for a in clients.ask("train", 1, sent, MODEL)]


def examples(count: float):
    return edited(lambda c: c["metrics"].update({"num-examples": count}))


def test_a_client_never_weighs_more_than_it_said_before_the_run():
    """New images are no lie, but they count in the next run only."""
    on = grid()
    on.faults["train", 17] = examples(27)
    assert weights(on) == [10, 20, 30]
    on.faults["train", 17] = examples(3)
    assert weights(on) == [10, 3, 30]


@pytest.mark.parametrize(("told", "is_growth"), [(40, True), (41, False)])
def test_up_to_twice_as_many_images_are_growth_and_more_are_a_lie(told, is_growth):
    on = grid()
    on.faults["train", 17] = examples(told)
    outcomes = [failure.outcome for a in train(on) for failure in a.failures.values()]
    assert outcomes == ([] if is_growth else ["rejected"])


def test_a_client_that_lies_from_the_beginning_weighs_a_multiple_of_the_median_at_most(caplog):
    on = grid()
    on.faults["query.hello", 17] = edited(lambda c: c["config"].update({"num-examples": 10**9}))
    on.faults["train", 17] = examples(10**9)
    assert weights(on, max_weight_factor=1.5) == [10, 45, 30]
    assert weights(on) == [10, 10**9, 30]
    assert "client 1: says it has 1e+09 training images and weighs more than all" in caplog.text


class NumberedGrid(FakeGrid):
    """Gives each message a number, as Flower does; what the SuperLink answers comes from node 1."""

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"message-{number}"
        return super().send_and_receive(messages, timeout=timeout)


def by_superlink(code: int, reason: str):
    """The SuperLink's error in the stead of a client: who is meant, only the message says."""

    def fault(reply: Message) -> Message:
        error = failed(code, reason)(reply)
        error.metadata.__dict__["_src_node_id"] = 1
        asked = reply.metadata.reply_to_message_id
        error.metadata.__dict__["_reply_to_message_id"] = asked
        return error

    return fault


@pytest.mark.parametrize(
    ("code", "outcome"), [(3, "late"), (4, "late"), (5, "lost"), (0, "error"), (8, "error")]
)
def test_an_error_of_the_superlink_keeps_its_reason_in_one_line(code, outcome):
    on = NumberedGrid(client_app(), grid().nodes)
    on.faults["train", 17] = by_superlink(code, "Error: Node\nUnavailable \x1b[31m" + "x" * 400)
    good, bad, also_good = train(on)
    assert (good.clients, also_good.clients) == ((0,), (2,))
    assert bad.failures[1].outcome == outcome
    assert bad.failures[1].reason.startswith("Error: Node Unavailable ?[31mxxx")
    assert len(bad.failures[1].reason) == 300


def hello(**changes):
    """A client that says something else of itself."""
    return edited(lambda c: c["config"].update(changes))


def unsaid(name: str):
    return edited(lambda c: c["config"].pop(name))


MISFITS = [
    (hello(version="0.0.9"), f"node 17: fedadapt '0.0.9', the server '{__version__}'"),
    (hello(code="12ab"), "node 17: code of fedadapt '12ab', the server '"),
    (hello(flwr="1.2"), "node 17: flwr '1.2', the server '"),
    (hello(manifest="cd"), "node 17: its data assignment is 'cd', the server's 'abab"),
    (hello(**{"partition-id": "x"}), "node 17: its partition-id is 'x'; it must be a number"),
    (hello(**{"partition-id": -1}), "node 17: its partition-id is -1; it must be a number"),
    (hello(**{"partition-id": True}), "node 17: its partition-id is True; it must be a num"),
    (hello(**{"partition-id": 3}), "node 17: its partition-id 3 is not below clients=3"),
    (unsaid("partition-id"), "node 17: its partition-id is None"),
    (unsaid("version"), "node 17: fedadapt 'nothing', the server"),
    (unsaid("manifest"), "node 17: its data assignment is None, the server's"),
    (unsaid("num-examples"), "node 17: it does not say how many training images it has"),
    (hello(**{"num-examples": True}), "node 17: it does not say how many training images"),
    (hello(**{"num-examples": 0}), "node 17: it says it has 0 training images; it must be above"),
    (hello(**{"num-examples": float("nan")}), "node 17: it says it has nan training images"),
    (failed(1, "egress: 'policy' cannot be read on this device"), "'policy' cannot be read"),
    (failed(1, "crash:X incident=12"), "client at node 17: crash:X incident=12"),
    (failed(1, "evil\n\x1b[2J"), "client at node 17: evil ?[2J"),
    (failed(1, "refused:no-images incident=12"), "its folder of pictures is missing, empty or"),
    (lambda reply: None, "node 17: no answer by the deadline"),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "line"), MISFITS)
def test_a_client_that_does_not_fit_is_named_and_left_out_and_the_others_begin(fault, line, caplog):
    on = grid()
    on.faults["query.hello", 17] = fault
    assert client_pool(on).ready() == [0, 2]
    assert line in caplog.text
    assert "\x1b" not in caplog.text


def test_all_differences_of_a_client_are_named_at_once(caplog):
    on = grid()
    on.faults["query.hello", 17] = hello(version="0.0.9", manifest="cd", flwr="1.2")
    client_pool(on).ready()
    assert all(word in caplog.text for word in ("fedadapt '0.0.9'", "flwr '1.2'", "'cd'"))


def test_another_torch_is_told_and_forbids_nothing(caplog):
    on = grid()
    on.faults["query.hello", 17] = hello(torch="1.0")
    assert client_pool(on).ready() == [0, 1, 2]
    assert "client 1 runs torch '1.0', the server" in caplog.text


def test_of_two_nodes_with_one_partition_one_is_left_out(caplog):
    """Both hold the same data; which of them takes part does not depend on who answers first."""
    on = grid()
    on.faults["query.hello", 901] = hello(**{"partition-id": 1})
    assert client_pool(on).ready() == [1, 2]
    assert "node 901: holds partition 1, as node 17 does; give each client its own" in caplog.text


def test_without_a_quorum_the_run_ends_and_names_everybody():
    on = grid()
    on.faults["query.hello", 17] = hello(version="0.0.9")
    on.faults["query.hello", 901] = failed(1, "refused:no-state-dir incident=1")
    with pytest.raises(QuorumLostError) as lost:
        client_pool(on).ready()
    assert "1 of 3 clients can take part, 2 needed" in str(lost.value)
    assert "node 17: fedadapt '0.0.9'" in str(lost.value)
    assert "node 901: its owner has not said where it may write" in str(lost.value)
    assert "\n" not in str(lost.value)


def test_more_nodes_than_clients_are_left_alone():
    on = grid()
    assert client_pool(on, clients=2).ready() == [0, 1]


def test_it_waits_only_so_long_and_begins_with_a_quorum():
    assert client_pool(grid(), clients=5).ready() == [0, 1, 2]
    with pytest.raises(QuorumLostError, match=r"3 of 7 clients after 0\.02 s, 4 needed; start"):
        client_pool(grid(), clients=7).ready()


def test_it_waits_for_those_who_come_later():
    """Flower registers nodes one by one while the server already runs."""
    on = grid()
    looks = iter([set(), {901}, {901, 17}])
    everybody = set(on.nodes)
    on.get_node_ids = lambda: next(looks, everybody)
    assert client_pool(on, node_wait=5.0).ready() == [0, 1, 2]


def test_any_node_knows_how_many_there_are():
    on = grid()
    assert count_clients(on, RunConfig(clients=0, node_wait=0.02)) == 3


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (lambda reply: None, "no answer by the deadline"),
        (failed(1, "crash:X"), "crash:X"),
        (failed(1), "no reason"),
        (hello(clients=0), "they say 0"),
        (hello(clients="many"), "they say 'many'"),
        (unsaid("clients"), "they say None"),
    ],
)
def test_nodes_that_do_not_know_how_many_there_are_end_the_run_in_words(fault, why):
    on = grid()
    on.faults["query.count", 17] = fault
    with pytest.raises(InputError) as refused:
        count_clients(on, RunConfig(clients=0, node_wait=0.02))
    assert str(refused.value) == (
        f"clients: 0, and the nodes do not know how many ({why}); give their number"
    )


def request(**changes) -> EvaluationRequest:
    models = {"base": repeat(MODEL, 3), "personal": stack([MODEL] * 3)}
    return EvaluationRequest(1, (0, 1, 2), models, ("none", "kd"), **changes)


def test_evaluations_say_what_was_asked():
    on = grid()
    clients = client_pool(on)
    clients.ready()
    found = list(clients.evaluate(request(pooled={"kd": {"w": MODEL["w"]}})))
    assert [a.clients for a in found] == [(0,), (1,), (2,)]
    told = [records.rows(reply.content, 1, 0)[0].kind for reply in on.replies[-3:]]
    assert [json.loads(kind) for kind in told] == [["arrays", "personal", "pooled.kd"]] * 3
    assert [a.rows[0].kind for a in found] == ["a", "b", "c"]  # what the server calls them
    assert [r.label for r in found[1].rows] == ["base", "base+kd", "personal", "personal+kd"]
    assert [a.rows[0].client for a in found] == [0, 1, 2]


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (lambda reply: None, "late"),
        (failed(1, "crash:X"), "error"),
        (edited(lambda c: c.pop("labels")), "rejected"),
        (edited(lambda c: c["rows"].update({"accuracy": [1.5] * 4})), "rejected"),
        (edited(lambda c: c["rows"].update({"accuracy": [0.5] * 5})), "rejected"),
        (edited(lambda c: c["rows"].update({"num-examples": [0] * 4})), "rejected"),
        (edited(lambda c: c["labels"].update({"kind": [1] * 4})), "rejected"),
        (edited(lambda c: c["labels"].update({"model": ["base"] * 4})), "rejected"),
        (edited(lambda c: c["labels"].update({"adaptation": ["none"] * 4})), "rejected"),
        (edited(lambda c: c["labels"].update({"split": ["global"] * 4})), "rejected"),
        (edited(lambda c: c["rows"].update({"loss": 0.5})), "rejected"),
        (edited(lambda c: c.update({"labels": ConfigRecord()})), "rejected"),
    ],
)
def test_a_bad_evaluation_is_that_client_s(fault, outcome):
    on = grid()
    clients = client_pool(on)
    clients.ready()
    on.faults["evaluate", 530] = fault
    found = list(clients.evaluate(request()))
    assert [a.clients for a in found] == [(0,), (1,), ()]
    [(client, failure)] = found[2].failures.items()
    assert (client, failure.outcome) == (2, outcome)


ASKED = [("base", "none"), ("base", "kd"), ("personal", "none"), ("personal", "kd")]


def told(*changes, failed=()):
    """Rows for all that was asked for, but for those that failed; and ``changes`` more."""
    row = Evaluation(1, 0, "a", True, "base", "none", "test", 7, 0.5, 0.1)
    rows = [row._replace(model=m, adaptation=a) for m, a in ASKED if (m, a) not in failed]
    return [*rows, *(row._replace(**change) for change in changes)]


def failures(*pairs):
    return [EvaluationFailure(1, 0, *pair, "crash:ValueError") for pair in pairs]


@pytest.mark.parametrize(
    ("rows", "failed", "asked"),
    [
        (told(), [], {}),
        (told(failed=[("base", "kd")]), failures(("base", "kd")), {}),
        (told({"split": "global"}), [], {"on_global": True}),
        (told({"split": "adapt"}, {"epoch": 1}), [], {"curves": True}),
        (told({"split": HELD_OUT}), [], {"held_out": True}),
    ],
)
def test_results_of_all_that_was_asked_for_are_taken(rows, failed, asked):
    check_as_asked(rows, failed, request(**asked))


@pytest.mark.parametrize(
    ("rows", "failed", "asked"),
    [
        (told()[:-1], [], {}),  # one is missing, and nothing is said of it
        (told(), failures(("base", "kd")), {}),  # one has a result and has failed
        (told(), failures(("served", "none")), {}),  # one has failed that nobody asked for
        (told(failed=[("base", "kd")]), failures(*[("base", "kd")] * 2), {}),
        (told({}), [], {}),  # one is there twice
        (told({"model": "served"}), [], {}),
        (told({"split": "global"}), [], {}),
        (told({"split": "adapt"}), [], {}),
        (told({"split": HELD_OUT}), [], {}),
        (told({"epoch": 1}), [], {}),
        (told({"epoch": 1, "model": "served"}), [], {"curves": True}),
    ],
)
def test_results_of_anything_else_are_refused(rows, failed, asked):
    with pytest.raises(ValueError, match="not of the models and adaptations asked for"):
        check_as_asked(rows, failed, request(**asked))


def test_what_clients_keep_is_on_their_own_disks():
    assert client_pool(grid()).states() == {}


def test_large_answers_are_asked_for_some_at_a_time(monkeypatch):
    """So that no more than a bound is in memory; the results are those of all at once."""
    with monkeypatch.context() as patch:
        patch.setattr(memory, "AT_ONCE", 2 * (6 * 4 + 8))  # two of three answers
        found = train(grid())
    assert [a.clients for a in found] == [(0,), (1,), (2,)]
    for some, wanted in zip(found, train(grid()), strict=True):
        assert torch.equal(some.update.weights["w"], wanted.update.weights["w"])
    assert memory.asked_at_once(0) > 10**6
    assert memory.asked_at_once(2**40) == 1


def test_clients_are_asked_portion_by_portion(monkeypatch):
    monkeypatch.setattr(memory, "AT_ONCE", 1)
    on = grid()
    clients = client_pool(on)
    clients.ready()
    stream = clients.ask("train", 1, Sent((0, 1, 2), repeat(MODEL, 3), {}), MODEL)
    next(stream)
    assert [kind for kind, _ in on.sent].count("train") == 1
    next(stream)
    assert [kind for kind, _ in on.sent].count("train") == 2


def test_a_client_whose_node_is_not_there_is_late():
    """A strategy may ask for one that took part before the server went on."""
    on = grid()
    on.faults["query.hello", 17] = lambda reply: None
    clients = client_pool(on)
    assert clients.ready() == [0, 2]
    found = list(clients.ask("train", 1, Sent((0, 1, 2), repeat(MODEL, 3), {}), MODEL))
    assert found[1].failures == {1: Failure("late", "its node is not there")}
    assert (found[0].clients, found[2].clients) == ((0,), (2,))


def test_the_estimate_of_memory_counts_what_is_held():
    vgg = 36_900_000
    assert memory.memory_estimate(vgg, 5, compared=False) == (
        "answers of 36.9 MB from 5 clients, all at once: about 554 MB of memory here"
    )
    many = memory.memory_estimate(vgg, 100, compared=True)
    assert "29 at a time, in 4 portions: about 6,900 MB" in many
    assert "max-update-factor" in many
