"""The guard: all that devices reach. A reverse proxy that lets Flower's fleet calls through.

Flower's SuperLink serves devices and operators on one port, and asks nobody who operates it for a
password. It therefore listens on the loopback interface only, and devices reach this proxy, which

- passes the calls that a SuperNode makes, from clients whose key is known, and answers 403 to all
  else: nobody on the network can submit a run, register a key or read the documentation;
- streams bodies in both directions and refuses those above a limit;
- answers ``/check``, by which a device learns before it starts whether its key is known, its clock
  right and its version one that works with the server's;
- counts bytes by client.

It is made of Starlette, uvicorn and httpx, which Flower's own server is made of: no package more
on the server, and no root needed.
"""

import asyncio
import base64
import binascii
import contextlib
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from fedadapt import __version__
from fedadapt.deploy.folder import Deployment
from fedadapt.deploy.server.key_ring import KeyRing
from fedadapt.deploy.server.stopped_runs import stopped_runs
from fedadapt.deploy.server.traffic import Traffic

CALLS = frozenset(
    {
        "activate-node",
        "confirm-message-received",
        "deactivate-node",
        "get-fab",
        "get-run",
        "pull-messages",
        "pull-object",
        "push-messages",
        "push-object",
        "send-node-heartbeat",
    }
)
"""What a SuperNode with a registered key calls; registering is the operator's."""

LARGEST_BODY = 16 * 1024 * 1024
"""Bytes; Flower cuts what it sends into pieces of 5 MiB."""

SAVE_EVERY = 2.0  # seconds between writes of the counts

HOP_BY_HOP = frozenset(
    {
        "connection", "content-length", "host", "keep-alive", "proxy-authenticate",
        "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
"""Headers that are between two neighbours and are not passed on."""

KEY_HEADER, TIME_HEADER, SIGNATURE_HEADER = "flwr-public-key", "flwr-timestamp", "flwr-signature"


class TooLargeError(Exception):
    """The body of a request is larger than the guard lets through."""


class Guard:
    """Answers devices.

    Args:
        upstream: a client for the SuperLink's own address.
        keys: who may call.
        traffic: takes what was counted.
        stopped: gives the runs that the operator has stopped.
        largest_body: bytes.

    """

    def __init__(
        self,
        upstream: httpx.AsyncClient,
        keys: KeyRing,
        traffic: Traffic,
        stopped: Callable[[], list[str]] = list,
        largest_body: int = LARGEST_BODY,
    ) -> None:
        self._stopped = stopped
        self._upstream = upstream
        self._keys = keys
        self._traffic = traffic
        self._largest_body = largest_body

    def app(self) -> Starlette:
        """The application that a server runs."""
        return Starlette(
            routes=[
                Route("/v1/fleet/{call}", self.fleet, methods=["POST"]),
                Route("/check", self.check, methods=["GET"]),
            ],
            lifespan=self._lifespan,
            exception_handlers={404: _forbidden, 405: _forbidden},
        )

    async def fleet(self, request: Request) -> Response:
        """Pass one call of a SuperNode on, and its answer back."""
        call = request.path_params["call"]
        if call not in CALLS:
            return await _forbidden(request, None)
        name = self._client(request)
        if name is None:
            return _unknown()
        declared = request.headers.get("content-length", "0")
        if not declared.isdigit() or int(declared) > self._largest_body:
            self._traffic.add(name, 0, 0, refused=True)
            return self._too_large()
        counted = _Counted(request, self._largest_body)
        outgoing = self._upstream.build_request(
            "POST", f"/v1/fleet/{call}", content=counted, headers=_passed_on(request.headers)
        )
        try:
            answer = await self._upstream.send(outgoing, stream=True)
        except TooLargeError:
            self._traffic.add(name, counted.size, 0, refused=True)
            return self._too_large()
        except httpx.HTTPError:
            # A SuperNode tries again after this answer: the SuperLink is being started again.
            return PlainTextResponse("the server is not up yet\n", status_code=503)
        return StreamingResponse(
            self._passed_back(answer, name, counted),
            status_code=answer.status_code,
            headers=_passed_on(answer.headers),
            background=BackgroundTask(answer.aclose),
        )

    async def check(self, request: Request) -> Response:
        """Tell a client whether it would be let in, and what it should compare with itself."""
        name = self._client(request)
        signed_at = request.headers.get(TIME_HEADER, "")
        signature = _decoded(request.headers.get(SIGNATURE_HEADER, ""))
        if name is None or not self._keys.signed(name, signed_at, signature):
            return _unknown()
        return JSONResponse(
            {
                "name": name,
                "time": time.time(),
                "fedadapt": __version__,
                "flwr": version("flwr"),
                "stopped": self._stopped(),
            }
        )

    def _client(self, request: Request) -> str | None:
        return self._keys.name_of(_decoded(request.headers.get(KEY_HEADER, "")))

    def _too_large(self) -> Response:
        words = f"larger than the {self._largest_body} bytes that this server takes\n"
        return PlainTextResponse(words, status_code=413)

    async def _passed_back(
        self, answer: httpx.Response, name: str, counted: "_Counted"
    ) -> AsyncIterator[bytes]:
        size = 0
        try:
            async for piece in answer.aiter_raw():
                size += len(piece)
                yield piece
        finally:
            self._traffic.add(name, counted.size, size, refused=answer.status_code >= 400)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async def keep_saving() -> None:
            while True:
                await asyncio.sleep(SAVE_EVERY)
                self._traffic.save()

        saving = asyncio.create_task(keep_saving())
        try:
            yield
        finally:
            saving.cancel()
            self._traffic.save()
            await self._upstream.aclose()


class _Counted:
    """The body of a request, piece by piece, and its size so far."""

    def __init__(self, request: Request, largest: int) -> None:
        self._request = request
        self._largest = largest
        self.size = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._request.stream():
            self.size += len(piece)
            if self.size > self._largest:
                raise TooLargeError
            yield piece


async def _forbidden(_: Request, __: Any) -> Response:
    return PlainTextResponse("only the calls of a device are answered here\n", status_code=403)


def _unknown() -> Response:
    words = "this key is not registered; ask the operator to add the client\n"
    return PlainTextResponse(words, status_code=401)


def _decoded(header: str) -> bytes:
    try:
        return base64.b64decode(header, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _passed_on(headers: Any) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in HOP_BY_HOP}


def guard_of(deployment: Deployment) -> Guard:
    """The guard in front of a deployment's SuperLink."""
    context = ssl.create_default_context(cafile=str(deployment.ca_certificate))
    upstream = httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{deployment.control_port}",
        verify=context,
        timeout=httpx.Timeout(120.0, connect=5.0),
        limits=httpx.Limits(max_connections=256, max_keepalive_connections=32),
        trust_env=False,
    )
    keys, traffic = KeyRing(deployment.public_keys), Traffic(deployment.traffic)
    return Guard(upstream, keys, traffic, lambda: stopped_runs(deployment))


def serve(deployment: Deployment, host: str) -> None:
    """Run the guard until it is told to end."""
    uvicorn.run(
        guard_of(deployment).app(),
        host=host,
        port=deployment.port,
        ssl_certfile=str(deployment.certificate),
        ssl_keyfile=str(deployment.key),
        access_log=False,
        log_level="warning",
        server_header=False,
        limit_concurrency=512,
        timeout_keep_alive=75,
    )


if __name__ == "__main__":
    serve(Deployment.read(Path(sys.argv[1])), sys.argv[2])
