"""What a client is started with, what is looked at before, and what it forgets."""

import os
import subprocess
import sys
import time

import click.testing
import pytest
import tomli_w

from fedadapt.cli import main
from fedadapt.client.egress.budget import PrivacyBudget
from fedadapt.client.egress.ledger import Ledger
from fedadapt.config import RunConfig
from fedadapt.deploy.device import checks
from fedadapt.deploy.device.checks import check_device, check_images
from fedadapt.deploy.device.client import node_config, supernode_command
from fedadapt.deploy.device.forget import forget_client, forget_runs, old_runs
from fedadapt.deploy.sample_pictures import write_pictures
from fedadapt.errors import InputError
from fedadapt.flower.real_clients import device_executor


def test_a_supernode_is_started_with_tls_and_its_key_and_without_shipped_code(bundle):
    command = supernode_command(bundle, "x=1", 9999)
    assert command[command.index("--root-certificates") + 1] == str(bundle.ca_certificate)
    assert command[command.index("--auth-supernode-private-key") + 1] == str(bundle.key)
    assert command[command.index("--superlink") + 1] == bundle.server
    assert command[command.index("--isolation") + 1] == "process"
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert "--insecure" not in command


def test_flower_reads_the_node_configuration_as_it_was_meant(tmp_path):
    from flwr.common.config import parse_config_args

    text = node_config(
        tmp_path / "a home",
        tmp_path / "my pictures",
        "classes",
        tmp_path / "p.toml",
        "partition-id=3",
    )
    assert parse_config_args([text]) == {
        "state-dir": str(tmp_path / "a home" / "state"),
        "key": str(tmp_path / "a home" / "identity" / "client.key"),
        "share": "classes",
        "egress-policy": str(tmp_path / "p.toml"),
        "images": str(tmp_path / "my pictures"),
        "partition-id": 3,
    }


@pytest.mark.parametrize("name", ['a"b', "a'b", "a\\b", "a\nb"])
def test_a_path_that_flower_would_misread_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="quotes, backslashes and control characters"):
        node_config(tmp_path, tmp_path / name, "", None, "")


def run(*words):
    return click.testing.CliRunner().invoke(main, ["deploy", *map(str, words)])


@pytest.fixture
def said(capsys):
    """Call the command line; its exit code and what it said."""

    def call(*words):
        with pytest.raises(SystemExit) as end:
            main.main(["deploy", *map(str, words)])
        return end.value.code, capsys.readouterr().err.strip()

    return call


def test_insecure_is_refused_in_one_line(said, made):
    code, words = said("client", made.bundles / "client-1.tar", "--insecure")
    assert code == 2
    assert words.startswith("fedadapt: --insecure: a client speaks to its server over TLS only")
    assert "\n" not in words


def test_a_client_needs_pictures(said, made, tmp_path):
    bundle = made.bundles / "client-1.tar"
    assert said("client", bundle) == (
        2,
        "fedadapt: images: give the folder with this client's pictures: --images FOLDER",
    )
    code, words = said("client", bundle, "--images", tmp_path / "none", "--home", tmp_path / "h")
    assert code == 2
    assert "is not a folder" in words
    assert not (tmp_path / "h").exists()


def test_a_policy_that_cannot_be_kept_ends_a_client_before_anything_starts(
    said, made, tmp_path, monkeypatch
):
    """One that is wrong, and one with a budget that nothing here can count."""
    write_pictures(tmp_path / "p", ("one",), 10)
    policy = tmp_path / "policy.toml"
    words = ("client", made.bundles / "client-1.tar", "--images", tmp_path / "p" / "one",
             "--home", tmp_path / "h", "--policy", policy)  # fmt: skip
    policy.write_text("metrics = maybe")
    code, line = said(*words)
    assert (code, line.startswith(f"fedadapt: {policy}: ")) == (2, True)
    policy.write_text("[privacy]\nepsilon = 1.0\ndelta = 1e-5")
    monkeypatch.setattr(checks, "ACCOUNTING", "no_such_package")
    code, line = said(*words)
    assert code == 2
    assert line.endswith('pip install "fedadapt[privacy]"')
    assert "\n" not in line
    assert not (tmp_path / "h").exists()


def test_a_server_that_is_not_there_ends_a_client_in_one_line_before_anything_starts(
    said, made, tmp_path
):
    write_pictures(tmp_path / "p", ("one",), 10)
    code, words = said(
        "client", made.bundles / "client-1.tar", "--images", tmp_path / "p" / "one",
        "--home", tmp_path / "h",
    )  # fmt: skip
    assert code == 2
    assert words.startswith(f"fedadapt: port: {made.address} is closed")
    assert "\n" not in words


def test_a_run_without_a_server_says_how_to_start_it(said, made):
    code, words = said("run", made.folder, "--rounds", "1")
    assert code == 8
    assert "the server is not running; start it: fedadapt deploy server" in words


def test_a_run_that_goes_on_is_not_refused_for_being_where_it_is(said, made, tmp_path):
    """It gets as far as the server, which is not there; only a folder for its copy must be new."""
    folder = tmp_path / "own-fedavg-1"
    folder.mkdir()
    config = RunConfig(benchmark="own", clients=3, classes="a,b", image_size=8, out=str(folder))
    (folder / "config.toml").write_text(tomli_w.dumps(config.to_mapping()))
    code, words = said("run", made.folder, "--resume", folder)
    assert (code, "the server is not running" in words) == (8, True)
    code, words = said("run", made.folder, "--resume", folder, "--out", folder)
    assert (code, words) == (2, f"fedadapt: out: {folder} is in use; name a new folder")
    code, words = said("run", made.folder, "--resume", tmp_path / "nowhere")
    assert code == 2


def test_a_bad_setting_of_a_run_is_refused_before_anything_is_asked(said, made):
    code, words = said("run", made.folder, "--strategy", "fedavgg")
    assert code == 2
    assert "did you mean 'fedavg'" in words


@pytest.mark.parametrize("command", ["server", "run", "status", "add", "revoke", "stop"])
def test_a_folder_that_is_no_deployment_is_named(said, tmp_path, command):
    more = ["x"] if command in ("add", "revoke", "stop") else []
    code, words = said(command, tmp_path, *more)
    assert code == 2
    assert "no deployment" in words


def test_a_doctor_of_a_device_names_what_is_wrong(made, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main.main(["deploy", "doctor", str(made.bundles / "client-1.tar"),
                   "--images", str(tmp_path / "no"), "--home", str(tmp_path / "h")])  # fmt: skip
    out = capsys.readouterr().out
    assert end.value.code == 1
    assert "ok   packages" in out
    assert "BAD  data" in out
    assert f"BAD  port: {made.address} is closed" in out


def test_a_doctor_of_a_server_names_what_is_wrong(deployment, capsys):
    (deployment.folder / "logs" / "x").write_text("")
    (deployment.folder / "logs" / "x").chmod(0o640)
    with pytest.raises(SystemExit) as end:
        main.main(["deploy", "doctor", str(deployment.folder)])
    out = capsys.readouterr().out
    assert end.value.code == 1
    assert "BAD  files" in out
    assert "ok   certificate: of localhost ends in 7" in out
    assert f"127.0.0.1:{deployment.control_port} does not answer" in out


def test_pictures_are_counted_by_class(tmp_path):
    [own] = write_pictures(tmp_path, ("one",), 20)
    assert check_images(own).text == "20 pictures in 10 folders"
    assert not check_images(tmp_path / "nowhere").is_good
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    assert "no pictures" in check_images(tmp_path / "empty").text


def test_a_full_disk_and_a_missing_package_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "LEAST_FREE", 2**70)
    monkeypatch.setattr(checks, "PACKAGES", ("flwr", "no_such_package"))
    found = {finding.topic: finding for finding in check_device(tmp_path / "home", None)}
    assert not found["disk"].is_good
    assert "no_such_package missing" in found["packages"].text


def test_sample_pictures_differ_from_client_to_client(tmp_path):
    import numpy as np
    from PIL import Image

    folders = write_pictures(tmp_path, ("a", "b", "c", "d"), 30)
    assert [folder.name for folder in folders] == ["a", "b", "c", "d"]
    counts = [sum(1 for _ in folder.rglob("*.png")) for folder in folders]
    assert counts == [30] * 4
    contents = [path.read_bytes() for path in tmp_path.rglob("*.png")]
    assert len(set(contents)) == len(contents)
    means = [np.mean([np.asarray(Image.open(p)) for p in f.rglob("*.png")]) for f in folders]
    assert means[1] > 2 * means[0]  # dark on light
    assert all({p.name for p in f.iterdir()} <= set("0123456789") for f in folders)


def test_only_runs_that_are_over_are_forgotten(tmp_path):
    old, new = tmp_path / "state" / "experiment-old", tmp_path / "state" / "experiment-new"
    for folder in (old, new):
        (folder / "client-x").mkdir(parents=True)
        (folder / "client-x" / "model").write_bytes(b"x" * 100)
    (tmp_path / "state" / "identity").write_text("me")
    budget = PrivacyBudget(tmp_path / "state", "mine")
    spent = budget.spend(0.01, None, 1e-5).epsilon
    ledger = Ledger(tmp_path / "state", "me")
    ledger.write(run="1", round=1, type="train", outcome="sent", parts=())
    long_ago = time.time() - 40 * 86_400
    kept = (budget.path, ledger.path, new / "client-x" / "model")  # the last is not its newest
    for path in (old, *old.rglob("*"), *kept):
        os.utime(path, (long_ago, long_ago))
    assert old_runs(tmp_path, 30) == [old]
    assert old_runs(tmp_path, 50) == []
    assert forget_runs([old]) == 100
    assert not old.exists()
    assert new.exists()
    assert (tmp_path / "state" / "identity").exists()
    assert ledger.path.read_text().count("\n") == 1
    assert budget.spend(0.01, None, 1e-5).epsilon > spent  # what was spent before counts still


def test_everything_is_forgotten_where_a_client_was_and_nowhere_else(tmp_path):
    with pytest.raises(InputError, match="not the folder of a client"):
        forget_client(tmp_path)
    (tmp_path / "home" / "identity").mkdir(parents=True)
    forget_client(tmp_path / "home")
    assert not (tmp_path / "home").exists()
    assert tmp_path.exists()


def test_the_executor_knows_this_flower_and_refuses_others(monkeypatch):
    import importlib.metadata

    device_executor.check_flower()
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.50.0")
    with pytest.raises(InputError, match=r"flwr 1\.50\.0: a client needs one of 1\.41"):
        device_executor.check_flower()


def test_shipped_code_is_not_run_where_flower_has_moved_what_loads_it():
    from types import SimpleNamespace

    with pytest.raises(InputError, match="has no load to replace"):
        device_executor._replace(SimpleNamespace(), "load", print)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_child_that_is_asked_to_stop_ends_and_one_that_does_not_is_ended(monkeypatch):
    monkeypatch.setattr(device_executor, "GRACE", 0.3)
    code = (
        "import signal,time; signal.signal(15, signal.SIG_IGN); print(1,flush=True); time.sleep(60)"
    )
    deaf = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    deaf.stdout.readline()
    heeds = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    killed = []
    children = device_executor.Children(lambda token, told: killed.append((token, told)))
    for process in (deaf, heeds):
        pipe, other = os.pipe()
        os.close(other)
        children.add(process.pid, pipe, "token")
    children.stop()
    deadline = time.monotonic() + 20
    while len(children):
        assert time.monotonic() < deadline
        children.look()
        time.sleep(0.05)
    deaf.stdout.close()
    for process in (deaf, heeds):
        process.returncode = 0  # waited for already
    assert killed == []  # neither had told what it computes


def child_with(children, told):
    """A process that is being computed, and that has told what."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    pipe, other = os.pipe()
    os.write(other, told)
    os.close(other)
    children.add(process.pid, pipe, "token")
    return process


@pytest.mark.parametrize(("told", "answers"), [(b"what it computes", 1), (b"", 0)])
def test_a_process_that_was_killed_is_answered_for_once_if_it_had_said_what_it_computes(
    told, answers
):
    asked = []

    def killed(token, told):
        asked.append((token, told))
        pipe, other = os.pipe()
        os.close(other)
        return os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {}), pipe

    children = device_executor.Children(killed)
    process = child_with(children, told)
    process.kill()
    deadline = time.monotonic() + 20
    while len(children):
        assert time.monotonic() < deadline
        children.look()
        time.sleep(0.02)
    process.returncode = 0  # waited for already
    assert asked == [("token", told)] * answers


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize(
    ("ends", "code"), [(None, 0), (SystemExit(0), 0), (SystemExit(3), 3), (ValueError("x"), 1)]
)
def test_only_a_process_that_has_handed_its_answer_over_confirms_it(
    tmp_path, monkeypatch, capfd, ends, code
):
    monkeypatch.setattr(device_executor, "_confirm", (tmp_path / "confirmed").touch)

    def answer(pipe, words):
        os.write(pipe, words)
        if ends is not None:
            raise ends

    process, pipe = device_executor._fork(answer, b"told")
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == code
    assert os.read(pipe, 100) == b"told"
    os.close(pipe)
    assert (tmp_path / "confirmed").exists() == (code == 0)
    assert ("ValueError" in capfd.readouterr().err) == (code == 1)
