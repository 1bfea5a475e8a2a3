"""Why a client cannot connect, found before it starts: one of six reasons, each with a remedy.

Flower's SuperNode gives one message for three of them, tries for ever on a fourth, and ends with
status 0 and no reason on a fifth.
"""

import base64
import datetime
import email.utils
import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator
from importlib.metadata import version

from fedadapt import __version__
from fedadapt.deploy.bundle import Bundle
from fedadapt.deploy.certificates import load_client_key, public_bytes
from fedadapt.deploy.findings import Finding

AHEAD, BEHIND = 5.0, 305.0
"""Seconds by which a client's clock may differ from the server's: Flower refuses beyond them."""

PATIENCE = 10.0  # seconds for each step


def check_connection(bundle: Bundle, clock: float | None = None) -> Iterator[Finding]:
    """Look at name, port, certificate, clock, key and version in turn; end at the first bad one.

    Args:
        bundle: who this client is, and where the server.
        clock: seconds since 1970; None: this machine's clock.

    """
    try:
        addresses = socket.getaddrinfo(bundle.host, bundle.port, type=socket.SOCK_STREAM)
    except OSError as error:
        remedy = "is this machine on the network, and is the name spelt as in the bundle?"
        yield Finding("name", False, f"{bundle.host} is not known ({_why(error)})", remedy, True)
        return
    yield Finding("name", True, f"{bundle.host} is {addresses[0][4][0]}")

    try:
        plain = socket.create_connection((bundle.host, bundle.port), PATIENCE)
    except OSError as error:
        remedy = "is the server running, and does a firewall let this port through?"
        yield Finding("port", False, f"{bundle.server} is closed ({_why(error)})", remedy, True)
        return
    yield Finding("port", True, f"{bundle.server} is open")

    context = ssl.create_default_context(cafile=str(bundle.ca_certificate))
    try:
        secure = context.wrap_socket(plain, server_hostname=bundle.host)
    except OSError as error:
        plain.close()
        yield _certificate(bundle, error)
        return
    yield Finding("certificate", True, f"is of {bundle.host}, signed by this deployment")
    with secure:
        yield from _ask(bundle, secure, clock)


def _ask(bundle: Bundle, secure: ssl.SSLSocket, clock: float | None) -> Iterator[Finding]:
    """Clock, key and version: what the guard says of this client."""
    began = time.monotonic()
    now = time.time() if clock is None else clock
    try:
        status, date, body = _get(bundle, secure, now)
    except (OSError, http.client.HTTPException) as error:
        remedy = "is it a fedadapt server that listens there?"
        yield Finding("port", False, f"{bundle.server}: no answer ({_why(error)})", remedy, True)
        return
    try:
        answer = json.loads(body) if status == 200 else {}
    except ValueError:
        answer = {}
    there = answer.get("time")
    if not isinstance(there, int | float):
        if date is None:
            text = f"{bundle.server} answered {status} without a date"
            yield Finding("port", False, text, "it is no fedadapt server", True)
            return
        there = date + 0.5  # it is given in whole seconds
    here = now + (time.monotonic() - began) / 2
    yield (clock_found := check_clock(here - there))
    if not clock_found.is_good:
        return
    if status == 401:
        remedy = "was this client revoked? carry its new bundle here, or ask the operator"
        yield Finding("key", False, f"the server does not know the key of {bundle.name}", remedy)
        return
    if status != 200:
        remedy = "is it a fedadapt server that listens there?"
        yield Finding("port", False, f"{bundle.server} answered {status}", remedy, True)
        return
    yield Finding("key", True, f"the server knows this client as {answer.get('name')}")
    yield check_version(str(answer.get("fedadapt")), str(answer.get("flwr")))


def _get(bundle: Bundle, secure: ssl.SSLSocket, now: float) -> tuple[int, float | None, bytes]:
    """Ask ``/check``: status, the server's date (seconds since 1970), body."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = load_client_key(bundle.key)
    signed_at = datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat()
    signature = key.sign(signed_at.encode("ascii"), ec.ECDSA(hashes.SHA256()))
    call = http.client.HTTPConnection(bundle.host, bundle.port, timeout=PATIENCE)
    call.sock = secure
    headers = {
        "flwr-public-key": base64.b64encode(public_bytes(key.public_key())).decode("ascii"),
        "flwr-timestamp": signed_at,
        "flwr-signature": base64.b64encode(signature).decode("ascii"),
    }
    call.request("GET", "/check", headers=headers)
    answer = call.getresponse()
    date = answer.getheader("date")
    try:
        there = email.utils.parsedate_to_datetime(date).timestamp() if date else None
    except ValueError:
        there = None
    return answer.status, there, answer.read(65_536)


def stopped_runs(bundle: Bundle) -> list[str]:
    """The runs that the operator has stopped; [] where the server cannot be asked."""
    context = ssl.create_default_context(cafile=str(bundle.ca_certificate))
    try:
        plain = socket.create_connection((bundle.host, bundle.port), PATIENCE)
        with context.wrap_socket(plain, server_hostname=bundle.host) as secure:
            status, _, body = _get(bundle, secure, time.time())
        runs = json.loads(body).get("stopped", []) if status == 200 else []
    except (OSError, ValueError, http.client.HTTPException):
        return []
    return [run for run in runs if isinstance(run, str)] if isinstance(runs, list) else []


def check_clock(ahead: float) -> Finding:
    """Whether a clock that is ``ahead`` of the server's (seconds; behind: negative) will do."""
    remedy = "set it, for instance with: sudo timedatectl set-ntp true"
    if ahead > AHEAD:
        text = f"is {ahead:.0f} s ahead of the server's, allowed are {AHEAD:.0f} s"
        return Finding("clock", False, text, remedy)
    if ahead < -BEHIND:
        text = f"is {-ahead:.0f} s behind the server's, allowed are {BEHIND:.0f} s"
        return Finding("clock", False, text, remedy)
    return Finding("clock", True, f"differs from the server's by {abs(ahead):.0f} s")


def check_version(server_fedadapt: str, server_flwr: str) -> Finding:
    """Whether the versions here work with the server's: fedadapt the same, flwr the same minor."""
    here = version("flwr")
    if server_fedadapt != __version__:
        text = f"fedadapt {__version__} here, {server_fedadapt} on the server"
        return Finding("version", False, text, f"pip install fedadapt=={server_fedadapt}")
    if _minor(here) != _minor(server_flwr):
        text = f"flwr {here} here, {server_flwr} on the server"
        return Finding("version", False, text, f"pip install flwr=={server_flwr}")
    return Finding("version", True, f"fedadapt {__version__}, flwr {here}")


def _minor(text: str) -> list[str]:
    return text.split(".")[:2]


def _certificate(bundle: Bundle, error: OSError) -> Finding:
    """What is wrong with the server's certificate; the clock may be what is wrong."""
    reason = getattr(error, "verify_message", "") or _why(error)
    text = f"of {bundle.server} is refused ({reason})"
    if not isinstance(error, ssl.SSLError):
        remedy = "the connection broke off; is it a fedadapt server that listens there?"
        return Finding("certificate", False, text, remedy, True)
    if "not yet valid" in reason or "expired" in reason:
        remedy = "is this machine's clock right? if so, start the server again, which renews it"
    elif "mismatch" in reason or "doesn't match" in reason or "not valid for" in reason:
        remedy = f"the server was made for another name than {bundle.host}; see init --host"
    elif "verify" in reason.lower() or "self" in reason or "issuer" in reason:
        remedy = "it is not of the deployment that this bundle is of; carry the right bundle here"
    else:
        remedy = "is it a fedadapt server that listens there?"
    return Finding("certificate", False, text, remedy)


def _why(error: BaseException) -> str:
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(words).split())
