"""Why a client cannot connect: each of the reasons is told in one line, by a real TLS server."""

import contextlib
import datetime
import socket
import threading
import time
from dataclasses import replace

import httpx
import pytest
import uvicorn

import fedadapt.deploy.device.connection as connection
from fedadapt.deploy.bundle import Bundle, install
from fedadapt.deploy.certificates import make_server_certificate
from fedadapt.deploy.device.connection import check_clock, check_connection, check_version
from fedadapt.deploy.server.guard import Guard
from fedadapt.deploy.server.init import initialise, revoke_client
from fedadapt.deploy.server.key_ring import KeyRing
from fedadapt.deploy.server.traffic import Traffic


@contextlib.contextmanager
def serving(deployment, folder):
    """The guard of a deployment, without a SuperLink; its port."""
    guard = Guard(
        httpx.AsyncClient(base_url="https://127.0.0.1:1"),
        KeyRing(deployment.public_keys),
        Traffic(folder / "traffic.json"),
        lambda: ["7"],
    )
    config = uvicorn.Config(
        guard.app(), host="127.0.0.1", port=0, log_level="critical",
        ssl_certfile=str(deployment.certificate), ssl_keyfile=str(deployment.key),
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def port(made, tmp_path_factory):
    with serving(made, tmp_path_factory.mktemp("guard")) as port:
        yield port


@pytest.fixture
def here(bundle, port):
    """The first client, whose server is up."""
    return replace(bundle, server=f"localhost:{port}")


def last(bundle, clock=None):
    *good, found = check_connection(bundle, clock)
    assert all(finding.is_good for finding in good)
    assert "\n" not in found.line
    return found


def test_a_client_that_fits_hears_that_all_is_well(here):
    findings = list(check_connection(here))
    assert [f.topic for f in findings] == [
        "name", "port", "certificate", "clock", "key", "version",
    ]  # fmt: skip
    assert all(f.is_good for f in findings)


def test_a_name_that_nobody_knows(here):
    found = last(replace(here, server="nowhere.invalid:8443"))
    assert (found.topic, found.is_good, found.may_pass) == ("name", False, True)
    assert "nowhere.invalid is not known" in found.line


def test_a_port_that_nobody_listens_on(here):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    found = last(replace(here, server=f"localhost:{port}"))
    assert (found.topic, found.is_good, found.may_pass) == ("port", False, True)
    assert f"localhost:{port} is closed" in found.line


def test_a_certificate_of_another_deployment(here, tmp_path):
    other = initialise(tmp_path / "other", ("localhost",), 1, 8443, 8000)
    stranger = install(other.bundles / "client-1.tar", tmp_path / "stranger")
    found = last(replace(stranger, server=here.server))
    assert (found.topic, found.is_good, found.may_pass) == ("certificate", False, False)
    assert "not of the deployment that this bundle is of" in found.line


def test_a_certificate_that_has_ended_and_one_of_another_name(deployment, tmp_path):
    client = install(deployment.bundles / "client-1.tar", tmp_path / "identity")
    authority = (deployment.authority_key, deployment.ca_certificate)
    files = (deployment.key, deployment.certificate)
    ended = datetime.timedelta(hours=-1)
    make_server_certificate(*authority, ("localhost",), *files, lifetime=ended)
    with serving(deployment, tmp_path) as port:
        found = last(replace(client, server=f"localhost:{port}"))
        assert (found.topic, found.may_pass) == ("certificate", False)
        assert "expired" in found.line
        assert "clock" in found.line
    make_server_certificate(*authority, ("localhost",), *files)
    with serving(deployment, tmp_path) as port:
        found = last(replace(client, server=f"127.0.0.2:{port}"))
        assert found.topic in ("certificate", "port")  # the guard listens on 127.0.0.1 only


def test_a_server_of_another_name(here, monkeypatch):
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: real("127.0.0.1", *a, **k))
    found = last(replace(here, server=f"elsewhere.example:{here.port}"))
    assert (found.topic, found.is_good, found.may_pass) == ("certificate", False, False)
    assert "made for another name than elsewhere.example" in found.line


@pytest.mark.parametrize(
    ("ahead", "words"),
    [(12, "is 12 s ahead of the server's, allowed are 5 s"), (-400, "is 400 s behind")],
)
def test_a_wrong_clock(here, ahead, words):
    found = last(here, time.time() + ahead)
    assert (found.topic, found.is_good, found.may_pass) == ("clock", False, False)
    assert words in found.line


@pytest.mark.parametrize(
    ("ahead", "good"), [(4.9, True), (5.1, False), (-304, True), (-306, False)]
)
def test_how_far_a_clock_may_be_off_is_what_flower_allows(ahead, good):
    from flwr.supercore.constant import MAX_TIMESTAMP_DIFF_SECONDS, MIN_TIMESTAMP_DIFF_SECONDS

    assert check_clock(ahead).is_good == good
    assert (-connection.AHEAD, connection.BEHIND) == (
        MIN_TIMESTAMP_DIFF_SECONDS,
        MAX_TIMESTAMP_DIFF_SECONDS,
    )


def test_a_wrong_clock_is_found_even_where_the_key_is_unknown(deployment, tmp_path):
    client = install(deployment.bundles / "client-2.tar", tmp_path / "identity")
    revoke_client(deployment, "client-2")
    with serving(deployment, tmp_path) as port:
        client = replace(client, server=f"localhost:{port}")
        assert last(client, time.time() + 60).topic == "clock"
        found = last(client)
    assert (found.topic, found.is_good, found.may_pass) == ("key", False, False)
    assert "does not know the key of client-2" in found.line


@pytest.mark.parametrize(
    ("fedadapt", "flwr", "good"),
    [("same", "1.42.9", True), ("same", "1.41.0", False), ("0.0.1", "1.42.0", False)],
)
def test_another_version(monkeypatch, fedadapt, flwr, good):
    monkeypatch.setattr(connection, "version", lambda _: "1.42.0")
    server = connection.__version__ if fedadapt == "same" else fedadapt
    found = check_version(server, flwr)
    assert found.is_good == good
    if not good:
        assert "pip install" in found.line


def test_a_server_that_speaks_no_tls_or_says_nothing(here):
    def answer(listener, words):
        call, _ = listener.accept()
        with call:
            call.recv(4096)
            call.sendall(words)

    for words in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b""):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=answer, args=(listener, words))
            thread.start()
            found = last(replace(here, server=f"localhost:{listener.getsockname()[1]}"))
            thread.join()
        assert (found.topic, found.is_good) == ("certificate", False)
        assert "is it a fedadapt server that listens there?" in found.line


def test_a_client_hears_which_runs_were_stopped(here):
    assert connection.stopped_runs(here) == ["7"]
    assert connection.stopped_runs(replace(here, server="localhost:1")) == []


def test_a_bundle_knows_its_server_by_address_too(tmp_path):
    assert Bundle(tmp_path, "x", "[::1]:8443", "1.42.0").host == "::1"
