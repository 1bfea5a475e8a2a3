"""Who keeps a client and a server running: what is started again, and what ends them."""

import datetime
import os
import signal
import socket
from itertools import pairwise

import pytest
from fake_programs import Program

import fedadapt.deploy.device.client as supervisor
import fedadapt.deploy.lab as lab
import fedadapt.deploy.server.services as services
from fedadapt.deploy.certificates import expires, make_server_certificate
from fedadapt.deploy.device.client import LONGEST_WAIT, RETRY, _Client
from fedadapt.deploy.findings import Finding
from fedadapt.deploy.server.registration import Registered
from fedadapt.deploy.server.superlink import SuperLinkLostError
from fedadapt.deploy.server.traffic import Seen
from fedadapt.errors import FedadaptError, InputError

AWAY = Finding("port", False, "localhost:1 is closed", "is it running?", True)
REVOKED = Finding("key", False, "the server does not know the key of client-1", "ask the operator")
GOOD = Finding("version", True, "fedadapt, flwr")


@pytest.fixture
def client(bundle, programs, tmp_path, monkeypatch):
    """The supervisor of a client: what it says, and what the server's answers are."""
    monkeypatch.setattr(supervisor, "Running", programs)
    said, answers, stopped = [], [], []
    monkeypatch.setattr(
        supervisor, "check_connection", lambda _: iter([answers.pop(0) if answers else GOOD])
    )
    monkeypatch.setattr(supervisor, "stopped_runs", lambda _: stopped)
    client = _Client(bundle, tmp_path / "home", "", said.append)
    client.said, client.answers, client.stopped = said, answers, stopped
    return client


def run_until(clock, seconds, call):
    """Call what does not end, and press Ctrl-C after so many seconds."""
    clock.ends_at = seconds
    with pytest.raises(KeyboardInterrupt):
        call()


def starts(name):
    return [at for started, at in Program.started if started == name]


@pytest.mark.parametrize("name", ["supernode", "client"])
def test_a_client_is_started_again_later_and_later_whichever_of_its_programs_ends(
    client, clock, programs, name
):
    programs.lives[name] = [1.0] * 5
    run_until(clock, 60, lambda: client.run(wait=False))
    both = starts("supernode")
    assert starts("client") == both  # neither goes on without the other
    assert len(both) == 6
    waits = [later - earlier - 1.0 for earlier, later in pairwise(both)]
    assert waits == [2, 4, 8, 15, 15]
    assert Program.ended == ("supernode", "client") * 6  # the one first that says good-bye
    assert "again in 2 s" in client.said[0]


def test_a_client_that_still_counts_as_connected_waits_and_says_why(client, clock, programs):
    def refuse(command, log, env, on_line=None):
        program = programs(command, log, env, on_line)
        if on_line is not None and len(starts("supernode")) == 1:
            on_line("[code: 2004] Failed to activate SuperNode.")
        return program

    supervisor.Running = refuse
    programs.lives["supernode"] = [1.0, 1.0]
    run_until(clock, 60, lambda: client.run(wait=False))
    first, second, third = starts("supernode")
    assert second - first - 1.0 == LONGEST_WAIT
    assert third - second - 1.0 == 4.0  # the second time it was another reason
    assert "still counts this client as connected" in client.said[0]


def test_a_server_that_is_away_ends_a_client_at_its_start_only(client, clock, programs):
    client.answers[:] = [AWAY]
    with pytest.raises(InputError, match="localhost:1 is closed"):
        client.run(wait=False)
    assert Program.started == ()
    client.answers[:] = [GOOD, AWAY, AWAY]
    programs.lives["supernode"] = [1.0]
    run_until(clock, 120, lambda: client.run(wait=False))
    first, second = starts("supernode")
    assert second - first == 1.0 + 2.0 + 2 * RETRY
    assert sum("trying again every" in line for line in client.said) == 1  # the same line once


def test_a_client_that_waits_is_ended_by_what_waiting_does_not_mend(client, clock, programs):
    client.answers[:] = [AWAY, AWAY, REVOKED]
    with pytest.raises(InputError, match="does not know the key"):
        client.run(wait=True)
    client.answers[:] = [GOOD, REVOKED]
    programs.lives["supernode"] = [1.0]
    with pytest.raises(InputError, match="does not know the key"):
        client.run(wait=True)
    assert len(starts("supernode")) == 1


def test_what_is_computed_for_a_run_that_was_stopped_is_ended_once(
    client, clock, programs, monkeypatch
):
    """And nothing is ended while nothing is computed, or for another run."""
    signals = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append((pid, number, clock.passed)))
    hear = []
    sleep = clock.sleep

    def told(seconds):
        while hear and hear[0][0] <= clock.passed:
            programs.newest["supernode"].on_line(hear.pop(0)[1])
        sleep(seconds)

    monkeypatch.setattr("time.sleep", told)
    hear += [
        (0, "SuperNode ID: 1"), (1, "[RUN 7, ROUND 2]"), (1, "Received successfully"),
        (5, "Sending: a reply"),  # run 7 is stopped while nothing is computed
        (20, "[RUN 8, ROUND 1]"), (20, "Received successfully"), (26, "Sending: a reply"),
        (30, "[RUN 7, ROUND 3]"), (30, "Received successfully"),
    ]  # fmt: skip
    client.stopped.append("7")
    run_until(clock, 90, lambda: client.run(wait=False))
    [(pid, number, at)] = signals
    assert (pid, number) == (4711, signal.SIGUSR1)
    assert 30 + supervisor.ASK_EVERY <= at <= 31 + supervisor.ASK_EVERY
    assert client.said == [
        "client-1 is connected to " + client._bundle.server, "run 7, round 2", "run 8, round 1",
        "run 7, round 3", "run 7 was stopped",
    ]  # fmt: skip


@pytest.fixture
def server(deployment, programs, monkeypatch):
    """The services of a server; it is up from the third second on."""
    monkeypatch.setattr(services, "Running", programs)
    monkeypatch.setattr(services, "is_up", lambda _: services.time.monotonic() >= 1003)
    said = []
    monkeypatch.setattr(
        services, "register", lambda _: Registered(["client-1"], 0, ["client-2"])
    )  # fmt: skip

    def serve():
        services._keep_running(deployment, "127.0.0.1", said.append)

    serve.said = said
    return serve


def test_the_guard_is_started_when_the_superlink_is_up_and_both_are_kept_running(
    server, clock, programs
):
    programs.lives["superlink"] = [10.0]
    programs.lives["guard"] = [1.0, 1.0]
    clock.ends_at = 40
    server()
    assert [name for name, _ in Program.started[:2]] == ["superlink", "guard"]
    assert starts("guard")[0] >= 3
    assert len(starts("guard")) == 3
    assert len(starts("superlink")) == 2
    first, second, third = starts("guard")
    assert second - first < third - second  # it insists, so it waits longer
    assert Program.ended[-2:] == ("guard", "superlink")
    assert server.said[0] == "registered client-1"
    assert "client-2: a key that was revoked is not taken again" in server.said[1]
    assert "3 clients may connect" in server.said[2]
    assert sum("guard ended (7); again in" in line for line in server.said) == 2


def test_a_superlink_that_ends_or_does_not_answer_ends_the_server(
    server, clock, programs, monkeypatch
):
    programs.lives["superlink"] = [1.0]
    with pytest.raises(FedadaptError, match=r"the SuperLink ended at its start \(7\)"):
        server()
    monkeypatch.setattr(services, "is_up", lambda _: False)
    with pytest.raises(SuperLinkLostError, match="no SuperLink after 90 s"):
        server()
    assert starts("guard") == []
    assert Program.ended == ("superlink",) * 2


@pytest.mark.parametrize(
    ("days", "has_authority", "renewed", "words"),
    [
        (400, True, False, ""),
        (31, True, False, ""),
        (29, True, True, "was renewed"),
        (-1, True, True, "was renewed"),
        (29, False, False, "ends in 29 days; put"),
    ],
)
def test_a_certificate_is_renewed_in_its_last_days_if_it_can_be(
    deployment, days, has_authority, renewed, words
):
    of_days(deployment, days)
    if not has_authority:
        deployment.authority_key.unlink()
    before, said = expires(deployment.certificate), []
    services._check_certificate(deployment, said.append)
    assert (expires(deployment.certificate) > before) == renewed
    assert " ".join(said).find(words) >= 0
    assert bool(said) == bool(words)


def test_a_certificate_that_has_ended_and_cannot_be_renewed_ends_the_server(deployment):
    of_days(deployment, -1)
    deployment.authority_key.unlink()
    with pytest.raises(InputError, match=r"has ended, and .*ca\.key is not there to renew it"):
        services._check_certificate(deployment, print)


def of_days(deployment, days):
    make_server_certificate(
        deployment.authority_key, deployment.ca_certificate, deployment.hosts, deployment.key,
        deployment.certificate, lifetime=datetime.timedelta(days=days, minutes=1),
    )  # fmt: skip


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"control port: 127.0.0.1:{port} cannot be used"):
            services._check_port("127.0.0.1", port, "control port")
    services._check_port("127.0.0.1", port, "port")


@pytest.fixture
def trial(tmp_path, clock, programs, monkeypatch):
    """A lab of two clients; each counts as connected from a second of the clock on."""
    monkeypatch.setattr(lab, "Running", programs)
    monkeypatch.setattr(lab, "write_pictures", lambda folder, names: [folder / n for n in names])
    since = {"client-1": 5.0, "client-2": 9.0}

    def traffic(_):
        now = services.time.time()
        return {name: Seen(last=now if clock.passed >= at else 1.0) for name, at in since.items()}

    monkeypatch.setattr(lab, "read_traffic", traffic)
    said = []
    made = lab.Lab(tmp_path / "lab", 2, 8443, 8000, said.append)
    made.said, made.since = said, since
    return made


def test_a_lab_waits_for_all_its_clients_and_ends_the_server_last(trial, clock, programs):
    trial.start()
    assert 9 <= clock.passed < 10
    assert trial.said == ["2 clients are connected"]
    words = programs.newest["lab-client-2"].command
    assert words[words.index("--images") + 1].endswith("pictures/client-2")
    assert "--wait" in words
    trial.end()
    assert Program.ended == ("lab-client-2", "lab-client-1", "lab-server")


def test_a_lab_ends_where_a_client_stays_away_or_a_program_ends(trial, clock, programs):
    trial.since["client-2"] = 1e9
    with pytest.raises(FedadaptError, match="1 of 2 clients are connected after 300 s"):
        trial.start()
    programs.lives["lab-client-1"] = [1.0]
    with pytest.raises(FedadaptError, match=r"a process ended \(7\)"):
        trial.start()
