"""What leaves a client: what is declared and its owner allows, in the ledger before it is sent."""

import logging
import os
from dataclasses import replace

import over_grid
import pytest
import tiny
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from over_grid import Driven, OneClient

from fedadapt.client.differential_privacy import Guarantee
from fedadapt.client.egress.ledger import Ledger
from fedadapt.client.egress.policy import Policy
from fedadapt.client.failures import guard
from fedadapt.flower import egress as seam
from fedadapt.flower import records
from fedadapt.flower.egress import Declared, Device, Egress
from fedadapt.flower.grid_over_clients import flower_identity
from fedadapt.server.checks import Expected
from fedadapt.simulations.assembly import assemble
from fedadapt.simulations.worker import Worker

SPARSITY = {"layer": "first", "channels": [0, 1, 2], "epsilon": 0.0}


@pytest.fixture(autouse=True)
def _task(monkeypatch, caplog):
    caplog.set_level(logging.CRITICAL)
    tiny.without_pictures(monkeypatch)
    assemble.cache_clear()
    with flower_identity():
        yield


# The filter, around an app that answers anything


OPEN = Policy()


WEIGHTS = {"w": torch.zeros(2, 3), "n": torch.tensor(3)}
DECLARED = Declared(
    {"arrays": Expected.of(WEIGHTS), "report": Expected.of({"r": torch.zeros(4)})},
    frozenset({"loss"}),
)


def through(content: RecordDict, policy: Policy = OPEN, ledger=None, kind="train") -> Message:
    """What leaves, where the app answers ``content``."""
    app = ClientApp(mods=[Egress(lambda context: Device(policy, ledger), lambda *_: DECLARED),
                          guard])  # fmt: skip

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(content, reply_to=message)

    message = Message(RecordDict(), 1, kind)
    return app(message, Context(7, 1, {}, RecordDict(), {}))


def honest(**changes) -> RecordDict:
    numbers = {"num-examples": 36, "loss": 0.123456}
    content = RecordDict(
        {
            "arrays": records.array_record(WEIGHTS),
            "metrics": MetricRecord(numbers),
            "report": records.array_record({"r": torch.ones(4)}),
        }
    )
    for name, record in changes.items():
        content[name] = record
    return content


def test_what_is_declared_leaves_as_it_is():
    sent = through(honest()).content
    assert sent == honest()


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("pictures", ArrayRecord({"x": Array(torch.zeros(9).numpy())})),
        ("words", ConfigRecord({"file": "IMG_0001.jpg"})),
        ("more", MetricRecord({"secret": 1.5})),
        ("report", MetricRecord({"r": [0.5] * 999})),  # of another type than is declared
        ("arrays", ConfigRecord({"w": "patient.csv"})),
    ],
)
def test_a_record_that_is_not_declared_stays_and_is_counted(name, record):
    content = honest()
    content.pop(name, None)
    content[name] = record
    sent = through(content).content
    assert name not in sent
    assert sent[seam.WITHHELD] == ConfigRecord({"parts": 1})


def test_an_array_or_a_number_that_is_not_declared_stays():
    content = honest()
    content["arrays"]["picture"] = Array(torch.ones(9).numpy())
    content["metrics"]["second"] = 3.0
    content["metrics"]["loss"] = [0.5] * 100  # a list is no number
    sent = through(content).content
    assert set(sent["arrays"]) == {"w", "n"}
    assert sent["metrics"] == MetricRecord({"num-examples": 36})
    assert sent[seam.WITHHELD] == ConfigRecord({"parts": 3})


@pytest.mark.parametrize(
    "array",
    [
        Array(torch.zeros(3, 3).numpy()),
        Array(torch.zeros(2, 3).double().numpy()),
        Array(dtype="float32", shape=(2, 3), stype="numpy.ndarray", data=b"patient.csv"),
        Array(dtype="float32", shape=(2, 3), stype="pickle",
              data=Array(torch.zeros(2, 3).numpy()).data),
        Array(dtype="float32", shape=(2, 3), stype="numpy.ndarray",
              data=Array(torch.zeros(2, 3).numpy()).data + b"patient.csv"),
    ],
)  # fmt: skip
def test_an_array_of_another_shape_or_with_something_behind_it_refuses_the_answer(array):
    content = honest()
    content["arrays"]["w"] = array
    reply = through(content)
    assert reply.error == Error(906, "egress: 'undeclared' is not allowed on this device")
    assert not reply.has_content()


def test_a_message_that_the_owner_does_not_allow_is_not_even_computed():
    reply = through(None, Policy(messages=frozenset({"evaluate"})))
    assert reply.error == Error(906, "egress: 'train' is not allowed on this device")


@pytest.mark.parametrize(
    ("counts", "told"), [("exact", {"num-examples": 36, "loss": 0.123456}),
                         ("rounded", {"num-examples": 40, "loss": 0.12}), ("none", {"loss": 0.12})]
)  # fmt: skip
def test_the_number_of_examples_is_told_as_the_owner_says(counts, told):
    assert dict(through(honest(), Policy(num_examples=counts)).content["metrics"]) == told


def test_no_metrics_means_none():
    assert through(honest(), Policy(metrics=False)).content["metrics"] == MetricRecord(
        {"num-examples": 36}
    )


@pytest.mark.parametrize(
    ("reason", "leaves"),
    [
        ("crash:ValueError incident=0123456789ab", True),
        ("refused:no-leave", True),
        ("egress: 'epsilon' is spent on this device", True),
        ("ValueError: /home/pi/pictures/IMG_1.jpg", False),
        ("crash:ValueError incident=0123456789ab /home", False),
        ("crash:ValueError\nincident=0123456789ab", False),
        ("", False),
        (None, False),
    ],
)
def test_an_error_is_of_fixed_words_whoever_made_it(reason, leaves):
    def call(message, context):
        return Message(Error(900, reason), reply_to=message)

    mod = Egress(lambda context: Device(Policy(), None), lambda *_: DECLARED)
    reply = mod(Message(RecordDict(), 1, "train"), Context(7, 1, {}, RecordDict(), {}), call)
    assert reply.error.reason == (reason if leaves else "crash:Exception")


@pytest.mark.parametrize("broken", ["device", "declared", "content"])
def test_where_nothing_can_be_checked_nothing_leaves(broken):
    def fail(*_):
        raise ValueError("/home/pi/secret")

    device = fail if broken == "device" else lambda context: Device(Policy(), None)
    declared = fail if broken == "declared" else lambda *_: DECLARED
    content = None if broken == "content" else honest()

    def call(message, context):
        return Message(content, reply_to=message) if content else object()

    mod = Egress(device, declared)
    reply = mod(Message(RecordDict(), 1, "train"), Context(7, 1, {}, RecordDict(), {}), call)
    assert not reply.has_content()
    what = "'policy' cannot be read" if broken == "device" else "'answer' cannot be checked"
    assert reply.error == Error(906, f"egress: {what} on this device")


# The ledger


def test_the_entry_is_there_before_the_message_is_sent_and_confirmed_after(tmp_path):
    ledger = Ledger(tmp_path, "2")
    reply = through(honest(pictures=ArrayRecord({"x": Array(torch.ones(9).numpy())})),
                    ledger=ledger)  # fmt: skip
    [entry] = ledger.entries()
    assert not entry.confirmed
    left = sum(len(a.data) for r in ("arrays", "report") for a in reply.content[r].values())
    assert entry.bytes == left + 2 * 8 + 8  # loss and number of examples; what was withheld
    assert {(p.record, p.name, p.shape) for p in entry.parts if p.record == "arrays"} == {
        ("arrays", "w", (2, 3)), ("arrays", "n", ())
    }  # fmt: skip
    assert entry.withheld == ("pictures",)
    seam.confirm_handed_over()
    assert [e.confirmed for e in ledger.entries()] == [True]


def test_a_kill_between_writing_and_sending_leaves_an_unconfirmed_entry(tmp_path):
    ledger = Ledger(tmp_path, "2")
    child = os.fork()
    if child == 0:
        through(honest(), ledger=ledger)
        os._exit(137)  # as kill -9: Flower never got the reply
    os.waitpid(child, 0)
    through(honest(), ledger=ledger)
    seam.confirm_handed_over()
    assert [entry.confirmed for entry in ledger.entries()] == [False, True]


def test_what_cannot_be_entered_is_not_sent(tmp_path):
    (tmp_path / "ledger").write_text("in the way")
    reply = through(honest(), ledger=Ledger(tmp_path, "2"))
    assert reply.error == Error(906, "egress: 'ledger' cannot be written on this device")


def test_refusals_and_failures_are_entered_too(tmp_path):
    ledger = Ledger(tmp_path, "2")
    through(honest(), Policy(messages=frozenset()), ledger)
    seam.confirm_handed_over()
    [entry] = ledger.entries()
    assert (entry.outcome, entry.bytes) == ("egress: 'train' is not allowed on this device", 0)


# Our ClientApp with an owner


def test_a_real_client_s_answers_are_in_its_ledger(tmp_path):
    some = OneClient(tmp_path)
    some.ask("query.hello")
    some.ask("train", experiment="ab" * 8, attempt=1, **{"goes-on-after": 0, "server-round": 3})
    hello, train = some.entries
    assert (hello.type, hello.confirmed) == ("query.hello", True)
    assert (train.run, train.round, train.type, train.outcome) == ("ab" * 8, 3, "train", "answer")
    names = {part.name for part in train.parts if part.record == "arrays"}
    assert names == some.assembly.model.state_dict().keys()


def test_hello_says_what_the_policy_does_not_allow(tmp_path):
    some = OneClient(tmp_path, 'num-examples = "none"\nmessages = ["train"]')
    told = records.settings(some.ask("query.hello").content)
    assert "num-examples" not in told
    assert told["egress-num-examples"] == "none"
    assert told["egress-messages"] == ["train"]


def test_a_policy_that_is_wrong_lets_nothing_out(tmp_path):
    some = OneClient(tmp_path, "metrics = maybe")
    for kind in ("query.hello", "train"):
        reason = some.ask(kind).error.reason
        assert reason == "egress: 'policy' cannot be read on this device"


def test_a_strategy_that_adds_to_its_answer_gets_it_dropped(tmp_path, monkeypatch):
    some = OneClient(tmp_path)
    whole = Worker.answer

    def more(self, action, round, sent, states=()):
        update = whole(self, action, round, sent, states)
        spied = {"pictures": self._split(2).train.inputs[:1].reshape(1, -1)}
        return replace(update, report=spied, metrics=update.metrics | {"first": torch.ones(1)})

    monkeypatch.setattr(Worker, "answer", more)
    content = some.ask("train").content
    assert set(content) == {"arrays", "metrics", "report", seam.WITHHELD}
    assert len(content["report"]) == 0
    assert set(content["metrics"]) == {"num-examples", "loss"}
    [entry] = some.entries
    assert set(entry.withheld) == {"report/pictures", "metrics/first"}


def test_results_of_models_leave_as_the_owner_allows(tmp_path):
    asked = {"adaptations": ["none"], "on-global": False, "confidence": True}
    plain = OneClient(tmp_path / "a")
    exact = records.rows(plain.ask("evaluate", **asked).content, 1, 2)
    some = OneClient(tmp_path / "b", 'num-examples = "none"\neach-image = true')
    content = some.ask("evaluate", **asked).content
    [row] = records.rows(content, 1, 2)
    assert row.kind == ""
    assert row.num_examples == 100
    assert row.accuracy == round(exact[0].accuracy, 2)
    assert row.loss == round(exact[0].loss, 2) != exact[0].loss
    assert records.CONFIDENCES not in content  # they count the images
    some = OneClient(tmp_path / "c", "each-image = true")
    content = some.ask("evaluate", **asked).content
    assert records.rows(content, 1, 2) == exact
    assert len(records.confidences(content, 1, 2)) == 1
    some = OneClient(tmp_path / "d", "metrics = false")
    assert some.ask("evaluate", **asked).error.reason == (
        "egress: 'metrics' is not allowed on this device"
    )


@pytest.mark.parametrize(
    ("record", "column", "word"),
    [
        ("labels", "model", "picture-of-a-cat"),
        ("labels", "adaptation", "picture-of-a-cat"),
        ("labels", "split", "picture-of-a-cat"),
        ("failures", "model", "picture-of-a-cat"),
        ("labels", "more", "picture-of-a-cat"),
    ],
)
def test_results_of_what_nobody_asked_for_do_not_leave(tmp_path, monkeypatch, record, column, word):
    """Words of a hostile adaptation would be a way out."""
    whole = records.rows_record

    def spied(*results):
        content = whole(*results)
        if record == "failures":
            content[record] = ConfigRecord(
                {"model": [word], "adaptation": ["none"], "reason": ["crash:ValueError"]}
            )
        else:
            content[record][column] = [word] * len(content[record]["model"])
        return content

    monkeypatch.setattr(records, "rows_record", spied)
    reply = OneClient(tmp_path).ask("evaluate", adaptations=["none"], **{"on-global": False})
    assert reply.error.reason == "egress: 'undeclared' is not allowed on this device"


def test_the_kind_of_a_client_does_not_leave_whoever_writes_it(tmp_path, monkeypatch):
    """It is the name of a domain folder, say, which is its owner's."""
    whole = records.rows_record

    def spied(*results):
        content = whole(*results)
        content["labels"]["kind"] = ["ward-7"] * len(content["labels"]["kind"])
        return content

    monkeypatch.setattr(records, "rows_record", spied)
    reply = OneClient(tmp_path).ask("evaluate", adaptations=["none"], **{"on-global": False})
    assert reply.content["labels"]["kind"] == [""]


# Epsilon


PRIVATE = {"strategy": "pfa", "strategy_args": "q=3 dp_epsilon=1.0", "normalization": "unit"}
BUDGET = "[privacy]\nepsilon = {}\ndelta = 1e-5"


def test_epsilon_is_spent_by_each_new_answer_over_runs_and_then_refused(tmp_path):
    most = Guarantee(1.0, 1e-5).after(2).epsilon
    # Many channels: of a few, which are cut off at 0 and 1, two draws may be the same by chance.
    private = PRIVATE | {"strategy_args": "q=16 dp_epsilon=1.0"}
    some = OneClient(tmp_path, BUDGET.format(most), **private)
    asked = {**SPARSITY, "channels": [*range(16)], "dp-epsilon": 1.0, "dp-delta": 1e-5}

    def sparsity(experiment):
        return some.ask(
            "query.sparsity", **asked, experiment=experiment, attempt=1, **{"goes-on-after": 0}
        )

    first = sparsity("one")
    again = sparsity("one")
    assert again.content["report"] == first.content["report"]  # the same answer is free
    second = sparsity("two")
    assert second.content["report"] != first.content["report"]
    for _ in range(2):  # what was refused is not kept, to be told for nothing the next time
        assert sparsity("three").error.reason == "egress: 'epsilon' is spent on this device"
    assert sparsity("two").content["report"] == second.content["report"]
    spent = [entry.epsilon for entry in some.entries]
    assert spent == pytest.approx([1.0, 0, most - 1.0, 0, 0, 0], abs=1e-6)


def test_what_a_budget_protects_does_not_leave_without_noise(tmp_path):
    some = OneClient(tmp_path, BUDGET.format(4.0),
                     **PRIVATE | {"strategy_args": "q=3"})  # fmt: skip
    assert some.ask("query.sparsity", **SPARSITY).error.reason == (
        "egress: 'sparsity' is not allowed without noise"
    )
    assert some.ask("train").has_content()  # has no mechanism, and its message is allowed


def test_a_kill_between_debit_and_send_forgets_no_epsilon(tmp_path, monkeypatch):
    some = OneClient(tmp_path, BUDGET.format(1.01), **PRIVATE)
    asked = {**SPARSITY, "dp-epsilon": 1.0, "dp-delta": 1e-5}
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(records, "answer", lambda update: os._exit(137))
        some.ask("query.sparsity", **asked, experiment="one", attempt=1, **{"goes-on-after": 0})
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 137
    reply = some.ask("query.sparsity", **asked, experiment="two", attempt=1, **{"goes-on-after": 0})
    assert reply.error.reason == "egress: 'epsilon' is spent on this device"


# The server works with what is left


def test_a_client_that_refuses_is_left_out_and_not_even_sent_the_model(tmp_path):
    run = Driven(tmp_path, [None, 'messages = ["evaluate"]'], rounds=1, adapt="none", clients=3)
    run.rounds(1)
    outcomes = {e.client: (e.outcome, e.reason) for e in run.communication if e.action == "train"}
    assert outcomes[1] == ("error", "egress: 'train' is not allowed on this device")
    assert outcomes[0][0] == outcomes[2][0] == "accepted"
    asked = [node for kind, node in run.grid.sent if kind == "train"]
    assert len(asked) == 2
    assert len([*run.evaluations()]) == 3


def test_where_one_client_does_not_tell_its_number_all_weigh_alike(tmp_path):
    """And it is in the summary. Client 0 has many times the images of the others."""
    changes = {"clients": 3, "rounds": 1, "adapt": "none", "quantity": "lognormal:1"}
    found = []
    for name, policies in (("told", []), ("untold", [None, 'num-examples = "none"'])):
        assemble.cache_clear()
        config = over_grid.settings(tmp_path / name / "out", **changes)
        nodes = over_grid.grid(config, tmp_path / name, policies)
        summary = over_grid.serve(nodes, config)
        found.append((summary, nodes, tiny.base(tmp_path / name / "out")))
    (told, nodes, weighted), (untold, _, uniform) = found
    assert "withheld" not in told
    assert untold["withheld"] == {
        "do not tell how many images they have; all clients weigh alike": 1
    }
    trained = [r.content["arrays"] for r in nodes.replies
               if r.metadata.message_type == "train"]  # fmt: skip
    mean = torch.stack([records.tensors(a)["head.weight"].double() for a in trained]).mean(0)
    torch.testing.assert_close(uniform["head.weight"].double(), mean, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(weighted["head.weight"].double(), mean, rtol=1e-3)


@pytest.mark.parametrize("every", [False, True])
def test_without_metrics_rows_are_missing_and_counted(tmp_path, every):
    """Also of all clients: the run is done, and says that there is nothing to tell."""
    policies = ["metrics = false"] * (3 if every else 1)
    config = over_grid.settings(
        tmp_path / "out", clients=3, rounds=1, adapt="none", global_test="none"
    )
    summary = over_grid.serve(over_grid.grid(config, tmp_path, policies), config)
    count = len(policies)
    assert summary["withheld"] == {"tell no metrics; their rows are missing": count}
    assert summary["refused"] == {"'metrics' is not allowed on this device": 3 * count}
    assert summary["clients_evaluated"] == 3 - count
