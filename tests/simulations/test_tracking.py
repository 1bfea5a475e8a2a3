"""Trackers: what is read back from each is what the run wrote; none of them can end a run."""

import contextlib
import importlib.util
import json
import math
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import wandb_file

from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.records import CommunicationEntry, Evaluation, RoundLoss
from fedadapt.simulations.check import check
from fedadapt.simulations.results.journal import Journal
from fedadapt.simulations.results.parquet import table_rows
from fedadapt.simulations.results.summary import read_summary
from fedadapt.simulations.tracking.metrics import MetricsByRound
from fedadapt.simulations.tracking.registry import TRACKERS, trackers_of
from fedadapt.simulations.tracking.tracking import Tracking

OWN = "recording_tracker:Recording"
INSTALLED = [name for name in TRACKERS.ours if importlib.util.find_spec(name)]
TRACK = ",".join([*INSTALLED, OWN])
CHANGES = {
    "unseen": 0.34, "evaluate_every": 1, "rounds": 5, "checkpoint_every": 2, "track": TRACK,
}  # fmt: skip

Read = dict[str, dict[int, float]]  # metric -> round -> value


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """A run that was interrupted two rounds after its checkpoint and went on, with all trackers."""
    place = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("WANDB_MODE", "offline")
        patch.chdir(place)
        tiny.run_interrupted(place / "run", round=4, **CHANGES)
        tiny.run(place / "run", resume=True, **CHANGES)
        yield place


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(name not in INSTALLED, reason=f"{name} is not installed")


# All in one worker: the trackers' libraries take seconds to import.
pytestmark = [
    pytest.mark.xdist_group("tracking"),
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("default"),  # of trackers' libraries; none of ours
]


def told_own(place: Path) -> list[list]:
    lines = (place / "run.tracked").read_text().splitlines()
    return [json.loads(line) for line in lines]


def of_own(place: Path) -> Read:
    read: Read = {}
    for word, *rest in told_own(place):
        if word == "log":
            for name, value in rest[1].items():
                read.setdefault(name, {})[rest[0]] = value
    return read


def expected(folder: Path) -> Read:
    """The same from the run's tables, written down once more, in plain Python."""
    cells: dict[tuple[str, int], list[float]] = {}
    for row in table_rows(folder, Evaluation):
        split = row.split if row.seen else f"{row.split}-unseen"
        for name, value in (("accuracy", row.accuracy), ("loss", row.loss), ("clients", math.nan)):
            if row.epoch == 0:
                cells.setdefault((f"{split}/{row.label}/{name}", row.round), []).append(value)
    read: Read = {}
    for (name, round), values in cells.items():
        is_count = name.endswith("/clients")
        value = len(values) if is_count else sum(values) / len(values)
        read.setdefault(name, {})[round] = value
    for loss in table_rows(folder, RoundLoss):
        read.setdefault("train/loss", {})[loss.round] = loss.loss
        read.setdefault("train/clients", {})[loss.round] = loss.num_clients
    return read


def assert_same(found: Read, wanted: Read) -> None:
    """Of each metric the same rounds, and the values that single precision can tell."""
    assert {n: sorted(v) for n, v in found.items()} == {n: sorted(v) for n, v in wanted.items()}
    for name, values in wanted.items():
        assert found[name] == pytest.approx(values, rel=1e-6), name


@pytest.mark.slow
def test_every_metric_of_every_round_is_that_of_the_tables(place):
    found = of_own(place)
    wanted = expected(place / "run")
    assert {"test/base/accuracy", "test-unseen/base/loss", "global/base/accuracy"} <= wanted.keys()
    assert sorted(wanted["test/base/accuracy"]) == [0, 1, 2, 3, 4, 5]
    counts = {name: v for name, v in found.items() if name.startswith("communication/")}
    assert_same({n: v for n, v in found.items() if n not in counts}, wanted)


def test_the_last_round_is_the_summary(place):
    last = {name: values[max(values)] for name, values in of_own(place).items()}
    assert last["communication/not_accepted"] == 0
    assert_is_summary(last, read_summary(place / "run"))


def test_bytes_and_messages_are_counted_from_the_first_round_on_also_after_a_resume(place):
    entries = list(table_rows(place / "run", CommunicationEntry))
    for round, sent in of_own(place)["communication/training/bytes_down"].items():
        until = [e for e in entries if e.round <= round and e.phase == "training"]
        assert sent == sum(entry.bytes_down for entry in until)


def test_a_run_that_goes_on_is_the_same_run_to_its_trackers(place):
    first, stopped, second = (
        [words for words in told_own(place) if words[0] == word]
        for word in ("begin", "stop", "finish")
    )
    assert [begun[1:3] for begun in first] == [["", 0], ["id-of-run", 2]]
    assert first[0][3] == tiny.config(**CHANGES).to_mapping()
    assert "interrupted" in stopped[0][1] or "KeyboardInterrupt" in stopped[0][1]
    assert second[0][1] == json.loads((place / "run" / "summary.json").read_text())
    assert set(second[0][2]) == {
        "config.toml", "manifest.json", "summary.json", "report.html", "gain.png"
    }  # fmt: skip
    logged = [words[1] for words in told_own(place) if words[0] == "log"]
    assert logged == [0, 1, 2, 2, 3, 4, 5]  # from the checkpoint on, again


def tensorboard_events(place: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(place / "run" / "tensorboard"), {"images": 0, "tensors": 0})
    events.Reload()
    return events


def of_tensorboard(place: Path) -> Read:
    events = tensorboard_events(place)
    names = events.Tags()["scalars"]
    return {name: {e.step: e.value for e in events.Scalars(name)} for name in names}


def of_mlflow(place: Path) -> Read:
    """Names as MLflow has them, with ``.`` for ``+``."""
    client, run = mlflow_run(f"sqlite:///{place}/mlflow.db")
    return {
        name: {m.step: m.value for m in client.get_metric_history(run.info.run_id, name)}
        for name in run.data.metrics
    }


def mlflow_run(uri: str):
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("fedadapt")
    [run] = client.search_runs([experiment.experiment_id])
    return client, run


def of_wandb(place: Path) -> Read:
    return wandb_file.read_run(place / "run")[2]


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(of_tensorboard, marks=needs("tensorboard")),
        pytest.param(of_mlflow, marks=needs("mlflow")),
        pytest.param(of_wandb, marks=needs("wandb")),
    ],
)
def test_what_is_read_back_of_the_last_round_is_the_summary(place, read):
    """To the digits that the summary has; a tracker may keep single precision."""
    summary = read_summary(place / "run")
    found = {name.replace(".", "+"): v[max(v)] for name, v in read(place).items()}
    assert_is_summary(found, summary)


def assert_is_summary(found: dict[str, float], summary: dict) -> None:
    for split, group in (("test", "accuracy"), ("test-unseen", "accuracy_unseen")):
        assert summary[group]
        for label, numbers in summary[group].items():
            assert found[f"{split}/{label}/accuracy"] == pytest.approx(numbers["mean"], abs=1e-6)
            assert found[f"{split}/{label}/clients"] == numbers["num_clients"]
    for label, accuracy in summary["global_test"].items():
        assert found[f"global/{label}/accuracy"] == pytest.approx(accuracy, abs=1e-6)
    for way in ("bytes_up", "bytes_down"):
        assert found[f"communication/training/{way}"] == pytest.approx(summary[way])
        there = summary["evaluation"][way]
        assert found[f"communication/evaluation/{way}"] == pytest.approx(there)
    assert found["communication/messages"] == summary["messages"]
    assert found["train/loss"] == pytest.approx(summary["train_loss"], abs=1e-6)


@needs("tensorboard")
def test_tensorboard_holds_the_same_numbers_the_settings_and_the_pictures(place):
    events = tensorboard_events(place)
    tags = events.Tags()
    assert_same(of_tensorboard(place), of_own(place))
    steps = [event.step for event in events.Scalars("test/base/accuracy")]
    assert steps == [0, 1, 2, 3, 4, 5]  # what was told twice is shown once
    assert tags["images"] == ["figures/gain"]
    settings, summary = (
        events.Tensors(f"{name}/text_summary")[-1].tensor_proto.string_val[0].decode()
        for name in ("settings", "summary")
    )
    assert json.loads(settings) == tiny.config(**CHANGES).to_mapping()
    assert json.loads(summary) == read_summary(place / "run")
    [session] = [
        value.metadata
        for value in _summaries(place / "run" / "tensorboard")
        if value.tag.endswith("session_start_info")
    ]
    assert session.plugin_data.plugin_name == "hparams"
    assert b"digits-classes" in session.plugin_data.content


def _summaries(folder: Path) -> Iterator:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    for path in sorted(folder.iterdir()):
        for event in EventFileLoader(str(path)).Load():
            yield from event.summary.value


@needs("mlflow")
def test_mlflow_holds_the_same_numbers_the_settings_and_the_files(place):
    client, run = mlflow_run(f"sqlite:///{place}/mlflow.db")
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    wanted = {k: str(v) for k, v in tiny.config(**CHANGES).to_mapping().items()}
    assert run.data.params == wanted
    assert_same(of_mlflow(place), {n.replace("+", "."): v for n, v in of_own(place).items()})
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"report.html", "gain.png", "summary.json", "config.toml"} <= files


SERVER = os.environ.get("FEDADAPT_MLFLOW", "")
"""An ``mlflow`` that has a server, which the client of the extra has not."""


@pytest.fixture
def mlflow_server(tmp_path) -> Iterator[str]:
    """The address of a server of this test's own, with its files below a folder of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    files = tmp_path / "server"
    files.mkdir()
    words = ("--backend-store-uri", f"sqlite:///{files}/mlflow.db", "--artifacts-destination",
             f"file://{files}/artifacts", "--host", "127.0.0.1", "--port", str(port),
             "--workers", "1")  # fmt: skip
    with (files / "log").open("w") as log:
        process = subprocess.Popen(
            [SERVER, "server", *words], stdout=log, stderr=log, cwd=files, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            assert process.poll() is None, (files / "log").read_text()
            assert time.monotonic() < deadline, (files / "log").read_text()
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.mark.skipif(not SERVER, reason="FEDADAPT_MLFLOW names no mlflow with a server")
@needs("mlflow")
def test_a_server_of_mlflow_gives_back_the_summary_and_the_files(
    tmp_path, monkeypatch, mlflow_server
):
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    folder = tmp_path / "run"
    tiny.run_interrupted(folder, round=4, **CHANGES | {"track": "mlflow"})
    tiny.run(folder, resume=True, **CHANGES | {"track": "mlflow"})
    client, run = mlflow_run(mlflow_server)
    assert isinstance(client, MlflowClient)
    assert run.info.status == "FINISHED"
    found = {name.replace(".", "+"): value for name, value in run.data.metrics.items()}
    assert_is_summary(found, read_summary(folder))
    wanted = expected(folder)
    for name in ("test/base/accuracy", "test/base+fine-tune/loss", "train/loss"):
        history = client.get_metric_history(run.info.run_id, name.replace("+", "."))
        assert {m.step: m.value for m in history} == pytest.approx(wanted[name], rel=1e-9)
    for name in ("summary.json", "report.html", "gain.png"):
        got = download_artifacts(
            run_id=run.info.run_id, artifact_path=name, tracking_uri=mlflow_server,
            dst_path=str(tmp_path / "got"),
        )  # fmt: skip
        assert Path(got).read_bytes() == (folder / name).read_bytes()


@needs("wandb")
def test_wandb_offline_holds_the_same_numbers_the_settings_and_the_files(place):
    ids, config, metrics, attached = wandb_file.read_run(place / "run")
    assert len(ids) == 1
    wanted = tiny.config(**CHANGES).to_mapping()
    assert {key: config[key] for key in wanted} == wanted
    shown = {name: v for name, v in metrics.items() if name.startswith(("figures/", "report"))}
    assert set(shown) >= {"figures/gain/width", "report/size"}
    ours = {n: v for n, v in metrics.items() if n not in {*shown, "round"} and n[0] != "_"}
    assert_same(ours, of_own(place))
    assert {"report.html", "gain.png", "summary.json", "config.toml"} <= attached


# Without a run


def row(round: int, client: int = 0, accuracy: float = 0.5, **changes: object) -> Evaluation:
    return Evaluation(
        round, client, "kind", True, "base", "none", "test", 4, accuracy, 1.0
    )._replace(**changes)


def test_a_client_counts_once_and_what_is_not_a_number_is_left_out():
    metrics = MetricsByRound(())
    metrics.add(row(1, 0, 1.0, num_examples=1000, loss=math.nan))
    metrics.add(row(1, 1, 0.0, num_examples=1, loss=math.nan))
    metrics.add(row(1, 1, 1.0, epoch=3))  # an adaptation on the way
    metrics.add(RoundLoss(1, math.inf, 2))
    [(number, found)] = metrics.take()
    assert number == 1
    assert found == {"test/base/accuracy": 0.5, "test/base/clients": 2, "train/clients": 2}


def test_tasks_of_a_client_count_as_their_mean():
    metrics = MetricsByRound(())
    for task, accuracy in enumerate((1.0, 0.0)):
        metrics.add(row(1, 0, accuracy, task=task, loss=float(task)))
    metrics.add(row(1, 1, 1.0, task=0, loss=1.0))
    [(_, found)] = metrics.take()
    assert (found["test/base/accuracy"], found["test/base/loss"]) == (0.75, 0.75)


def test_a_round_is_taken_once_and_in_order():
    metrics = MetricsByRound(())
    for number in (2, 0, 1):
        metrics.add(row(number))
    assert [number for number, _ in metrics.take(before=2)] == [0, 1]
    assert [number for number, _ in metrics.take()] == [2]
    assert list(metrics.take()) == []


def message(round: int, **changes: object) -> CommunicationEntry:
    entry = CommunicationEntry(round, 0, "train", "accepted", "", 10, 3, 0.0)
    return entry._replace(**changes)


def test_messages_are_counted_from_the_first_round_on():
    metrics = MetricsByRound(())
    metrics.add(message(1))
    metrics.add(message(1, outcome="late", bytes_up=0))
    metrics.add(message(2, phase="evaluation", bytes_down=5))
    (_, first), (_, second) = metrics.take()
    assert first == {
        "communication/training/bytes_up": 3, "communication/training/bytes_down": 20,
        "communication/messages": 2, "communication/not_accepted": 1,
    }  # fmt: skip
    assert second == first | {
        "communication/evaluation/bytes_up": 3, "communication/evaluation/bytes_down": 5,
        "communication/messages": 3,
    }  # fmt: skip


def test_a_mean_tells_over_how_many_clients_it_is():
    metrics = MetricsByRound(())
    metrics.add(row(1, 0, 0.5))
    metrics.add(row(1, 0, 0.7, model="personal"))
    metrics.add(row(1, 1, 0.9, model="personal"))  # its base model has no result
    [(_, found)] = metrics.take()
    assert (found["test/base/clients"], found["test/base/accuracy"]) == (1, 0.5)
    assert found["test/personal/clients"] == 2


def logged(place: Path) -> list[int]:
    return [words[1] for words in told_own(place) if words[0] == "log"]


def test_a_round_is_told_when_the_next_one_is_done(tmp_path):
    (tmp_path / "run").mkdir()
    with Tracking(RunConfig(track=OWN), tmp_path / "run") as tracking:
        tracking.begin()
        tracking.row(row(0))
        tracking.round_done(0)
        assert logged(tmp_path) == []  # its models may still be evaluated
        tracking.row(row(1))
        tracking.round_done(1)
        assert logged(tmp_path) == [0]
        tracking.finish({})
    assert logged(tmp_path) == [0, 1]


def test_what_was_told_before_a_resume_is_told_to_nobody_but_new_trackers(tmp_path):
    """The round of the checkpoint is not: it may have been cut off in its evaluation."""
    tracked(tmp_path, OWN)
    (tmp_path / "run.tracked").unlink()
    with Journal(tmp_path / "run") as journal:
        for number in range(3):
            journal.append(row(number))
            journal.append(message(number))
    for track, wanted in ((OWN, []), (f"{OWN},recording_tracker:FailsAtFinish", [0, 1])):
        with Tracking(RunConfig(track=track), tmp_path / "run") as tracking:
            tracking.begin(after=2)
            assert logged(tmp_path) == wanted
            tracking.row(row(3))
            tracking.row(message(3))
            tracking.finish({})
        last = [words[2] for words in told_own(tmp_path) if words[0] == "log"][-1]
        assert last["communication/messages"] == 4  # those before the resume count
        (tmp_path / "run.tracked").unlink()


def tracked(place: Path, track: str, *, after: int | None = None) -> Tracking:
    """A tracked run of three rounds, as far as its trackers see it."""
    (place / "run").mkdir(exist_ok=True)
    tracking = Tracking(RunConfig(track=track), place / "run")
    with tracking:
        tracking.begin(after)
        for number in range(after or 0, 3):
            tracking.row(row(number, accuracy=number / 4))
            tracking.round_done(number)
        tracking.finish({"evaluated_round": 2})
    return tracking


@pytest.mark.parametrize(
    ("name", "trouble", "logged"),
    [
        ("FailsAtBegin", "ConnectionError: no server at all", []),
        ("FailsAtLog", "SystemExit: 3", [0]),
        ("FailsAtFinish", "OSError: disk", [0, 1, 2]),
    ],
)
def test_a_tracker_that_fails_costs_one_line_and_nothing_else(
    tmp_path, caplog, name, trouble, logged
):
    tracked(tmp_path, f"recording_tracker:{name},{OWN}")
    told = told_own(tmp_path)
    words = [told[0] for told in told]
    assert words.count("finish") == 1  # the other one's
    assert words.count("log") == 3 + len(logged)
    assert "stop" not in words
    [line] = [record.getMessage() for record in caplog.records]
    wanted = f"track: recording_tracker:{name}: {trouble}; the run goes on without it"
    assert line == wanted


def test_a_server_of_mlflow_that_is_not_there_costs_a_line(tmp_path, monkeypatch, caplog):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracked(tmp_path, f"mlflow,{OWN}")
    assert told_own(tmp_path)[-1][0] == "finish"
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("fedadapt")]
    assert len(lines) == 1
    assert lines[0].startswith("track: mlflow: ")
    assert "\n" not in lines[0]


def test_a_tracker_that_comes_later_gets_the_rounds_before(tmp_path):
    (tmp_path / "run").mkdir()
    with Journal(tmp_path / "run") as journal:
        for number in range(2):
            journal.append(row(number))
    tracked(tmp_path, OWN, after=2)
    told = told_own(tmp_path)
    assert told[0][:3] == ["begin", "", 2]
    assert [words[1] for words in told if words[0] == "log"] == [0, 1, 2]


def test_rows_that_make_no_sense_end_the_tracking_and_not_the_run(tmp_path, caplog):
    (tmp_path / "run").mkdir()
    with Tracking(RunConfig(track=OWN), tmp_path / "run") as tracking:
        tracking.begin()
        for _ in "twice":
            tracking.row(row(0))
        tracking.round_done(1)
        tracking.finish({})
    assert [words[0] for words in told_own(tmp_path)] == ["begin", "stop"]
    [line] = [record.getMessage() for record in caplog.records]
    assert "twice in round 0" in line
    assert line.endswith("; the run goes on without trackers")


def test_a_tracker_that_failed_at_the_end_is_found_again(tmp_path):
    """Its id is kept, also while another tracker is the only one."""
    tracked(tmp_path, OWN)
    tracked(tmp_path, "recording_tracker:FailsAtFinish", after=2)
    assert json.loads((tmp_path / "run" / "trackers.json").read_text()).keys() == {
        OWN, "recording_tracker:FailsAtFinish",
    }  # fmt: skip


def test_the_tracker_of_the_documentation_works(tmp_path, monkeypatch):
    page = (tiny.ROOT / "docs" / "trackers.md").read_text("utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "csv_tracker.py").write_text(code, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    tracked(tmp_path, "csv_tracker:Csv")
    tracked(tmp_path, "csv_tracker:Csv", after=2)
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    scores = [line for line in lines if "accuracy" in line]
    assert scores == [f"{n},test/base/accuracy,{n / 4}" for n in (0, 1, 2, 2)]


def test_without_trackers_nothing_is_kept_or_written(tmp_path):
    tracked(tmp_path, "")
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("track", "message"),
    [
        ("tensorbord", "track: unknown 'tensorbord'; did you mean 'tensorboard'"),
        (f"{OWN},{OWN}", f"track: {OWN} is given twice"),
        ("recording_tracker:NotATracker", "is no tracker; derive it from"),
        ("recording_tracker:Nothing", "cannot import"),
        ("no_such_module:Tracker", "there is no module 'no_such_module'"),
    ],
)
def test_trackers_that_are_not_there_are_refused_before_any_work(track, message):
    with pytest.raises(InputError, match=message):
        check(tiny.config(track=track))


@pytest.mark.parametrize("name", TRACKERS.ours)
def test_a_library_that_is_not_installed_is_named_with_what_installs_it(name, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda module, *a: None if module == name else found(module)
    )
    with pytest.raises(InputError) as refused:
        check(tiny.config(track=name))
    line = f'track={name} needs {name}; run pip install "fedadapt[{name}]"'
    assert str(refused.value) == line
    assert refused.value.exit_code == 2


def test_trackers_are_no_part_of_what_is_computed():
    assert tiny.config(track=OWN).experiment == tiny.config().experiment
    assert trackers_of(" a , b,") == ("a", "b")
