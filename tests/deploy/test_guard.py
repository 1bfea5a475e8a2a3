"""The guard lets the calls of known devices through, and nothing else."""

import anyio
import httpx
import pytest
from signed_headers import headers_of

from fedadapt.deploy.bundle import install
from fedadapt.deploy.server.guard import CALLS, Guard
from fedadapt.deploy.server.key_ring import KeyRing
from fedadapt.deploy.server.traffic import Seen, Traffic, read_traffic


class SuperLink:
    """Answers every call, and remembers what was asked."""

    def __init__(self):
        self.calls = []
        self.status = 200
        self.is_up = True

    async def __call__(self, request):
        if not self.is_up:
            raise httpx.ConnectError("refused")
        body = await request.aread()
        self.calls.append((request.url.path, body, dict(request.headers)))

        async def pieces():
            for _ in range(3):
                yield b"answer"

        return httpx.Response(self.status, content=pieces(), headers={"flwr-x": "1"})


@pytest.fixture
def superlink():
    return SuperLink()


@pytest.fixture
def ask(made, superlink, tmp_path):
    """Send one request to the guard; its answer."""
    upstream = httpx.AsyncClient(
        base_url="https://127.0.0.1:1", transport=httpx.MockTransport(superlink)
    )
    traffic = Traffic(tmp_path / "traffic.json")
    guard = Guard(upstream, KeyRing(made.public_keys), traffic, largest_body=1000)
    device = httpx.AsyncClient(transport=httpx.ASGITransport(guard.app()), base_url="https://guard")

    def ask(method, path, **more):
        async def call():
            return await device.request(method, path, **more)

        return anyio.run(call)

    ask.traffic = traffic
    return ask


@pytest.mark.parametrize("call", sorted(CALLS))
def test_a_known_device_is_heard(ask, superlink, signed, call):
    between = {"te": "trailers", "proxy-authorization": "x", "upgrade": "h2c"}
    answer = ask("POST", f"/v1/fleet/{call}", content=b"question", headers=signed | between)
    assert (answer.status_code, answer.content) == (200, b"answer" * 3)
    assert answer.headers["flwr-x"] == "1"
    [(path, body, headers)] = superlink.calls
    assert (path, body) == (f"/v1/fleet/{call}", b"question")
    assert {name: headers[name] for name in signed} == signed
    assert not between.keys() & headers.keys()  # what is between two neighbours is not passed on
    assert headers["host"] == "127.0.0.1:1"


@pytest.mark.parametrize(
    "path",
    [
        "/", "/docs", "/openapi.json", "/health", "/v1/control/start-run", "/v1/runtime/pull-task",
        "/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/", "/v1/fleet",
        "/v1/fleet/../control/start-run", "/v1/fleet/..%2fcontrol%2fstart-run",
        "/v1/fleet/pull-messages/..%2f..%2fcontrol", "//v1/fleet/pull-messages", "/v1//control/x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_else_reaches_the_superlink_even_from_a_known_device(
    ask, superlink, signed, method, path
):
    answer = ask(method, path, headers=signed)
    assert answer.status_code == 403
    assert superlink.calls == []


def test_other_methods_on_a_call_of_devices_are_refused(ask, superlink, signed):
    assert ask("GET", "/v1/fleet/pull-messages", headers=signed).status_code == 403
    assert superlink.calls == []


@pytest.mark.parametrize("key", [None, "", "!", "bm90IGEga2V5"])
def test_an_unknown_key_is_refused_before_its_body_is_read(ask, superlink, signed, key):
    headers = {} if key is None else signed | {"flwr-public-key": key}
    answer = ask("POST", "/v1/fleet/push-object", content=b"x" * 900, headers=headers)
    assert answer.status_code == 401
    assert "not registered" in answer.text
    assert superlink.calls == []


def test_a_body_above_the_limit_is_refused_said_or_unsaid(ask, superlink, signed):
    path = "/v1/fleet/push-object"
    assert ask("POST", path, content=b"x" * 1000, headers=signed).status_code == 200
    assert ask("POST", path, content=b"x" * 1001, headers=signed).status_code == 413

    async def pieces():
        for _ in range(3):
            yield b"x" * 500

    assert ask("POST", path, content=pieces(), headers=signed).status_code == 413
    assert len(superlink.calls) == 1


def test_a_superlink_that_is_away_is_an_answer_that_devices_try_again_after(ask, superlink, signed):
    superlink.is_up = False
    assert ask("POST", "/v1/fleet/pull-messages", headers=signed).status_code == 503


def test_a_refusal_of_the_superlink_is_passed_on(ask, superlink, signed):
    superlink.status = 401
    assert ask("POST", "/v1/fleet/pull-messages", headers=signed).status_code == 401


def test_bytes_are_counted_by_client_in_both_directions(ask, superlink, signed, made, tmp_path):
    other = headers_of(install(made.bundles / "client-2.tar", tmp_path / "two").key)
    ask("POST", "/v1/fleet/push-object", content=b"x" * 100, headers=signed)
    ask("POST", "/v1/fleet/push-object", content=b"x" * 20, headers=signed)
    superlink.status = 401
    ask("POST", "/v1/fleet/push-object", content=b"x" * 3, headers=other)
    ask("POST", "/v1/fleet/push-object", content=b"x" * 5000, headers=other)
    ask.traffic.save()
    seen = {name: s._replace(last=0) for name, s in read_traffic(tmp_path / "traffic.json").items()}
    assert seen == {"client-1": Seen(0, 2, 120, 36, 0), "client-2": Seen(0, 2, 3, 18, 2)}
    assert Traffic(tmp_path / "traffic.json")._seen.keys() == seen.keys()


def test_a_known_device_learns_the_time_and_the_versions(ask, signed):
    answer = ask("GET", "/check", headers=signed)
    assert answer.status_code == 200
    assert set(answer.json()) == {"name", "time", "fedadapt", "flwr", "stopped"}
    assert answer.json()["name"] == "client-1"


def test_versions_are_told_to_nobody_who_cannot_sign(ask, signed, made, tmp_path):
    other = headers_of(install(made.bundles / "client-2.tar", tmp_path / "two").key)
    for forged in (
        {},
        signed | {"flwr-signature": "AAAA"},
        signed | {"flwr-timestamp": "2020-01-01T00:00:00+00:00"},
        signed | {"flwr-signature": other["flwr-signature"]},
    ):
        answer = ask("GET", "/check", headers=forged)
        assert (answer.status_code, "flwr" in answer.text) == (401, False)


def test_a_key_that_is_taken_away_is_refused_and_one_that_is_added_is_heard(
    deployment, tmp_path, monkeypatch
):
    from fedadapt.deploy.certificates import load_client_key, public_bytes
    from fedadapt.deploy.server import key_ring
    from fedadapt.deploy.server.init import add_client, revoke_client

    monkeypatch.setattr(key_ring, "LOOK_EVERY", 0.0)
    ring = KeyRing(deployment.public_keys)
    bundle = install(deployment.bundles / "client-1.tar", tmp_path / "one")
    key = public_bytes(load_client_key(bundle.key).public_key())
    assert ring.name_of(key) == "client-1"
    revoke_client(deployment, "client-1")
    assert ring.name_of(key) is None
    new = install(add_client(deployment, "client-1"), tmp_path / "new")
    assert ring.name_of(key) is None
    assert ring.name_of(public_bytes(load_client_key(new.key).public_key())) == "client-1"
    (deployment.public_keys / "half.pub").write_bytes(b"ecdsa-sha2-nist")
    assert ring.name_of(public_bytes(load_client_key(new.key).public_key())) == "client-1"


def test_the_guard_lets_through_what_flowers_supernode_calls():
    """All calls of its client, but for registering: keys are the operator's."""
    import inspect
    import re

    from flwr.supernode.fleet_http_client import FleetHttpClient

    called = set(re.findall(r"/v1/fleet/([a-z-]+)", inspect.getsource(FleetHttpClient)))
    assert called - CALLS == {"register-node", "unregister-node"}
    assert called >= CALLS


def test_the_guard_knows_flowers_headers_by_their_names():
    from flwr.common.constant import TIMESTAMP_HEADER
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER

    from fedadapt.deploy.server import guard

    ours = (guard.KEY_HEADER, guard.TIME_HEADER, guard.SIGNATURE_HEADER)
    assert ours == (FLEET_HTTP_PUBLIC_KEY_HEADER, TIMESTAMP_HEADER, FLEET_HTTP_SIGNATURE_HEADER)
