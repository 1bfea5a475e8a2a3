"""Whole runs in this process and in others: what they leave behind, cut off and gone on with."""

import json
import math
import re
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from fedadapt.cli import main
from fedadapt.config import RunConfig
from fedadapt.errors import DivergedError, InputError, QuorumLostError
from fedadapt.models.build import build_model
from fedadapt.records import Evaluation
from fedadapt.server.checkpoint import load_latest
from fedadapt.simulations.results.parquet import read_communication, read_evaluations, read_losses
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.registry import STRATEGIES

UNSEEN = {"unseen": 0.34}  # two of six clients


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    tiny.without_pictures(monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """What the command leaves behind, pictures and all, made by a process of its own."""
    folder = tmp_path_factory.mktemp("finished")
    command = tiny.python("-m", "fedadapt", "simulate", *tiny.options(**UNSEEN, out=folder))
    out, trouble = command.communicate(timeout=100)
    assert command.returncode == 0, trouble
    assert str(folder / "report.html") in out
    return folder


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


# What a run leaves behind


@pytest.mark.slow
def test_a_run_folder_is_complete(finished):
    """Nothing is missing, and nothing half-written is left."""
    files = {str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file()}
    assert files >= {
        "config.toml",
        "manifest.json",
        "clients.parquet",
        "communication.parquet",
        "losses.parquet",
        "summary.json",
        "report.html",
        "gain.png",
        "models/base.safetensors",
        "checkpoint/LATEST",
    }
    assert [f for f in files if ".tmp" in f] == []
    assert (finished / "gain.png").read_bytes().startswith(b"\x89PNG")


def test_the_summary_holds_what_is_promised(finished):
    summary = summary_of(finished)
    assert summary.keys() >= {
        "benchmark", "manifest", "strategy", "model", "clients", "rounds", "seed", "accuracy",
        "bytes_up", "bytes_down", "seconds",
    }  # fmt: skip
    assert summary["manifest"] == json.loads((finished / "manifest.json").read_text())["hash"]
    assert list(summary["accuracy"]) == ["local", "base", "base+fine-tune"]
    for numbers in summary["accuracy"].values():
        assert numbers.keys() >= {"mean", "std", "worst10", "min"}
        assert 0 <= numbers["min"] <= numbers["worst10"] <= numbers["mean"] <= 1
    assert summary["outcomes"] == {
        "accepted": summary["messages"], "rejected": 0, "error": 0, "late": 0, "lost": 0,
    }  # fmt: skip


def test_the_summary_is_what_the_rows_say(finished):
    rows = [r for r in read_evaluations(finished) if r.split == "test" and r.seen]
    last = [r for r in rows if r.round == max(r.round for r in rows)]
    for label, numbers in summary_of(finished)["accuracy"].items():
        mine = [r.accuracy for r in last if r.label == label]
        assert numbers["mean"] == pytest.approx(sum(mine) / len(mine), abs=1e-6)
        assert numbers["min"] == pytest.approx(min(mine), abs=1e-6)
    communication = read_communication(finished)
    for phase, told in (
        ("training", summary_of(finished)),
        ("evaluation", summary_of(finished)["evaluation"]),
    ):
        mine = [entry for entry in communication if entry.phase == phase]
        assert told["bytes_up"] == sum(entry.bytes_up for entry in mine) > 0
        assert told["bytes_down"] == sum(entry.bytes_down for entry in mine) > 0


def test_the_model_is_a_state_dict_of_the_network(finished):
    config = RunConfig.from_toml(finished / "config.toml")
    model = build_model(config, (1, 8, 8), 10)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    model.load_state_dict(tiny.base(finished))
    assert not tiny.same_bits(model.state_dict(), before)


def test_the_model_scores_what_the_summary_says(finished):
    """The file is the model that was evaluated, to the last image of every client."""
    config = RunConfig.from_toml(finished / "config.toml")
    from fedadapt.simulations.assembly import assemble

    assembly = assemble(config)
    assembly.model.load_state_dict(tiny.base(finished))
    assembly.model.eval()
    right = {}
    for client in range(config.clients):
        test = assembly.benchmark.split(client).test
        with torch.no_grad():
            found = assembly.model(assembly.benchmark.scaling(test.inputs)).argmax(1)
        right[client] = (found == test.labels).double().mean().item()
    assemble.cache_clear()  # its model is no longer the initial one
    rows = read_evaluations(finished)
    last = max(r.round for r in rows)
    written = {r.client: r.accuracy for r in rows
               if (r.round, r.label, r.split) == (last, "base", "test")}  # fmt: skip
    assert written == pytest.approx(right)


def test_unseen_clients_are_evaluated_and_never_trained(finished):
    unseen = set(json.loads((finished / "manifest.json").read_text())["unseen"])
    assert len(unseen) == 2
    communication = read_communication(finished)
    assert {e.client for e in communication if e.action == "train"} == set(range(6)) - unseen
    assert {e.client for e in communication if e.action == "evaluate"} == set(range(6))
    rows = [r for r in read_evaluations(finished) if r.split == "test"]
    assert {r.client for r in rows if not r.seen} == unseen
    summary = summary_of(finished)
    assert summary["accuracy"]["base"]["num_clients"] == 4
    assert summary["accuracy_unseen"]["base+fine-tune"]["num_clients"] == 2


def test_every_client_asked_is_in_the_communication_log_once_a_round(finished):
    counts = Counter((e.round, e.client, e.action) for e in read_communication(finished))
    del counts[0, 0, "evaluate"]
    trained = [key for key in counts if key[2] == "train"]
    assert len(trained) == 3 * 4
    assert {counts[key] for key in trained} == {1}


def test_losses_are_there_for_every_round(finished):
    assert [row.round for row in read_losses(finished)] == [1, 2, 3]


def test_the_report_needs_nothing_else(finished):
    page = (finished / "report.html").read_text()
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', page) == []
    for word in ("digits-classes", "fedavg", "base+fine-tune"):
        assert word in page


# The same again


@pytest.mark.parametrize("workers", [1, 3])
def test_the_same_run_twice_is_the_same(finished, tmp_path, workers):
    """In another process, on another number of threads: to the bit."""
    found = tiny.run(tmp_path, **UNSEEN, workers=workers)
    assert tiny.timeless(found) == tiny.timeless(summary_of(finished))
    assert tiny.same_bits(tiny.base(tmp_path), tiny.base(finished))
    assert read_evaluations(tmp_path) == read_evaluations(finished)


def test_another_seed_is_another_run(finished, tmp_path):
    found = tiny.run(tmp_path, **UNSEEN, seed=2)
    assert found["manifest"] != summary_of(finished)["manifest"]
    assert not tiny.same_bits(tiny.base(tmp_path), tiny.base(finished))


# Cut off and gone on with


def started_until(folder: Path, round: int, **changes) -> "tiny.subprocess.Popen":
    """A long run in another process, whose checkpoint of ``round`` has just appeared."""
    command = tiny.python("-m", "fedadapt", "simulate", *tiny.options(**changes, out=folder))
    latest = folder / "checkpoint" / "LATEST"
    deadline = time.monotonic() + 90
    while not latest.exists() or int(latest.read_text().split("-")[1]) < round:
        assert command.poll() is None, command.communicate()[1]
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.005)
    return command


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """A run long enough to be hit in the middle, and what it comes to when left alone."""
    changes = {"rounds": 24, "evaluate-every": 7, "fraction": 0.5}
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        tiny.without_pictures(patch)
        summary = tiny.run(folder, **changes)
    return changes, folder, tiny.timeless(summary)


def assert_goes_on_as_if_nothing_had_happened(folder: Path, long_run) -> None:
    changes, wanted, summary = long_run
    reached = load_latest(folder).round
    assert reached < changes["rounds"]
    found = tiny.run(folder, resume=True, **changes)
    assert tiny.timeless(found) == summary
    assert tiny.same_bits(tiny.base(folder), tiny.base(wanted))
    assert read_evaluations(folder) == read_evaluations(wanted)
    without_seconds = [entry._replace(seconds=0) for entry in read_communication(folder)]
    assert without_seconds == [entry._replace(seconds=0) for entry in read_communication(wanted)]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_end(tmp_path, long_run):
    command = started_until(tmp_path, 2, **long_run[0])
    command.kill()
    command.communicate()
    assert command.returncode == -signal.SIGKILL
    assert_goes_on_as_if_nothing_had_happened(tmp_path, long_run)


@pytest.mark.slow
def test_ctrl_c_ends_with_code_5_and_a_run_that_can_go_on(tmp_path, long_run):
    command = started_until(tmp_path, 2, **long_run[0])
    command.send_signal(signal.SIGINT)
    _, trouble = command.communicate(timeout=30)
    assert command.returncode == 5
    assert trouble.splitlines()[-1] == (
        f"fedadapt: interrupted; go on with: fedadapt simulate --resume {tmp_path}"
    )
    assert_goes_on_as_if_nothing_had_happened(tmp_path, long_run)


class PowerCut(BaseException):
    """Ends a run at once, as no handler expects."""


@pytest.mark.parametrize("step", ["tmp-written", "renamed", "latest-updated"])
def test_a_crash_while_saving_loses_nothing(tmp_path, long_run, monkeypatch, step):
    """Of the third checkpoint, at each step of writing it."""
    saves = Counter()

    def cut(reached: str) -> None:
        saves[reached] += 1
        if reached == step and saves[reached] == 3:
            raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr("fedadapt.server.checkpoint.crash_point", cut)
        with pytest.raises(PowerCut):
            tiny.run(tmp_path, **long_run[0])
    assert_goes_on_as_if_nothing_had_happened(tmp_path, long_run)


def test_a_finished_run_may_be_finished_again(finished, tmp_path):
    tiny.run(tmp_path, **UNSEEN)
    again = tiny.run(tmp_path, resume=True, **UNSEEN)
    assert tiny.timeless(again) == tiny.timeless(summary_of(finished))


def test_more_rounds_can_be_added(tmp_path):
    """Two and then one more are three: training does not know how long it was to be."""
    tiny.run(tmp_path / "two", rounds=2, evaluate_every=1)
    longer = tiny.run(tmp_path / "two", resume=True, rounds=3, evaluate_every=1)
    at_once = tiny.run(tmp_path / "three", rounds=3, evaluate_every=1)
    assert longer["accuracy"] == at_once["accuracy"]
    assert tiny.same_bits(tiny.base(tmp_path / "two"), tiny.base(tmp_path / "three"))


# Batch norm


@pytest.mark.parametrize("policy", ["shared", "local", "reestimate"])
def test_batch_norm_policies_run_and_resume(tmp_path, policy):
    """What the clients keep survives too: with ``local``, their norms are in the checkpoint."""
    changes = {
        "model": tiny.NORM_MLP,
        "batch_norm": policy,
        "adapt": "none,adabn,adabn-s,ewc",
        "adapt_args": "adabn-s.epochs=1 ewc.epochs=1",
        **UNSEEN,
    }
    wanted = tiny.run(tmp_path / "whole", **changes)
    assert list(wanted["accuracy"]) == ["local", "base", "base+adabn", "base+adabn-s", "base+ewc"]
    tiny.run_interrupted(tmp_path / "cut", round=3, **changes)
    states = load_latest(tmp_path / "cut").states
    assert (len(states) == 4) == (policy == "local")
    found = tiny.run(tmp_path / "cut", resume=True, **changes)
    assert tiny.timeless(found) == tiny.timeless(wanted)
    assert tiny.same_bits(tiny.base(tmp_path / "cut"), tiny.base(tmp_path / "whole"))
    assert read_evaluations(tmp_path / "cut") == read_evaluations(tmp_path / "whole")


def test_local_norms_never_travel(tmp_path):
    tiny.run(tmp_path, model=tiny.NORM_MLP, batch_norm="local", adapt="none")
    initial = build_model(tiny.config(model=tiny.NORM_MLP), (1, 8, 8), 10).state_dict()
    found = tiny.base(tmp_path)
    moved = {n for n in found if not torch.equal(found[n], initial[n])}
    assert moved == {"1.weight", "1.bias", "4.weight", "4.bias"}  # 2 is the batch norm
    up = {e.bytes_up for e in read_communication(tmp_path) if e.action == "train"}
    assert up == {4 * sum(found[n].numel() for n in moved) + 16}  # and examples and loss


def test_a_stock_network_with_batch_norm_runs(tmp_path):
    summary = tiny.run(tmp_path, model="mobilenetv2-0.1", rounds=1, adapt="none,adabn", clients=3)
    assert summary["accuracy"]["base+adabn"]["mean"] is not None


# Flower's strategies


@pytest.mark.parametrize(
    "name", [n for n, path in STRATEGIES.ours.items() if path.startswith("flwr")]
)
def test_every_stock_strategy_runs(tmp_path, monkeypatch, name):
    # Flower collects garbage by hand for every model; in a process full of tests it takes seconds.
    monkeypatch.setattr("flwr.app.message.arrayrecord.gc", SimpleNamespace(collect=lambda: 0))
    arguments = {
        "qfedavg": f"client_learning_rate={tiny.config().lr}",
        "fedadam": "eta=0.01",
        "fedyogi": "eta=0.01",
        "fedadagrad": "eta=0.01",
        "multikrum": "num_nodes_to_select=2",
    }
    changes = {"strategy": name, "strategy_args": arguments.get(name, ""), "rounds": 2}
    summary = tiny.run(tmp_path, **changes, adapt="none", model=tiny.NORM_MLP)
    losses = [row.loss for row in read_losses(tmp_path)]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    found = tiny.base(tmp_path)
    initial = build_model(tiny.config(model=tiny.NORM_MLP), (1, 8, 8), 10).state_dict()
    assert {n: (t.shape, t.dtype) for n, t in found.items()} == {
        n: (t.shape, t.dtype) for n, t in initial.items()
    }
    assert all(bool(t.isfinite().all()) for t in found.values())
    assert (found["2.running_var"] >= 0).all()
    asked = Counter((e.round, e.action) for e in read_communication(tmp_path) if e.round)
    assert asked[1, "train"] == asked[2, "train"] == 6
    assert asked[1, "evaluate"] == 12  # the strategy's own, and the run's of the base model
    assert summary["outcomes"]["accepted"] == summary["messages"]


def test_flower_s_fedprox_is_ours(tmp_path):
    """The same method twice, written by others: proximal term on the client, mean on the server."""
    ours = tiny.run(tmp_path / "ours", strategy="fedprox", strategy_args="mu=0.5", adapt="none")
    theirs = tiny.run(
        tmp_path / "theirs",
        strategy="flower-fedprox",
        strategy_args="proximal_mu=0.5",
        adapt="none",
    )
    torch.testing.assert_close(
        tiny.base(tmp_path / "theirs"), tiny.base(tmp_path / "ours"), rtol=1e-4, atol=1e-6
    )
    assert theirs["accuracy"]["base"]["mean"] == ours["accuracy"]["base"]["mean"]
    plain = tiny.run(tmp_path / "plain", adapt="none")
    assert plain["train_loss"] != ours["train_loss"]


@pytest.mark.parametrize("name", ["fedadam", "fedavgm", "fedmedian"])
def test_a_stock_strategy_s_own_state_survives(tmp_path, name):
    """FedAdam's moments and step, FedAvgM's velocity: state equal, so the end is equal."""
    changes = {"strategy": name, "adapt": "none", "fraction": 0.67}
    wanted = tiny.run(tmp_path / "whole", **changes)
    tiny.run_interrupted(tmp_path / "cut", round=3, **changes)
    found = tiny.run(tmp_path / "cut", resume=True, **changes)
    assert tiny.timeless(found) == tiny.timeless(wanted)
    assert tiny.same_bits(tiny.base(tmp_path / "cut"), tiny.base(tmp_path / "whole"))
    state = {f: load_file(next((tmp_path / f).glob("checkpoint/*3/state.safetensors")))
             for f in ("cut", "whole")}  # fmt: skip
    assert tiny.same_bits(state["cut"], state["whole"])


def test_fedadam_s_moments_are_in_the_checkpoint(tmp_path):
    """Without them a resumed run would start its momentum anew and nobody would notice."""
    tiny.run(tmp_path, strategy="fedadam", adapt="none", rounds=2)
    names = load_latest(tmp_path).tensors
    weights = {n.removeprefix("model/") for n in names if n.startswith("model/")}
    for moment in ("m_t", "v_t"):
        assert {
            n.removeprefix(f"strategy/{moment}/") for n in names if f"/{moment}/" in n
        } == weights


def test_a_third_party_s_strategy_runs_with_its_arguments(tmp_path):
    """Halfway with share 1 is FedAvg; with share 0 nothing moves."""
    given = {"strategy": "third_party:Halfway", "adapt": "none"}
    initial = build_model(tiny.config(), (1, 8, 8), 10).state_dict()
    tiny.run(tmp_path / "none", **given, strategy_args="share=0.0 note='a b'")
    torch.testing.assert_close(tiny.base(tmp_path / "none"), dict(initial), rtol=0, atol=0)
    tiny.run(tmp_path / "all", **given, strategy_args="share=1.0")
    tiny.run(tmp_path / "fedavg", adapt="none")
    torch.testing.assert_close(
        tiny.base(tmp_path / "all"), tiny.base(tmp_path / "fedavg"), rtol=1e-4, atol=1e-6
    )


def test_a_third_party_s_strategy_is_found_in_the_folder_one_is_in(tmp_path, monkeypatch):
    """Ten lines in a file there; the installed command has nothing of that folder on its path."""
    (tmp_path / "mine.py").write_text(
        "from flwr.serverapp.strategy import FedAvg\n\n\n"
        "class Mine(FedAvg):\n"
        "    def __init__(self, factor: float, **settings):\n"
        "        super().__init__(**settings)\n"
        "        self.factor = factor\n\n"
        "    def aggregate_train(self, server_round, replies):\n"
        "        print('factor', self.factor)\n"
        "        return super().aggregate_train(server_round, replies)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    given = tiny.options(rounds=1, strategy="mine:Mine", **{"strategy-args": "factor=0.5"})
    result = CliRunner().invoke(main, ["simulate", *given])
    assert result.exit_code == 0, result.output
    assert "factor 0.5" in result.stdout
    assert (tmp_path / "runs/digits-classes-mine-Mine-1/summary.json").exists()


@pytest.mark.parametrize(
    ("strategy", "arguments", "line"),
    [
        ("third_party:Starting", "", "overrides start(); fedadapt calls its configure_"),
        ("third_party:Transposing", "", "'body.1.weight' as [64, 100]; the model's is [100, 64]"),
        ("third_party:Forgetful", "", "as missing; the model's is"),
        ("third_party:Asking", "", "it sends 'query.secrets'; clients answer train and evaluate"),
        ("third_party:Doubling", "", "a message holds 2 array records; it must hold one"),
        ("third_party:Nowhere", "", "has no attribute 'Nowhere'"),
        ("third_party:NOT_A_STRATEGY", "", "is a subclass neither of fedadapt's Strategy"),
        ("third_party:Halfway", "", 'Halfway needs --strategy-args "share=..."'),
        ("third_party:Halfway", "sharing=1", "has no argument 'sharing'; did you mean 'share'?"),
        ("fedadam", "etta=1", "has no argument 'etta'; did you mean 'eta'?"),
        ("flower-fedprox", "min_available_nodes=99", "it waits for more than the 6 clients"),
    ],
)  # fmt: skip
def test_a_bad_strategy_is_one_line(tmp_path, monkeypatch, strategy, arguments, line):
    monkeypatch.setattr("flwr.serverapp.strategy.strategy_utils.sleep", lambda _: None)
    given = tiny.options(strategy=strategy, **{"strategy-args": arguments}, out=tmp_path / "run")
    result = CliRunner().invoke(main, ["simulate", *given])
    assert result.exit_code == 2, result.exception
    last = result.stderr.splitlines()[-1]
    assert last.startswith("fedadapt: strategy")
    assert line in last


# When things go wrong


def corrupt_reply(monkeypatch, fault, clients, rounds=(1, 2, 3)) -> None:
    """Let some clients' training go wrong in some rounds."""
    answer = Worker.answer

    def corrupted(self, action, number, sent, states=()):
        update = answer(self, action, number, sent, states)
        rows = [row for row, d in enumerate(sent.clients) if d in clients]
        if action == "train" and number in rounds and rows:
            fault(update, rows)
        return update

    monkeypatch.setattr(Worker, "answer", corrupted)


def nan(update, rows) -> None:
    update.weights["head.bias"][rows] = math.nan


def raise_a_secret(update, rows) -> None:
    raise ValueError("patient 17")


def test_a_client_with_nan_is_left_out_and_named(tmp_path, monkeypatch):
    corrupt_reply(monkeypatch, nan, {2})
    summary = tiny.run(tmp_path, adapt="none")
    assert summary["outcomes"]["rejected"] == 3
    rejected = [e for e in read_communication(tmp_path) if e.outcome == "rejected"]
    assert {(e.client, e.action) for e in rejected} == {(2, "train")}
    assert all("'head.bias'" in e.reason and "NaN" in e.reason for e in rejected)
    assert all(bool(t.isfinite().all()) for t in tiny.base(tmp_path).values())


def test_what_a_client_says_when_it_fails_is_not_in_the_folder(tmp_path, monkeypatch):
    corrupt_reply(monkeypatch, raise_a_secret, {2})
    summary = tiny.run(tmp_path, adapt="none")
    assert summary["outcomes"]["error"] == 3
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"patient" not in path.read_bytes()


def test_a_round_without_a_quorum_leaves_the_model_as_it_was(tmp_path, monkeypatch):
    """Round 2 fails; the run goes on and ends as a run whose round 2 did not happen."""
    corrupt_reply(monkeypatch, raise_a_secret, {0, 1, 2, 3}, rounds=(2,))
    summary = tiny.run(tmp_path, adapt="none", max_failed_rounds=2, evaluate_every=1)
    assert summary["evaluated_round"] == 3
    rows = [r for r in read_evaluations(tmp_path) if r.split == "test"]
    scores = {n: [(r.client, r.accuracy, r.loss) for r in rows if r.round == n] for n in (1, 2, 3)}
    assert scores[2] == scores[1]
    assert scores[3] != scores[2]


@pytest.mark.parametrize(
    ("fault", "error", "code"), [(raise_a_secret, QuorumLostError, 3), (nan, DivergedError, 4)]
)
def test_a_run_that_cannot_go_on_ends_with_its_code_and_can_be_resumed(
    tmp_path, monkeypatch, fault, error, code
):
    """Whatever was wrong is put right, and the run ends as one that never had it."""
    with monkeypatch.context() as patch:
        corrupt_reply(patch, fault, set(range(6)), rounds=(2,))
        result = CliRunner().invoke(main, ["simulate", *tiny.options(out=tmp_path / "run")])
    assert result.exit_code == code == error.exit_code
    last = result.stderr.splitlines()[-1]
    assert last.startswith(
        "fedadapt: round 2: train: 0 of 6 clients gave a usable answer, 3 needed"
    )
    assert f"fedadapt simulate --resume {tmp_path / 'run'}" in last
    assert "patient" not in result.output
    assert load_latest(tmp_path / "run").round == 1
    found = tiny.run(tmp_path / "run", resume=True)
    wanted = tiny.run(tmp_path / "whole")
    assert found["accuracy"] == wanted["accuracy"]
    assert tiny.same_bits(tiny.base(tmp_path / "run"), tiny.base(tmp_path / "whole"))


def test_settings_of_another_run_are_refused(tmp_path):
    tiny.run_interrupted(tmp_path)
    with pytest.raises(
        InputError, match="other settings than the run began with: seed was 1, is 2"
    ):
        tiny.run(tmp_path, resume=True, seed=2)


def test_the_global_test_has_a_row_a_client_only_where_asked(tmp_path):
    def rows(folder: Path) -> list[Evaluation]:
        return [r for r in read_evaluations(folder) if r.split == "global" and r.round == 1]

    for word in ("base", "all", "none"):
        tiny.run(tmp_path / word, rounds=1, global_test=word)
    assert [(r.client, r.label) for r in rows(tmp_path / "base")] == [(-1, "base")]
    assert {r.label for r in rows(tmp_path / "all")} == {"local", "base", "base+fine-tune"}
    assert len(rows(tmp_path / "all")) == 18
    assert rows(tmp_path / "none") == []
    alone = {r.accuracy for r in rows(tmp_path / "all") if r.label == "base"}
    assert alone == {rows(tmp_path / "base")[0].accuracy}  # one base model for all


def test_no_thread_outlives_a_run(tmp_path):
    before = set(threading.enumerate())
    tiny.run(tmp_path, adapt="none", rounds=1, workers=3)
    assert set(threading.enumerate()) <= before


def test_a_run_that_grew_is_described_as_it_is(tmp_path):
    tiny.run(tmp_path, rounds=1)
    tiny.run(tmp_path, resume=True, rounds=2)
    assert RunConfig.from_toml(tmp_path / "config.toml").rounds == 2
    tiny.run(tmp_path, resume=True, rounds=2)


def test_a_run_without_its_manifest_does_not_go_on(tmp_path):
    tiny.run(tmp_path, rounds=1)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"manifest\.json: .*; without it no run goes on"):
        tiny.run(tmp_path, resume=True, rounds=1)


def test_a_run_begun_before_a_setting_existed_goes_on_with_its_default(tmp_path, monkeypatch):
    tiny.run_interrupted(tmp_path)
    begun = load_latest(tmp_path)
    older = {key: value for key, value in begun.config.items() if key != "evaluate-clients"}
    monkeypatch.setattr(tiny.runs, "load_latest", lambda folder: replace(begun, config=older))
    assert tiny.run(tmp_path, resume=True)
