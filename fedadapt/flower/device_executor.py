"""Computes a client's answers: what Flower calls a SuperExec, warm, and with installed code only.

Flower starts a program anew for every message, which imports the code that the server has shipped,
and torch. Here a process that has imported everything waits for messages and forks for each:

- an answer takes no start, which is most of the time of a message on a small device;
- the code is that of the installed package. Nothing that a server ships is ever imported, so a
  server can ask a client only for what its owner has installed (and a run may only name modules
  that the owner allows).

Depends on parts of Flower that are not documented; ``FLOWER_VERSIONS`` are those it was tried with.
"""

import contextlib
import math
import os
import signal
import sys
import time
from typing import Any, NoReturn

from fedadapt.errors import InputError

FLOWER_VERSIONS = ("1.41", "1.42")

GRACE = 20.0  # seconds between asking a process to end and ending it
LOOK_EVERY = 0.2  # seconds between looks for a message


def serve(address: str) -> NoReturn:
    """Answer messages of the SuperNode at ``address`` (host:port) until the parent process ends.

    Raises:
        InputError: this Flower is not one of ``FLOWER_VERSIONS``.

    """
    check_flower()
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.constant import TaskType
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supercore.retry import make_simple_http_retry_invoker
    from flwr.supercore.runtime import RuntimeHttpClient

    import fedadapt.flower.client_app  # noqa: F401  # loaded here, once

    parent = os.getppid()
    supernode = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,  # the loopback interface
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec")],
        retry_invoker=make_simple_http_retry_invoker(),
    )
    request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    children = Children()
    signal.signal(signal.SIGUSR1, lambda *_: children.stop())
    print("ready", flush=True)
    while os.getppid() == parent:
        answer = supernode.AcquireTask(request)
        if answer.HasField("task") and answer.token:
            children.add(_fork(address, answer.token))
        children.look()
        time.sleep(LOOK_EVERY)
    sys.exit(0)


class Children:
    """The processes that compute an answer, of which there is one as a rule."""

    def __init__(self) -> None:
        self._running: dict[int, float] = {}  # process -> when it is ended for good, monotonic

    def add(self, child: int) -> None:
        self._running[child] = math.inf

    def stop(self) -> None:
        """Ask all to end: each then answers that it was stopped, and its node is free again."""
        for child in self._running:
            self._running[child] = time.monotonic() + GRACE
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)

    def look(self) -> None:
        """Take note of those that have ended, and end those that did not when they were asked."""
        for child, end_at in list(self._running.items()):
            if time.monotonic() > end_at:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                del self._running[child]
                if os.WIFSIGNALED(status):
                    name = signal.Signals(os.WTERMSIG(status)).name
                    print(f"the process of a message was ended by {name}", flush=True)


def check_flower() -> None:
    """Refuse a version of Flower whose inner parts may be other ones.

    Raises:
        InputError: it is not one of ``FLOWER_VERSIONS``.

    """
    from importlib.metadata import version

    flwr = version("flwr")
    if ".".join(flwr.split(".")[:2]) not in FLOWER_VERSIONS:
        raise InputError(
            f"flwr {flwr}: a client needs one of {', '.join(f'{v}.*' for v in FLOWER_VERSIONS)}"
        )


def _fork(address: str, token: str) -> int:
    """Answer one message in a process of its own; the process."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _answer(address, token)
        code = 0
    except SystemExit as end:  # how Flower ends a program
        code = end.code if isinstance(end.code, int) else 1
    finally:
        if not code:  # the reply was handed over: the ledger may say so
            _confirm()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # not through what the parent has registered to be done at its end


def _confirm() -> None:
    from fedadapt.flower.egress import confirm_handed_over

    confirm_handed_over()


def _answer(address: str, token: str) -> None:
    """Run Flower's own client program, with our app in place of the one that was shipped."""
    from flwr.supernode.runtime import run_clientapp as program

    import fedadapt.flower.client_app

    def load(*_: Any) -> Any:
        return fedadapt.flower.client_app.app

    _replace(program, "get_load_client_app_fn", lambda **_: load)
    _replace(program, "install_from_fab", lambda *_, **__: None)
    program.run_clientapp(
        runtime_api_address=address,
        token=token,
        insecure=True,
        parent_pid=os.getppid(),
        runtime_dependency_install=False,
    )


def _replace(module: Any, name: str, function: Any) -> None:
    """Put our function in the place of Flower's; if there is none, end: shipped code might run."""
    if not callable(getattr(module, name, None)):
        raise InputError(
            f"this Flower has no {name} to replace; install flwr {FLOWER_VERSIONS[-1]}"
        )
    setattr(module, name, function)


if __name__ == "__main__":
    serve(sys.argv[1])
