"""What ``fedadapt deploy status`` and ``doctor`` say of a server that is up."""

import datetime
import io
import time

import pytest
from rich.console import Console

import fedadapt.deploy.server.checks as checks
from fedadapt.deploy.certificates import fingerprint, load_public_key, make_server_certificate
from fedadapt.deploy.runs.run_status import RunStatus
from fedadapt.deploy.runs.status import RUNS_SHOWN, clients_table, runs_table
from fedadapt.deploy.server.traffic import SILENT_AFTER, Traffic


@pytest.fixture
def seen(deployment):
    """The first client has just called, the second a while ago, the third never."""
    traffic = Traffic(deployment.traffic)
    traffic.add("client-1", 2_500_000, 100_000)
    traffic.add("client-2", 0, 0, refused=True)
    traffic._seen["client-2"] = traffic._seen["client-2"]._replace(
        last=time.time() - SILENT_AFTER - 1
    )
    traffic.save()
    return deployment


def text(table):
    out = io.StringIO()
    Console(width=140, file=out).print(table)
    return out.getvalue()


def test_a_client_is_connected_that_was_heard_of_in_the_last_seconds(seen):
    rows = {line.split()[0]: line for line in text(clients_table(seen)).splitlines() if line}
    assert rows["client-1"].split()[2] == "yes"
    assert rows["client-2"].split()[2] == "no"
    assert rows["client-3"].split()[2:4] == ["no", "never"]
    assert rows["client-1"].split()[-3:] == ["2.5", "0.1", "0"]
    assert rows["client-2"].split()[-1] == "1"
    for name in ("client-1", "client-2", "client-3"):
        key = fingerprint(load_public_key(seen.public_keys / f"{name}.pub"))
        assert rows[name].split()[1] == key[:8]


def test_the_last_runs_are_shown_with_what_became_of_them():
    runs = [RunStatus(str(n), "finished:failed", f"why-{n}", 1_000_000, 0) for n in range(30)]
    said = text(runs_table(runs))
    assert [f"why-{n}" in said for n in range(30)] == [n < RUNS_SHOWN for n in range(30)]
    assert "1.0" in said


def findings(deployment, monkeypatch, status=403):
    """What the doctor finds where the SuperLink is up and the guard gives this answer."""
    import urllib.error
    import urllib.request

    class Opener:
        def open(self, request, timeout):
            assert request.full_url.endswith("/v1/control/start-run")
            if status is None:
                raise urllib.error.URLError("refused")
            if status == 200:
                return self
            raise urllib.error.HTTPError(request.full_url, status, "x", {}, None)

        def __enter__(self):
            self.status = status
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(checks, "is_up", lambda _: True)
    monkeypatch.setattr(urllib.request, "build_opener", lambda *_: Opener())
    return {found.topic: found for found in checks.check_server(deployment)}


def test_a_doctor_counts_the_clients_and_tries_the_operators_port(seen, monkeypatch):
    found = findings(seen, monkeypatch)
    assert found["control"].is_good
    assert not found["clients"].is_good
    assert found["clients"].text == "1 of 3 are connected; away: client-2, client-3"
    traffic = Traffic(seen.traffic)
    for name in ("client-2", "client-3"):
        traffic.add(name, 0, 0)
    traffic.save()
    assert findings(seen, monkeypatch)["clients"].is_good


@pytest.mark.parametrize("status", [200, 401, 404, 500])
def test_an_operators_call_that_is_answered_with_anything_but_403_is_told(
    seen, monkeypatch, status
):
    found = findings(seen, monkeypatch, status)
    assert (found["guard"].is_good, found["control"].is_good) == (True, False)
    assert f"answered {status}" in found["control"].text


def test_a_guard_that_does_not_answer_is_told(seen, monkeypatch):
    found = findings(seen, monkeypatch, None)
    assert (found["guard"].is_good, "control" in found) == (False, False)
    assert "guard.log" in found["guard"].remedy


@pytest.mark.parametrize(
    ("days", "good", "words"), [(31, True, "ends in 31"), (29, False, "ends in 29"),
                                (-1, False, "has ended")]
)  # fmt: skip
def test_a_certificate_that_ends_soon_is_told(deployment, days, good, words):
    lifetime = datetime.timedelta(days=days, minutes=1)
    make_server_certificate(
        deployment.authority_key, deployment.ca_certificate, deployment.hosts, deployment.key,
        deployment.certificate, lifetime=lifetime,
    )  # fmt: skip
    found = checks._certificate(deployment)
    assert (found.is_good, words in found.text) == (good, True)
