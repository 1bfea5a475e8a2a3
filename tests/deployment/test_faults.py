"""Faults of the matrix in shared terms: what goes wrong on one client is a line, and costs little.

F1 raises, F2 hangs, F4 killed, F5 exits or is told to end, F12 nobody answers, F14 too few,
F17 to F19 a SuperNode is killed and comes back, F22 and F23 the SuperLink is, F30 two of one row,
F34 a client is revoked, F39 the SuperLink stands still, F44 a run is stopped.
"""

import os
import re
import signal
import sqlite3
import threading
import time
from pathlib import Path

import poison
import pytest
from machines import descendants, machines

from fedadapt.deploy.sample_pictures import write_pictures
from fedadapt.simulations.results.parquet import read_communication

pytestmark = pytest.mark.deployment

CLIENTS = ("client-1", "client-2", "client-3")
RUN = (
    "--classes", "0,1,2,3,4,5,6,7,8,9", "--image-size", "12", "--model", "mlp", "--local-epochs",
    "1", "--adapt", "none", "--no-local", "--save-models", "none", "--evaluate-every", "9",
    "--strategy", "poison:Poisoned",
)  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with machines(tmp_path_factory.mktemp("bench"), 3) as bench:
        write_pictures(bench.folder / "pictures", CLIENTS, 40)
        bench.start_server()
        for name in CLIENTS:
            start(bench, name)
        bench.wait_connected(*CLIENTS)
        yield bench


def start(bench, name):
    bench.start_client(
        name, "--images", bench.folder / "pictures" / name, "--node-config", 'modules="poison"'
    )


@pytest.fixture
def plan(bench):
    """Say what the n-th training of a client does, from now on."""
    for counter in bench.folder.glob("client-*.count"):
        counter.unlink()
    for old in bench.folder.glob("client-?-*"):
        old.unlink()

    def plan(client, number, what):
        (bench.folder / f"client-{client}-{number}").write_text(what)

    return plan


def run(bench, *words):
    """A run to its end: exit code, what it said, and client x round -> outcome of training."""
    code, said = bench.deploy("run", bench.server, *RUN, *words)
    folder = max((bench.server / "runs").iterdir(), key=os.path.getmtime)
    return code, said, folder


def outcomes(folder):
    return {
        (row.client + 1, row.round): (row.outcome, re.sub(" incident=.*", "", row.reason))
        for row in read_communication(folder)
        if row.action == "train"
    }


def all_text_of(bench):
    """Everything that is written on the server: logs, database, run folders, what was said."""
    for path in bench.server.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()
    with sqlite3.connect(bench.deployment.database) as database:
        for line in database.iterdump():
            yield bench.deployment.database, line.encode()


def test_what_goes_wrong_on_a_client_is_a_line_and_the_round_goes_on(bench, plan):
    """F1, F2, F4, F5: raises, hangs, is killed, exits, is told to end; then answers as before."""
    plan(1, 1, "raise")
    plan(2, 1, "kill")
    plan(3, 2, "hang")
    plan(1, 2, "exit")
    plan(2, 3, "terminate")
    code, said, folder = run(
        bench, "--rounds", "4", "--client-deadline", "25", "--round-deadline", "200",
        "--min-replies", "0.3",
    )  # fmt: skip
    assert code == 0, said
    ok = ("accepted", "")
    assert outcomes(folder) == {
        (1, 1): ("error", "crash:ValueError"), (2, 1): ("error", "killed"), (3, 1): ok,
        (1, 2): ("error", "exit"), (2, 2): ok, (3, 2): ("error", "timeout"),
        (1, 3): ok, (2, 3): ("error", "exit"), (3, 3): ok,
        (1, 4): ok, (2, 4): ok, (3, 4): ok,
    }  # fmt: skip
    assert "client 0: error, crash:ValueError" in said
    incident = re.search(r"crash:ValueError incident=(\w+)", said)[1]
    log = (bench.home("client-1") / "logs" / "client.log").read_text()
    assert poison.CANARY in log
    assert incident in log
    for path, content in all_text_of(bench):
        assert b"canary-of-an-exception" not in content, path
        assert b"patients.csv" not in content, path


def test_a_round_without_answers_ends_the_run_and_it_goes_on_when_they_are_back(bench, plan):
    """F12, with exit code 3 and a checkpoint."""
    for client in (1, 2, 3):
        plan(client, 2, "raise")
    code, said, folder = run(bench, "--rounds", "2")
    assert code == 3, said
    assert "0 of 3" in said
    code, said = bench.deploy("run", bench.server, "--resume", folder)
    assert code == 0, said
    assert outcomes(folder)[1, 2] == ("accepted", "")
    assert len([1 for row in read_communication(folder) if row.action == "train"]) == 6 + 3


def test_a_run_that_is_stopped_frees_the_clients(bench, plan):
    """F44: what was being computed for it ends, and the next run has all of them."""
    for client in (1, 2, 3):
        plan(client, 1, "hang")
    process = threading.Thread(target=lambda: run(bench, "--rounds", "1"))
    process.start()
    bench.wait(
        lambda: all((bench.folder / f"{name}.count").exists() for name in CLIENTS), "training"
    )
    number = re.findall(r"run (\d+), round", bench.said("client-1"))[-1]
    computing = [bench.children_of_executor(name) for name in CLIENTS]
    assert all(computing)
    code, said = bench.deploy("stop", bench.server, number)
    assert code == 0, said
    bench.wait(lambda: not any(map(bench.children_of_executor, CLIENTS)), "free clients", 90)
    process.join()
    code, said, folder = run(bench, "--rounds", "1")
    assert code == 0, said
    assert set(outcomes(folder).values()) == {("accepted", "")}


def test_a_superlink_that_stands_still_for_a_while_costs_nothing(bench, plan):
    """F39: ten seconds, in the middle of a round."""
    plan(1, 1, "")
    done = []
    thread = threading.Thread(target=lambda: done.append(run(bench, "--rounds", "1")))
    thread.start()
    bench.wait(lambda: (bench.folder / "client-1.count").exists(), "training")
    pid = bench.pid_of("server", "flower-superlink")
    os.kill(pid, signal.SIGSTOP)
    time.sleep(10)
    os.kill(pid, signal.SIGCONT)
    thread.join()
    [(code, said, folder)] = done
    assert code == 0, said
    assert set(outcomes(folder).values()) == {("accepted", "")}


@pytest.mark.parametrize("victim", ["SuperNode", "guard", "SuperLink", "run"])
def test_whoever_is_killed_in_mid_round_the_run_is_finished_by_going_on(bench, plan, victim):
    """F17 to F19, F22, F23, and the guard; no client is counted twice."""
    plan(1, 2, "hang")  # so that the round is under way for long enough
    done = []
    words = ("--rounds", "3", "--client-deadline", "30", "--round-deadline", "150")
    if victim == "run":
        bench.start("run", "run", bench.server, *RUN, *words)
    else:
        thread = threading.Thread(target=lambda: done.append(run(bench, *words)))
        thread.start()
    bench.wait(lambda: (bench.folder / "client-1.count").read_text() == "xx", "a second round")
    if victim == "SuperNode":
        bench.kill("client-2")
        start(bench, "client-2")
    elif victim == "guard":
        os.kill(bench.pid_of("server", "deploy.server.guard"), signal.SIGKILL)
    elif victim == "SuperLink":
        os.kill(bench.pid_of("server", "flower-superlink"), signal.SIGKILL)
    else:
        bench.kill("run")
    if victim == "run":  # the run itself is on the server: it is stopped, then gone on with
        number = re.findall(r"run (\d+), round", bench.said("client-1"))[-1]
        bench.deploy("stop", bench.server, number)
        folder = max((bench.server / "runs").iterdir(), key=os.path.getmtime)
        code, said = 8, ""
    else:
        thread.join()
        [(code, said, folder)] = done
    if victim == "SuperLink":
        assert code == 8, said
        assert f"--resume {folder}" in said
    if code:
        bench.wait_connected(*CLIENTS)
        code, said = bench.deploy("run", bench.server, "--resume", folder)
    assert code == 0, said
    bench.wait_connected(*CLIENTS)
    rows = read_communication(folder)
    for round in (1, 2, 3):  # a round that failed was asked for again: its last attempt counts
        last = [r for r in rows if (r.action, r.round) == ("train", round)][-3:]
        assert {r.client for r in last} == {0, 1, 2}
        assert sum(r.outcome == "accepted" for r in last) >= 2
    assert [r for r in rows if (r.action, r.round, r.client) == ("train", 3, 1)][-1].outcome in (
        "accepted", "late", "error",
    )  # fmt: skip


def test_a_client_that_is_revoked_is_out_and_the_round_goes_on(bench, plan):
    """F34, and F31: its key is then unknown, which is said in one line."""
    code, said = bench.deploy("add", bench.server, "guest")
    assert code == 0, said
    write_pictures(bench.folder / "more", ("guest",), 40)
    bench.start_client(
        "guest", "--images", bench.folder / "more" / "guest", "--node-config", 'modules="poison"'
    )
    bench.wait_connected("guest")
    code, said = bench.deploy("revoke", bench.server, "guest")
    assert code == 0, said
    process = bench.processes.pop("guest")
    assert process.wait(120) == 2
    assert "key: the server does not know the key of guest" in bench.said("guest")
    assert descendants(process.pid) == []
    code, said, folder = run(bench, "--rounds", "1")
    assert code == 0, said
    assert {client for client, _ in outcomes(folder)} == {1, 2, 3}


def test_too_few_clients_end_the_wait(bench, plan):
    """F14: exit code 3, and how many there were."""
    bench.end("client-2")
    bench.end("client-3")
    code, said, _ = run(bench, "--rounds", "1", "--node-wait", "5")
    assert code == 3, said
    assert "1 of 3 clients" in said
    for name in ("client-2", "client-3"):
        start(bench, name)
    bench.wait_connected(*CLIENTS)


def test_a_second_server_and_a_second_client_of_a_folder_are_refused(bench):
    code, said = bench.deploy("server", bench.server)
    assert (code, "its server is running already" in said) == (2, True)
    code, said = bench.deploy(
        "client", bench.deployment.bundles / "client-1.tar", "--home", bench.home("client-1"),
        "--images", Path(bench.folder / "pictures" / "client-1"),
    )  # fmt: skip
    assert (code, "this client is running already" in said) == (2, True)
