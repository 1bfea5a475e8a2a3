"""Whatever happens while a client computes, it answers, and nothing of its data leaves with it.

Flower sends an exception's text to the server, and waits for ever for a client that returned
nothing or was stopped. Here a failure is a fixed word or the exception's type, and a random
incident id; the traceback is in the client's own log under that id. What the owner's egress policy
refuses is a fixed word as well.
"""

import faulthandler
import logging
import re
import signal
import threading
import uuid
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from fedadapt.client.egress.policy import EgressError
from fedadapt.errors import InputError, RefusedError
from fedadapt.messages import Failure

if TYPE_CHECKING:
    from flwr.app import Context, Message

Result = TypeVar("Result")

log = logging.getLogger(__name__)

GRACE = 10.0
"""Seconds between the deadline and the end of a process that does not come back from it."""

PATIENCE = 3600.0
"""``round-deadline`` of a run that says nothing of it, in seconds."""

CODES = {
    "crash": 900, "timeout": 901, "no-reply": 902, "memory": 903, "exit": 904, "refused": 905,
    "egress": 906,
}  # fmt: skip
"""The codes of Flower's error replies."""


class _DeadlineError(BaseException):
    """Out of time; not an ``Exception``, so that what computes does not take it for its own."""


class _StoppedError(BaseException):
    """Told to end (SIGTERM)."""


class Deadlines(NamedTuple):
    """How long clients may compute, in seconds."""

    client: float = 0.0  # 0: half of ``round``
    round: float = PATIENCE

    def of(self, count: int) -> float:
        """Return the limit for so many clients that are computed together or in turn."""
        return min(count * (self.client or self.round / 2), self.round)


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """The result of ``call``, Python code of which is interrupted after so many seconds.

    Only in the main thread. A timer of somebody else that is due earlier is left alone.

    Raises:
        BaseException: Time is up; ``guarded`` makes a failure "timeout" of it.

    """
    due = signal.getitimer(signal.ITIMER_REAL)[0] if hasattr(signal, "getitimer") else 0.0
    if 0 < due <= seconds:
        return call()
    alarm = _Interrupts(seconds, own_process=False)
    with alarm:
        return alarm.during(call)


def timed_out(failure: object) -> bool:
    """Whether something is the failure of a call that took too long."""
    return isinstance(failure, Failure) and failure.reason.startswith("timeout")


def guarded(call: Callable[[], Result]) -> Result | Failure:
    """The result of ``call``, or why there is none; Ctrl-C passes through.

    Returns:
        For a failure "error" and a reason such as ``crash:ValueError incident=0123456789ab``;
        None counts as no reply.
    """
    try:
        result = call()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return Failure("error", _reason(error))
    return Failure("error", _reason(None)) if result is None else result


def attempted(call: Callable[[], Result]) -> Result | Failure:
    """As ``guarded``, but only for errors of the call itself.

    A deadline and an order to end (SIGTERM) pass through: they are meant for the whole message.
    """
    try:
        return call()
    except Exception as error:
        return Failure("error", _reason(error))


def pieces(
    count: int,
    compute: Callable[[int, int], Result],
    attempt: Callable[[Callable[[], Any]], Any] = attempted,
) -> list[tuple[int, int, Result | Failure]]:
    """Compute clients [0, count) at once; where that fails one by one: a fault is one client's.

    Returns:
        (first, last, result or failure) for each stretch; a failure is of a single client.

    """
    if not count:
        return []
    result = attempt(lambda: compute(0, count))
    if count == 1 or not isinstance(result, Failure):
        return [(0, count, result)]

    def alone(index: int) -> Result | Failure:
        return attempt(lambda: compute(index, index + 1))

    return [(index, index + 1, alone(index)) for index in range(count)]


def guard(
    message: "Message", context: "Context", call_next: "Callable[[Message, Context], Message]"
) -> "Message":
    """The first mod of a Flower ``ClientApp``: whatever it wraps, there is a reply.

    The run's ``client-deadline`` (seconds; 0, or none given: half of ``round-deadline``) interrupts
    Python code. Native code that does not come back is ended with its process ``GRACE`` seconds
    later, tracebacks on stderr. Both, and the answer to SIGTERM, need the main thread, which is
    where Flower calls a ``ClientApp``.
    """
    from flwr.app import Error, Message  # not above: the in-process engine runs without Flower

    client, round = (
        _seconds(context.run_config.get(key)) for key in ("client-deadline", "round-deadline")
    )
    interrupts = _Interrupts(Deadlines(client, round or PATIENCE).of(1))
    try:
        with interrupts:
            reply = interrupts.during(lambda: call_next(message, context))
        if isinstance(reply, Message):
            return reply
        reason = _reason(None)
    except BaseException as error:  # Ctrl-C as well: a node that heard nothing would wait for ever
        reason = _reason(error)
    return Message(Error(code=CODES[re.split("[: ]", reason)[0]], reason=reason), reply_to=message)


def _seconds(value: object) -> float:
    """A setting in seconds; 0 for whatever cannot be one, which is refused elsewhere."""
    known = isinstance(value, int | float) and 0 < value < float("inf")
    return float(value) if known else 0.0  # type: ignore[arg-type]


def _reason(error: BaseException | None) -> str:
    """A kind and an incident id for the server; the traceback for the log."""
    if isinstance(error, EgressError):
        log.warning("%s", error.reason)
        return error.reason
    reason = f"{_kind(error)} incident={uuid.uuid4().hex[:12]}"
    log.error("%s", reason, exc_info=error)
    return reason


def _kind(error: BaseException | None) -> str:
    if error is None:
        return "no-reply"
    if isinstance(error, _DeadlineError):
        return "timeout"
    if isinstance(error, SystemExit | KeyboardInterrupt | _StoppedError):
        return "exit"
    if isinstance(error, RefusedError):
        return f"refused:{error.word}"
    if isinstance(error, InputError):
        return "refused:bad-settings"
    name = type(error).__name__
    # torch says it on a GPU with a type of its own, on a CPU with words only.
    words = " ".join(a for a in error.args if isinstance(a, str))
    if isinstance(error, MemoryError) or name == "OutOfMemoryError" or "can't allocate" in words:
        return "memory"
    return f"crash:{name}" if re.fullmatch(r"[A-Za-z_]\w{0,59}", name) else "crash:Exception"


class _Interrupts:
    """Turns SIGTERM and a deadline into exceptions inside one call, and nowhere else.

    Where the process is not the client's own, SIGTERM is left alone, and native code that does not
    come back is the business of others.
    """

    def __init__(self, limit: float, *, own_process: bool = True) -> None:
        self.limit = limit  # seconds; 0: none
        self._own_process = own_process
        self._inside = False
        self._old_handlers: dict[int, Any] = {}
        self._old_timer = (0.0, 0.0)

    def during(self, call: Callable[[], Result]) -> Result:
        """Call; an interrupt that comes just after the end is one of the call or none."""
        try:
            self._inside = True
            return call()
        finally:
            self._inside = False

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread only
        if self._own_process:
            self._handle(signal.SIGTERM, _StoppedError)
        if self.limit > 0:
            if self._own_process:
                # A C thread: it ends the process even while native code holds the interpreter.
                faulthandler.dump_traceback_later(self.limit + GRACE, exit=True, file=2)
            if hasattr(signal, "setitimer"):  # not on Windows
                self._handle(signal.SIGALRM, _DeadlineError)
                self._old_timer = signal.setitimer(signal.ITIMER_REAL, self.limit)

    def __exit__(self, *_: object) -> None:
        if not self._old_handlers:
            return
        if self.limit > 0:
            if self._own_process:
                faulthandler.cancel_dump_traceback_later()
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._old_handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self._old_timer[0]:
            signal.setitimer(signal.ITIMER_REAL, *self._old_timer)

    def _handle(self, number: signal.Signals, error: type[BaseException]) -> None:
        def interrupt(_: int, __: FrameType | None) -> None:
            if self._inside:
                raise error

        self._old_handlers[number] = signal.signal(number, interrupt)
