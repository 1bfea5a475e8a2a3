"""Computes a client's answers: what Flower calls a SuperExec, warm, and with installed code only.

Flower starts a program anew for every message, which imports the code that the server has shipped,
and torch. Here a process that has imported everything waits for messages and forks for each:

- an answer takes no start, which is most of the time of a message on a small device;
- a process that was killed, for instance where memory ran out, is answered for at once: Flower
  alone would notice after a minute, for which the client is deaf;
- the code is that of the installed package. Nothing that a server ships is ever imported, so a
  server can ask a client only for what its owner has installed (and a run may only name modules
  that the owner allows).

Depends on parts of Flower that are not documented; ``FLOWER_VERSIONS`` are those it was tried with.
"""

import contextlib
import math
import os
import secrets
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from fedadapt.errors import InputError
from fedadapt.flower.real_clients.waits import with_short_waits

FLOWER_VERSIONS = ("1.41", "1.42")

KILLED = 905
"""The code of the error reply for a process that was killed; beside those of client/failures.py."""

LARGEST_TOLD = 60_000  # bytes: what a pipe holds without a reader
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
    children = Children(lambda token, told: _fork(_answer_for_killed, address, token, told))
    signal.signal(signal.SIGUSR1, lambda *_: children.stop())
    print("ready", flush=True)
    while os.getppid() == parent:
        answer = supernode.AcquireTask(request)
        if answer.HasField("task") and answer.token:
            children.add(*_fork(_answer, address, answer.token), answer.token)
        children.look()
        time.sleep(LOOK_EVERY)
    sys.exit(0)


class Children:
    """The processes that compute an answer, of which there is one as a rule.

    Args:
        killed: is called with the token and what was told of a message whose process was killed;
            gives the process that answers for it, and a pipe from it.

    """

    def __init__(self, killed: Callable[[str, bytes], tuple[int, int]]) -> None:
        self._killed = killed
        self._running: dict[int, _Child] = {}

    def __len__(self) -> int:
        return len(self._running)

    def add(self, process: int, pipe: int, token: str) -> None:
        """Take note of one; ``pipe`` is where it tells what it computes."""
        self._running[process] = _Child(token, pipe)

    def stop(self) -> None:
        """Ask all to end: each then answers that it was stopped, and its node is free again."""
        for process, child in self._running.items():
            child.end_at = time.monotonic() + GRACE
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)

    def look(self) -> None:
        """Take note of those that have ended, and end those that did not when they were asked."""
        for process, child in list(self._running.items()):
            if time.monotonic() > child.end_at:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            ended, status, used = os.wait4(process, os.WNOHANG)
            if not ended:
                continue
            del self._running[process]
            print(
                f"a message took {time.monotonic() - child.began:.1f} s, "
                f"{used.ru_utime + used.ru_stime:.1f} s of a core, "
                f"at most {used.ru_maxrss / 1024:.0f} MB of memory",
                flush=True,
            )
            told = os.read(child.pipe, LARGEST_TOLD)
            os.close(child.pipe)
            if os.WIFSIGNALED(status):
                name = signal.Signals(os.WTERMSIG(status)).name
                print(f"the process of a message was ended by {name}", flush=True)
                if told:
                    self.add(*self._killed(child.token, told), "")


class _Child:
    def __init__(self, token: str, pipe: int) -> None:
        self.token, self.pipe = token, pipe
        self.began = time.monotonic()
        self.end_at = math.inf  # when it is ended for good, monotonic


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


def _fork(answer: Callable[..., None], *arguments: Any) -> tuple[int, int]:
    """Answer one message in a process of its own; the process, and a pipe from it."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    code = 1
    try:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        answer(writing, *arguments)
        code = 0
    except SystemExit as end:  # how Flower ends a program
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        if not code:  # the reply was handed over: the ledger may say so
            _confirm()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # not through what the parent has registered to be done at its end


def _confirm() -> None:
    from fedadapt.flower.egress import confirm_handed_over

    confirm_handed_over()


def _answer(pipe: int, address: str, token: str) -> None:
    """Run Flower's own client program, with our app in place of the one that was shipped."""
    from flwr.supernode.runtime import run_clientapp as program

    import fedadapt.flower.client_app

    def answer(message: Any, context: Any) -> Any:
        os.write(pipe, _told(message, context))
        return fedadapt.flower.client_app.app(message=message, context=context)

    _replace(program, "get_load_client_app_fn", lambda **_: lambda *_: answer)
    _replace(program, "install_from_fab", lambda *_, **__: None)
    pull = "pull_and_inflate_object_from_tree"
    _replace(program, pull, with_short_waits(getattr(program, pull, print)))
    program.run_clientapp(
        runtime_api_address=address,
        token=token,
        insecure=True,
        parent_pid=os.getppid(),
        runtime_dependency_install=False,
    )


def _told(message: Any, context: Any) -> bytes:
    """What it takes to answer for a process that was killed: no model, and nothing of the data."""
    from flwr.app.message import remove_content_from_message
    from flwr.common.serde import context_to_proto, message_to_proto
    from flwr.supercore.task_identity import TaskIdentity

    about = message_to_proto(remove_content_from_message(message)).SerializeToString()
    where = context_to_proto(context).SerializeToString()
    told = struct.pack("<QII", TaskIdentity.task_id or 0, len(about), len(where)) + about + where
    return told if len(told) <= LARGEST_TOLD else b""


def _answer_for_killed(_: int, address: str, token: str, told: bytes) -> None:
    """Send the server an error in place of a process that was killed."""
    from flwr.app import Error, Message
    from flwr.common.constant import SubStatus
    from flwr.common.serde import context_from_proto, message_from_proto
    from flwr.proto.message_pb2 import Context
    from flwr.proto.message_pb2 import Message as MessageProto
    from flwr.supercore.interceptors import (
        RuntimeTokenHttpInterceptor,
        RuntimeVersionHttpInterceptor,
    )
    from flwr.supercore.runtime import RuntimeHttpClient
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.supernode.runtime.run_clientapp import push_message, push_task_output

    task, first, second = struct.unpack_from("<QII", told)
    body = told[struct.calcsize("<QII") :]
    context = context_from_proto(Context.FromString(body[first : first + second]))
    TaskIdentity.task_id = task
    TaskIdentity.run_id, TaskIdentity.node_id = context.run_id, context.node_id
    message = message_from_proto(MessageProto.FromString(body[:first]))
    client = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
            RuntimeTokenHttpInterceptor(token),
        ],
    )
    reason = f"killed incident={secrets.token_hex(6)}"
    push_message(client, Message(Error(KILLED, reason), reply_to=message), context)
    push_task_output(client, context, SubStatus.FAILED, reason)
    print(f"answered for it: {reason}", flush=True)


def _replace(module: Any, name: str, function: Any) -> None:
    """Put our function in the place of Flower's; if there is none, end: shipped code might run."""
    if not callable(getattr(module, name, None)):
        raise InputError(
            f"this Flower has no {name} to replace; install flwr {FLOWER_VERSIONS[-1]}"
        )
    setattr(module, name, function)


if __name__ == "__main__":
    serve(sys.argv[1])
