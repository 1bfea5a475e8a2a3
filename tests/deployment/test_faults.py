"""Faults of the matrix in shared terms: what goes wrong on one client is a line, and costs little.

F1 raises, F2 hangs, F4 killed, F5 exits or is told to end, F12 nobody answers, F14 too few,
F34 a client is revoked, F44 a run is stopped. ``test_kills`` has the others.
"""

import re
import shutil
import sqlite3
from pathlib import Path

import poison
import pytest
from conftest import CLIENTS, outcomes
from machines import descendants

from fedadapt.simulations.results.parquet import read_communication

pytestmark = pytest.mark.deployment

POISONED = ("--strategy", "poison:Poisoned")
OK = ("accepted", "")


def test_what_goes_wrong_on_a_client_is_a_line_and_the_round_goes_on(bench):
    """F1, F2, F4, F5: raises, hangs, is killed, exits, is told to end; then answers as before."""
    bench.plan("client-1", 1, "raise")
    bench.plan("client-2", 1, "kill")
    bench.plan("client-3", 2, "hang")
    bench.plan("client-1", 2, "exit")
    bench.plan("client-2", 3, "terminate")
    code, said, folder = bench.run(
        *POISONED, "--rounds", "4", "--client-deadline", "15", "--round-deadline", "200",
        "--min-replies", "0.3",
    )  # fmt: skip
    assert code == 0, said
    assert outcomes(folder) == {
        (1, 1): ("error", "crash:ValueError"), (2, 1): ("error", "killed"), (3, 1): OK,
        (1, 2): ("error", "exit"), (2, 2): OK, (3, 2): ("error", "timeout"),
        (1, 3): OK, (2, 3): ("error", "exit"), (3, 3): OK,
        (1, 4): OK, (2, 4): OK, (3, 4): OK,
    }  # fmt: skip
    assert "client 0: error, crash:ValueError" in said
    incident = re.search(r"crash:ValueError incident=(\w+)", said)[1]
    assert poison.CANARY in bench.log("client-1")
    assert incident in bench.log("client-1")
    for place, content in all_text_of(bench):
        assert b"canary-of-an-exception" not in content, place
        assert b"patients.csv" not in content, place


def all_text_of(bench):
    """Everything that is written on the server: logs, database, run folders."""
    for path in bench.server.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()
    with sqlite3.connect(bench.deployment.database) as database:
        for line in database.iterdump():
            yield bench.deployment.database, line.encode()


def test_a_round_without_answers_ends_the_run_and_it_goes_on_when_they_are_back(bench):
    """F12, with exit code 3 and a checkpoint."""
    for client in CLIENTS:
        bench.plan(client, 2, "raise")
    code, said, folder = bench.run(*POISONED, "--rounds", "2")
    assert code == 3, said
    assert "0 of 3" in said
    code, said = bench.deploy("run", bench.server, "--resume", folder)
    assert code == 0, said
    assert outcomes(folder)[1, 2] == OK
    assert len([1 for row in read_communication(folder) if row.action == "train"]) == 6 + 3


def test_a_run_that_is_stopped_frees_the_clients(bench):
    """F44: what was being computed for it ends, and the next run has all of them."""
    for client in CLIENTS:
        bench.plan(client, 1, "hang")
    run = bench.run_beside(*POISONED, "--rounds", "1")
    bench.wait(lambda: all(map(bench.trainings, CLIENTS)), "training")
    assert all(map(bench.children_of_executor, CLIENTS))
    code, said = bench.deploy("stop", bench.server, bench.number_of_run())
    assert code == 0, said
    bench.wait(lambda: not any(map(bench.children_of_executor, CLIENTS)), "free clients", 90)
    code, said, _ = run.result()
    assert code == 5, said
    assert "the run was stopped" in said
    code, said, folder = bench.run(*POISONED, "--rounds", "1")
    assert code == 0, said
    assert set(outcomes(folder).values()) == {OK}


def test_a_client_that_is_revoked_is_out_and_the_round_goes_on(bench):
    """F34, and F31: its key is then unknown, which is said in one line."""
    code, said = bench.deploy("add", bench.server, "guest")
    assert code == 0, said
    shutil.copytree(bench.pictures("client-1"), bench.pictures("guest"))
    bench.start_client("guest")
    bench.wait_connected("guest")
    bench.plan("guest", 1, "hang")
    run = bench.run_beside(*POISONED, "--rounds", "1", "--round-deadline", "60")
    bench.wait(lambda: bench.trainings("guest"), "training")
    guest = bench.processes.pop("guest")
    below = descendants(guest.pid)
    code, said = bench.deploy("revoke", bench.server, "guest")
    assert code == 0, said
    assert guest.wait(120) == 2
    assert "key: the server does not know the key of guest" in bench.said("guest")
    assert not any(map(is_alive, below))
    code, said, folder = run.result()
    assert code == 0, said
    found = outcomes(folder)
    assert [found[client, 1] for client in (1, 2, 3)] == [OK, OK, OK]
    assert found[4, 1][0] in ("late", "error", "lost")


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_too_few_clients_end_the_wait(bench):
    """F14: exit code 3, and how many there were."""
    bench.end("client-2")
    bench.end("client-3")
    code, said, _ = bench.run(*POISONED, "--rounds", "1", "--node-wait", "5")
    assert code == 3, said
    assert "1 of 3 clients" in said


def test_a_second_server_and_a_second_client_of_a_folder_are_refused(bench):
    code, said = bench.deploy("server", bench.server)
    assert (code, "its server is running already" in said) == (2, True)
    code, said = bench.deploy(
        "client", bench.deployment.bundles / "client-1.tar", "--home", bench.home("client-1"),
        "--images", bench.pictures("client-1"),
    )  # fmt: skip
    assert (code, "this client is running already" in said) == (2, True)
