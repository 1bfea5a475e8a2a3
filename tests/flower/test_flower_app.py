"""The same app in Flower: asked directly, over a Grid in memory, and under a real ``flwr run``."""

import json
import logging
import math
import os
import re
from pathlib import Path

import pytest
import tiny
import torch
from fake_grid import FakeGrid, ask
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg
from flwr_command import flower_command, run_flower
from safetensors.torch import load_file

import fedadapt
from fedadapt.errors import FedadaptError
from fedadapt.flower.client_app import app
from fedadapt.flower.grid_over_clients import flower_identity
from fedadapt.flower.records import array_record, request, rows, settings, tensors
from fedadapt.flower.server_app import app as server
from fedadapt.flower.software import software
from fedadapt.simulations.assembly import assemble, initial
from fedadapt.simulations.results.parquet import read_communication, read_evaluations

NODES = (901, 17, 530, 88, 4, 2)  # node NODES[d] holds partition d


@pytest.fixture(autouse=True)
def _task(monkeypatch):
    tiny.without_pictures(monkeypatch)
    assemble.cache_clear()
    with flower_identity():
        yield


def run_config(folder: Path, **changes) -> dict:
    return tiny.config(out=str(folder), **changes).to_mapping()


def grid_of(config: dict, folder: Path, run_id: int = 1) -> FakeGrid:
    nodes = {
        node: {
            "partition-id": partition,
            "num-partitions": len(NODES),
            "state-dir": str(folder / f"disk-{partition}"),
        }
        for partition, node in enumerate(NODES)
    }
    return FakeGrid(app, nodes, config, run_id)


def run_server(grid: FakeGrid, config: dict) -> dict:
    """Run the ServerApp to its end; the summary in its folder."""
    server(grid, Context(1, 1, {}, RecordDict(), config))
    return json.loads((Path(config["out"]) / "summary.json").read_text())


# One client, asked directly


class Client:
    """Partition 2 of 6, and a network with batch norm."""

    def __init__(self, folder: Path, **changes) -> None:
        changes = {"model": tiny.NORM_MLP, "adapt": "none,adabn,ewc",
                   "adapt_args": "ewc.epochs=1", **changes}  # fmt: skip
        self.config = run_config(folder / "out", **changes)
        self.node_config = {"partition-id": 2, "num-partitions": 6, "state-dir": str(folder / "s")}
        self.assembly = assemble(tiny.config(out=self.config["out"], **changes))
        self.model = dict(self.assembly.model.state_dict())

    def ask(self, kind: str, content: RecordDict | None = None, **node_config) -> Message:
        message = Message(content or request({}, {}), 530, kind)
        return ask(app, message, 530, self.node_config | node_config, self.config)

    def told(self, **changes) -> RecordDict:
        return request({"arrays": array_record(self.model)}, {"server-round": 1, **changes})


@pytest.fixture
def client(tmp_path) -> Client:
    return Client(tmp_path)


def test_hello_says_who_it_is(client):
    assert settings(client.ask("query.hello").content) == {
        **software(),
        "partition-id": 2,
        "manifest": client.assembly.benchmark.manifest.hash,
        "num-examples": 36,
    }


def test_count_is_what_flower_says_where_the_run_does_not(tmp_path):
    some = Client(tmp_path)
    assert settings(some.ask("query.count").content) == {"clients": 6}
    some.config["clients"] = 0
    assert settings(some.ask("query.count", **{"num-partitions": 11}).content) == {"clients": 11}


def test_train_answers_with_a_model_of_the_same_names_and_what_it_cost(client):
    reply = client.ask("train", client.told())
    assert set(reply.content) == {"arrays", "metrics"}
    found = tensors(reply.content["arrays"])
    assert found.keys() == client.model.keys()
    assert not torch.equal(found["1.weight"], client.model["1.weight"])
    assert reply.content["metrics"]["num-examples"] == 36
    assert reply.content["metrics"].keys() == {"num-examples", "loss"}


def test_the_same_question_has_the_same_answer(client):
    """Also by a stock strategy, whatever it calls its records."""
    first, again = (client.ask("train", client.told()).content["arrays"] for _ in range(2))
    named = RecordDict(
        {"weights": array_record(client.model), "settings": ConfigRecord({"server-round": 1})}
    )
    stock = client.ask("train", named).content["arrays"]
    assert tiny.same_bits(tensors(first), tensors(again))
    assert tiny.same_bits(tensors(first), tensors(stock))
    later = client.ask("train", client.told(**{"server-round": 2})).content["arrays"]
    assert not tiny.same_bits(tensors(first), tensors(later))


def test_local_norms_stay_on_the_client_s_disk(tmp_path):
    """They are in its folder after training, come into the next answer, and never travel."""
    some = Client(tmp_path, batch_norm="local")
    before = some.ask("evaluate", some.told()).content["metrics"]["loss"]
    reply = some.ask("train", some.told())
    assert set(tensors(reply.content["arrays"])) == {"1.weight", "1.bias", "4.weight", "4.bias"}
    assert list((tmp_path / "s").rglob("*.safetensors"))
    after = some.ask("evaluate", some.told(**{"server-round": 2})).content["metrics"]["loss"]
    assert after != before  # the same model from the server, with the client's own norms


def test_models_stay_on_the_client_s_disk_and_can_be_loaded_there(tmp_path):
    """Those of the final evaluation, as it evaluated them: readable by their owner only."""
    folder = tmp_path / "out"
    config = run_config(
        folder, model=tiny.NORM_MLP, adapt="none,adabn", batch_norm="local", rounds=1
    )
    run_server(grid_of(config, tmp_path), config)
    written = {str(p.relative_to(folder / "models")) for p in (folder / "models").rglob("*.saf*")}
    assert written == {"base.safetensors"}
    last = [r for r in read_evaluations(folder) if (r.round, r.split) == (1, "test")]
    last = [r for r in last if r.model != "local"]  # trained for comparison, not kept
    assert len(last) == 6 * 2
    benchmark = assemble(tiny.config(out=str(folder))).benchmark
    for row in last:
        [disk] = (tmp_path / f"disk-{row.client}").glob("experiment-*/client-*")
        network = fedadapt.load(disk, row.client, row.adaptation)
        test = benchmark.split(row.client).test
        found = network(network.card.scaling(test.inputs)).argmax(1)
        assert (found == test.labels).double().mean() == row.accuracy
        [file] = disk.glob(f"models/{row.label}/*.safetensors")
        assert file.stat().st_mode & 0o077 == 0


def test_a_client_keeps_no_models_where_none_are_to_be_saved(tmp_path):
    config = run_config(tmp_path / "out", save_models="none", rounds=1)
    run_server(grid_of(config, tmp_path), config)
    assert list(tmp_path.rglob("models")) == []


def test_what_is_asked_after_training_is_asked_of_what_the_client_has_then(tmp_path):
    """As in one process. Only a round that is trained again begins with what was there before."""
    some = Client(tmp_path, batch_norm="local")

    def importance() -> dict[str, torch.Tensor]:
        return tensors(some.ask("query.ewc_fisher", some.told()).content["arrays"])

    def loss() -> float:
        return some.ask("evaluate", some.told()).content["metrics"]["loss"]

    before = importance(), loss()
    first = some.ask("train", some.told()).content["arrays"]
    after = importance(), loss()
    assert not tiny.same_bits(before[0], after[0])
    assert before[1] != after[1]
    again = some.ask("train", some.told()).content["arrays"]
    assert tiny.same_bits(tensors(first), tensors(again))


def test_a_model_with_nan_does_not_reach_what_the_client_keeps(tmp_path):
    some = Client(tmp_path, batch_norm="local")
    some.ask("train", some.told())
    states = {p: p.read_bytes() for p in (tmp_path / "s").rglob("*.safetensors")}
    sane = some.model
    some.model = sane | {"1.weight": sane["1.weight"] * math.nan}
    some.ask("train", some.told(**{"server-round": 2}))
    assert {p: p.read_bytes() for p in (tmp_path / "s").rglob("*.safetensors")} == states


def test_sparsity_is_told_by_channel_and_only_of_those_asked_for(tmp_path):
    some = Client(tmp_path, model="mlp", strategy="pfa", strategy_args="q=3",
                  adapt="none", adapt_args="")  # fmt: skip
    reply = some.ask("query.sparsity", some.told(layer="first", channels=[5, 0, 7], epsilon=0.0))
    assert set(reply.content) == {"report", "metrics"}
    assert reply.content["metrics"] == MetricRecord({"num-examples": 1.0})  # not how many it has
    vector = tensors(reply.content["report"])["sparsity"]
    assert vector.shape == (3,)
    assert ((vector >= 0) & (vector <= 1)).all()
    turned = some.told(layer="first", channels=[0, 5, 7], epsilon=0.0)
    other = tensors(some.ask("query.sparsity", turned).content["report"])["sparsity"]
    assert torch.equal(vector, other[[1, 0, 2]])


def test_queries_for_batch_norm_statistics_and_importance_answer_with_their_own_tensors(client):
    statistics = tensors(client.ask("query.moments", client.told()).content["arrays"])
    assert set(statistics) == {"2.running_mean", "2.running_var"}
    importance = tensors(client.ask("query.ewc_fisher", client.told()).content["arrays"])
    assert set(importance) == {n for n, _ in client.assembly.model.named_parameters()}
    assert all((t >= 0).all() for t in importance.values())


def test_evaluate_answers_with_rows_and_never_with_a_model(client):
    content = client.told(adaptations=["none", "adabn"], **{"on-global": True})
    content["pooled.ewc"] = array_record(client.model)
    reply = client.ask("evaluate", content)
    assert not reply.content.array_records
    found = rows(reply.content, 1, 2)
    assert [(r.label, r.split) for r in found] == [
        ("base", "test"), ("base", "global"), ("base+adabn", "test"), ("base+adabn", "global"),
    ]  # fmt: skip
    wanted = client.assembly.worker.evaluate(
        1, [2], {"base": {n: t[None] for n, t in client.model.items()}},
        adaptations=client.assembly.worker.adaptations[:2], on_global=True,
    ).rows  # fmt: skip
    assert found == [row._replace(kind="") for row in wanted]  # of its kind it does not speak


def test_a_composition_gets_the_answer_that_its_part_asked_for(tmp_path):
    some = Client(tmp_path, adapt="none,adabn+ewc")

    def loss(pooled: dict[str, torch.Tensor] | None = None) -> float:
        content = some.told(adaptations=["adabn+ewc"], **{"on-global": False})
        if pooled is not None:
            content["pooled.ewc"] = array_record(pooled)
        [row] = rows(some.ask("evaluate", content).content, 1, 2)
        assert row.label == "base+adabn+ewc"
        return row.loss

    assert loss() != loss({n: t.abs() for n, t in some.model.items()})


def test_training_alone_needs_no_weights_and_takes_those_that_are_sent(client):
    made = client.told(adaptations=["none"], **{"on-global": False, "on-client": ["local"]})
    del made["arrays"]
    sent = client.told(adaptations=["none"], **{"on-global": False, "on-client": []})
    del sent["arrays"]
    sent["local"] = array_record(initial(client.assembly.model))
    found = [rows(client.ask("evaluate", content).content, 1, 2) for content in (made, sent)]
    assert found[0] == found[1]
    assert [(r.label, r.split) for r in found[0]] == [("local", "test")]


def test_a_stock_strategy_s_evaluate_is_on_the_adapt_images(tmp_path):
    some = Client(tmp_path, adapt_share=0.3, test_share=0.1)
    metrics = some.ask("evaluate", some.told()).content["metrics"]
    assert metrics["num-examples"] == len(some.assembly.benchmark.split(2).adapt) == 18
    assert metrics.keys() == {"num-examples", "loss", "accuracy"}


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("train", request({}, {})),
        ("train", request({"arrays": array_record({"secret": torch.ones(3)})}, {})),
        ("evaluate", request({}, {"adaptations": ["none"], "server-round": 1})),
    ],
)
def test_a_poisoned_message_gets_an_error_without_content(client, kind, content, caplog):
    caplog.set_level(logging.CRITICAL)
    reply = client.ask(kind, content)
    assert reply.has_error()
    assert reply.error.reason.startswith("crash:")
    assert "secret" not in reply.error.reason
    assert " incident=" in reply.error.reason


@pytest.mark.parametrize("kind", ["query", "train.elsewhere", "evaluate.elsewhere"])
def test_a_question_it_does_not_know_is_refused_by_flower_itself(client, kind):
    """Before any mod; the text that travels names the question only."""
    action = kind.partition(".")[2] or "default"
    with pytest.raises(ValueError, match=f"registered with name '{action}'"):
        client.ask(kind)


@pytest.mark.parametrize("kind", ["query.secrets", "query.sparsity", "query.importance"])
def test_a_query_that_nothing_of_the_run_declares_is_refused(client, kind, caplog):
    """Also one that a strategy of another run would ask; nothing of the client leaves with it."""
    caplog.set_level(logging.CRITICAL)
    reply = client.ask(kind, client.told())
    assert reply.error.reason.startswith("refused:bad-settings incident=")


def test_a_query_of_anybodys_adaptation_is_answered_without_an_edit_of_the_app(tmp_path):
    """Its name is known to nothing but the adaptation, which is named ``module:Class``."""
    some = Client(tmp_path, adapt="none,third_party_adaptations:Asks", adapt_args="")
    content = some.ask("query.anything", some.told()).content
    assert tensors(content["arrays"])["sizes"].tolist() == [2.0, 36.0]
    assert content["metrics"]["num-examples"] == 36


@pytest.mark.parametrize("partition", [None, 6, -1])
def test_a_node_without_a_partition_of_this_run_refuses(tmp_path, partition, caplog):
    caplog.set_level(logging.CRITICAL)
    some = Client(tmp_path)
    if partition is None:
        del some.node_config["partition-id"]
    else:
        some.node_config["partition-id"] = partition
    assert some.ask("query.hello").error.reason.startswith("refused:")


# The whole run over a Grid in memory


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fraction": 0.5, "unseen": 0.34, "global_test": "all"},
        {"model": tiny.NORM_MLP, "batch_norm": "local",
         "adapt": "none,adabn,ewc", "adapt_args": "ewc.epochs=1", "serve": "best-on-adapt",
         "confidence": True},
        {"model": tiny.NORM_MLP, "batch_norm": "reestimate", "adapt": "none,adabn-s",
         "adapt_args": "adabn-s.epochs=1"},
        {"strategy": "fedadam", "strategy_args": "eta=0.01", "adapt": "none"},
        {"strategy": "fedprox", "strategy_args": "mu=0.3",
         "adapt": "none,kd", "adapt_args": "kd.epochs=1"},
        {"strategy": "pfa", "strategy_args": "groups=2", "rounds": 4, "unseen": 0.2},
        {"benchmark": "digits-tasks", "strategy": "mas-racl", "strategy_args": "epochs=2",
         **tiny.UNTRAINED,
         "adapt": "none"},
        {"benchmark": "digits-tasks", "strategy": "fim-racl", "adapt": "none",
         **tiny.UNTRAINED,
         "strategy_args": "epochs=2 merge_on=client"},
        {"adapt": "none,third_party_adaptations:Asks"},
        {"strategy": "taper", "rounds": 4, "unseen": 0.2, "adapt": "none"},
        {"strategy": "taper-server", "rounds": 4, "server_share": 0.1, "shift": "rotation",
         "strategy_args": "task=guessed most-classes=2", "unseen": 0.2,
         "adapt": "none,class-selection"},
        {"strategy": "pfedhn", "adapt": "none"},
        {"strategy": "pfedpg", "model": "vit-tiny-prompts", "adapt": "none"},
    ],
    ids=["plain", "unseen", "local", "reestimate", "fedadam", "fedprox", "pfa", "racl", "there",
         "query", "taper", "taper-server", "pfedhn", "pfedpg"],
)  # fmt: skip
def test_over_a_grid_it_is_the_same_run(tmp_path, changes):
    """Also where clients keep something, and where EWC needs a further question."""
    wanted = tiny.run(tmp_path / "here", **changes)
    config = run_config(tmp_path / "there", **changes)
    assemble.cache_clear()
    found = run_server(grid_of(config, tmp_path), config)
    same = {"accuracy", "accuracy_unseen", "global_test", "messages", "outcomes", "bytes_down"}
    assert {k: v for k, v in found.items() if k in same} == {
        k: v for k, v in wanted.items() if k in same
    }
    models_there = tmp_path / "there" / "models"
    bases = [p.relative_to(models_there) for p in models_there.rglob("base.safetensors")]
    assert len(bases) == (config["rounds"] if config["benchmark"] == "digits-tasks" else 1)
    for base in bases:
        found, wanted = (load_file(tmp_path / w / "models" / base) for w in ("there", "here"))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    here, there = (read_evaluations(tmp_path / where) for where in ("here", "there"))
    assert [r[:9] for r in there] == [r[:9] for r in here]
    assert [r.loss for r in there] == pytest.approx([r.loss for r in here], rel=1e-3)
    assert json.loads((tmp_path / "there/manifest.json").read_text())["engine"] == "flower"


def test_the_same_run_once_more_on_the_same_clients_is_the_same(tmp_path):
    """Their disks hold what they kept in the first; half of them train in a round."""
    changes = {"model": tiny.NORM_MLP, "batch_norm": "local", "adapt": "none", "rounds": 5,
               "fraction": 0.5, "evaluate_every": 1}  # fmt: skip
    found = []
    for number in (1, 2):
        config = run_config(tmp_path / f"out-{number}", **changes)
        found.append(run_server(grid_of(config, tmp_path, run_id=number), config))
    assert found[0]["outcomes"]["error"] == 0
    assert tiny.timeless(found[0]) == tiny.timeless(found[1])
    first, second = (read_evaluations(tmp_path / f"out-{number}") for number in (1, 2))
    assert first == second


def test_clients_are_counted_where_the_run_does_not_say(tmp_path):
    config = run_config(tmp_path / "out", rounds=1, adapt="none") | {"clients": 0}
    grid = grid_of(config, tmp_path)
    assert run_server(grid, config)["clients"] == 6
    assert grid.sent[0] == ("query.count", 2)


def test_a_client_that_fails_is_in_the_communication_log_and_the_rest_goes_on(tmp_path, caplog):
    """Node 88 never answers, node 4 answers NaN; the others are averaged."""
    caplog.set_level(logging.CRITICAL)
    config = run_config(tmp_path / "out", rounds=1, adapt="none")
    grid = grid_of(config, tmp_path)
    grid.faults[("train", 88)] = lambda reply: None

    def poisoned(reply: Message) -> Message:
        arrays = tensors(reply.content["arrays"])
        arrays["head.bias"][3] = float("nan")
        reply.content["arrays"] = array_record(arrays)
        return reply

    grid.faults[("train", 4)] = poisoned
    summary = run_server(grid, config)
    assert summary["outcomes"] == {
        "accepted": 22, "rejected": 1, "error": 0, "late": 1, "lost": 0,
    }  # fmt: skip
    bad = {e.client: e for e in read_communication(tmp_path / "out") if e.outcome != "accepted"}
    assert bad[3].outcome == "late"
    assert "'head.bias'" in bad[4].reason
    assert all(bool(t.isfinite().all()) for t in tiny.base(tmp_path / "out").values())


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("rounds", 0, "run config: rounds: 0 is out of range; it must be >= 1"),
        ("model", "mpl", "model: unknown 'mpl'; did you mean 'mlp'?"),
        ("roundz", 3, "run config: unknown key 'roundz'; did you mean 'rounds'?"),
        ("clients", 13, "6 of 13 clients after 0.01 s, 7 needed; start the others"),
    ],
)
def test_a_bad_run_config_ends_in_one_line(tmp_path, monkeypatch, key, value, line):
    """An exception, not a ``SystemExit``: after that Flower would call the run completed."""
    monkeypatch.setattr("fedadapt.flower.nodes.POLL", 0.005)
    config = run_config(tmp_path / "out", node_wait=0.01) | {key: value}
    with pytest.raises(FedadaptError) as ended:
        server(grid_of(config, tmp_path), Context(1, 1, {}, RecordDict(), config))
    assert str(ended.value).startswith(line)
    assert "\n" not in str(ended.value)


# In somebody else's ServerApp


def test_our_client_app_serves_a_stock_strategy(tmp_path):
    """Flower's own FedAvg with its own ``start()``, over our clients: the mean we compute too."""
    changes = {"rounds": 1, "adapt": "none", "batch_size": 64}
    tiny.run(tmp_path / "ours", **changes)
    config = run_config(tmp_path / "theirs", **changes)
    grid = grid_of(config, tmp_path)
    initial = assemble(tiny.config(out=config["out"], **changes)).model.state_dict()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    result = FlowerFedAvg().start(
        grid=grid, initial_arrays=ArrayRecord(dict(initial)), num_rounds=1
    )
    torch.testing.assert_close(
        tensors(result.arrays), tiny.base(tmp_path / "ours"), rtol=1e-5, atol=1e-6
    )
    assert 0 <= result.evaluate_metrics_clientapp[1]["accuracy"] <= 1


# The real thing


@pytest.mark.slow
@pytest.mark.flower
@pytest.mark.timeout(240)
def test_flwr_run_is_the_same_run(tmp_path, monkeypatch):
    """From the repository, by Flower's command, with as many nodes as Flower was told.

    Also with anybody's adaptations: one from a file, and after AdaBN one that asks a query of its
    own.
    """
    examples = str(tiny.ROOT / "examples")
    monkeypatch.syspath_prepend(examples)
    path = os.pathsep.join([examples, os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path.rstrip(os.pathsep))
    changes = {"rounds": 2, "model": tiny.NORM_MLP, "unseen": 0.0,
               "adapt": "none,pseudo_labels:PseudoLabels,adabn+third_party_adaptations:Asks",
               "adapt-args": "pseudo_labels:PseudoLabels.epochs=2"}  # fmt: skip
    wanted = tiny.run(tmp_path / "here", clients=2, **changes)
    out = tmp_path / "there"
    given = {k: v for k, v in (tiny.SETTINGS | changes).items() if k != "clients"} | {"out": out}
    given["track"] = "tensorboard,recording_tracker:Recording"  # the server tells them
    with flower_command(tmp_path) as flwr:
        log = flwr("log", run_flower(flwr, 2, given), "--show")
    found = json.loads((out / "summary.json").read_text())
    same = ("accuracy", "global_test", "manifest", "messages", "outcomes", "clients")
    assert {k: found[k] for k in same} == {k: wanted[k] for k in same}
    assert (out / "report.html").exists()
    assert f"report   {out / 'report.html'}" in log
    for label, of_label in found["accuracy"].items():  # the table at the end
        assert re.search(rf"^{re.escape(label)} .*{100 * of_label['mean']:.2f}", log, re.MULTILINE)
    torch.testing.assert_close(tiny.base(out), tiny.base(tmp_path / "here"), rtol=1e-4, atol=1e-5)
    told = [json.loads(line) for line in (tmp_path / "there.tracked").read_text().splitlines()]
    assert [words[0] for words in told] == ["begin", *["log"] * 3, "finish"]
    assert told[-1][1] == found
    assert {Path(name).suffix for name in told[-1][2]} >= {".html", ".png", ".json"}
    last = told[-2][2]
    for label, of_label in found["accuracy"].items():
        assert last[f"test/{label}/accuracy"] == pytest.approx(of_label["mean"], abs=1e-6)
    assert list((out / "tensorboard").glob("events.*"))
