"""Whoever is killed with -9 in mid-round: the finished run is that which nobody disturbed.

F17 to F19 a SuperNode is killed and comes back, F22 and F23 the SuperLink is, and the guard, and
``deploy run``. F39: the SuperLink stands still.

The run is of three rounds with a head of its own on each client. In the second a client takes its
time, so that the round is under way for long enough. All must answer: a round that lacks somebody
fails, and is done again.
"""

import json
import os
import signal
import time

import poison
import pytest
import torch
from conftest import CLIENTS, outcomes
from safetensors.torch import load_file

from fedadapt.client.differential_privacy import epsilon_of
from fedadapt.client.egress.budget import PrivacyBudget
from fedadapt.client.egress.ledger import ledgers
from fedadapt.flower.egress import DELTA
from fedadapt.simulations.results.parquet import read_communication, read_evaluations

pytestmark = pytest.mark.deployment

WORDS = (
    "--strategy", "poison:PoisonedHeads", "--rounds", "3", "--min-replies", "1",
    "--client-deadline", "60", "--round-deadline", "100",
)  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(deployed):
    """The results of a run that nobody disturbs."""
    deployed.restore()
    code, said, folder = deployed.run(*WORDS)
    assert code == 0, said
    return results(folder), {client: head_on(deployed, client) for client in CLIENTS}


@pytest.mark.parametrize("victim", ["SuperNode", "guard", "SuperLink", "run"])
def test_whoever_is_killed_in_mid_round_the_run_is_finished_as_if_nothing_had_been(
    bench, undisturbed, victim
):
    """The last results and every client's own head are those of the undisturbed run, to the bit.

    Each client counts once a round. Each noisy answer that was computed is debited once, whichever
    process gave it and whether or not it arrived: what is remembered is the cost of all of them.
    """
    before = {client: noisy_answers(bench, client) for client in CLIENTS}
    bench.plan("client-1", 2, "dawdle")
    if victim == "run":
        bench.start("run", *bench.words_of_run(*WORDS))
    else:
        run = bench.run_beside(*WORDS)
    bench.wait(lambda: bench.trainings("client-1") == 2, "a second round")
    others = CLIENTS[1:]
    bench.wait(lambda: all(noisy_answers(bench, c) == before[c] + 2 for c in others), "answers")
    assert noisy_answers(bench, "client-1") == before["client-1"] + 1  # it takes its time
    if victim == "SuperNode":
        bench.kill("client-1")
        bench.start_client("client-1")
    elif victim == "guard":
        os.kill(bench.pid_of("server", "deploy.server.guard"), signal.SIGKILL)
    elif victim == "SuperLink":
        os.kill(bench.pid_of("server", "flower-superlink"), signal.SIGKILL)
    if victim == "run":  # what it followed is on the server: that is stopped, then gone on with
        bench.kill("run")
        number, folder = bench.number_of_run(), bench.newest_run()
        code, said = bench.deploy("stop", bench.server, number)
        assert code == 0, said
        bench.wait(lambda: not any(map(bench.children_of_executor, CLIENTS)), "free clients", 90)
    else:
        bench.go_on("client-1", 2)
        code, said, folder = run.result()
        assert code == {"SuperNode": 3, "guard": 0, "SuperLink": 8}[victim], said
        assert code == 0 or f"--resume {folder}" in said
    if victim != "guard":
        bench.wait_connected(*CLIENTS)
        code, said = bench.deploy("run", bench.server, "--resume", folder)
        assert code == 0, said
    models, heads = undisturbed
    assert results(folder) == models
    for client in CLIENTS:
        assert torch.equal(head_on(bench, client), heads[client]), client
        assert heads[client].abs().sum() > 0
        given = bench.trainings(client, "answers")
        assert noisy_answers(bench, client) == before[client] + given
        check_spent(bench, client)
    given = [bench.trainings(client, "answers") for client in CLIENTS]
    again = 0 if victim == "guard" else 1  # the second round was done once more
    assert given[1:] == [3 + again] * 2
    # Who was ended before it had an answer has spent nothing for it. Where the SuperLink was killed
    # it came to its end, and cost what it costs, although nobody could take it any more.
    assert given[0] == (4 if victim == "SuperLink" else 3)
    assert len({str(head) for head in heads.values()}) == len(CLIENTS)  # each has its own
    assert set(outcomes(folder).values()) == {("accepted", "")}  # at last
    for round in (1, 2, 3):
        rows = [row for row in read_communication(folder) if (row.action, row.round) ==
                ("train", round)]  # fmt: skip
        attempts = [rows[at : at + 3] for at in range(0, len(rows), 3)]
        assert all({row.client for row in attempt} == {0, 1, 2} for attempt in attempts)
        complete = [a for a in attempts if {row.outcome for row in a} == {"accepted"}]
        assert len(complete) == 1, rows


def results(folder):
    """The rows of the last evaluation: accuracy and loss of each model on each client."""
    return [row for row in read_evaluations(folder) if row.round == 3]


def experiment_of(bench, client):
    """Where a client keeps what is of the run that it trained for last."""
    places = (bench.home(client) / "state").glob("experiment-*/client-*")
    return max(places, key=os.path.getmtime)


def head_on(bench, client):
    """The weights of a client's own head, as its newest state has them."""
    newest = sorted(experiment_of(bench, client).glob("round-*.safetensors"))[-1]
    weights = load_file(newest)
    return torch.cat([weights[name].flatten() for name in sorted(weights) if "head" in name])


def spent(bench, client):
    """The record of what a client's noisy answers have cost, in all runs."""
    path = bench.home(client) / "state" / "privacy-spent.json"
    if not path.exists():
        return {"answers": 0, "charge": 0.0}
    [record] = json.loads(path.read_text())["data-sets"].values()
    return record


def noisy_answers(bench, client):
    return spent(bench, client)["answers"]


def check_spent(bench, client):
    """Epsilon is that of all answers together, and the ledger has every one with its part."""
    record = spent(bench, client)
    charge = record["answers"] / poison.NOISE**2
    assert record["charge"] == pytest.approx(charge, rel=1e-12)
    state = bench.home(client) / "state"
    [data_set] = json.loads((state / "privacy-spent.json").read_text())["data-sets"]
    epsilon = PrivacyBudget(state, data_set).spent(DELTA)
    assert epsilon == pytest.approx(epsilon_of(charge, DELTA), rel=1e-9)
    [ledger] = ledgers(state)
    costly = [entry.epsilon for entry in ledger.entries() if entry.epsilon > 0]
    assert len(costly) == record["answers"]
    assert sum(costly) == pytest.approx(epsilon, rel=1e-9)
    assert ledger.entries()[-1].confirmed


def test_a_superlink_that_stands_still_for_a_while_costs_nothing(bench):
    """F39: ten seconds, in the middle of a round."""
    bench.plan("client-1", 1, "dawdle")
    run = bench.run_beside("--strategy", "poison:Poisoned", "--rounds", "1")
    bench.wait(lambda: bench.trainings("client-1"), "training")
    pid = bench.pid_of("server", "flower-superlink")
    os.kill(pid, signal.SIGSTOP)
    time.sleep(10)
    os.kill(pid, signal.SIGCONT)
    bench.go_on("client-1", 1)
    code, said, folder = run.result()
    assert code == 0, said
    assert set(outcomes(folder).values()) == {("accepted", "")}
