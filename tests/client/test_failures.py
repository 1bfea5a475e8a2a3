import contextlib
import ctypes
import logging
import os
import re
import signal
import threading
import time

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from fedadapt.client import failures as guard_module
from fedadapt.client.failures import CODES, Deadlines, guard, guarded, within
from fedadapt.messages import Failure


def limit_of(run_config, monkeypatch) -> float:
    """The seconds that the guard gives a client under these settings of a run."""
    limits = []

    class Noted(guard_module._Interrupts):
        def __init__(self, limit):
            limits.append(limit)
            super().__init__(limit)

    monkeypatch.setattr(guard_module, "_Interrupts", Noted)
    message = Message(RecordDict(), 1, "train")
    context = Context(1, 1, {}, RecordDict(), run_config)
    guard(message, context, lambda message, context: Message(RecordDict(), reply_to=message))
    return limits[0]


@pytest.mark.parametrize(
    ("run_config", "limit"),
    [
        ({}, 1800),
        ({"client-deadline": 0.0, "round-deadline": 10.0}, 5),
        ({"client-deadline": 7}, 7),
        ({"client-deadline": 90.0, "round-deadline": 60.0}, 60),
        ({"client-deadline": "never", "round-deadline": float("nan")}, 1800),
        ({"client-deadline": -1.0, "round-deadline": float("inf")}, 1800),
    ],
)
def test_every_client_has_a_finite_deadline_whatever_a_run_says(run_config, limit, monkeypatch):
    assert limit_of(run_config, monkeypatch) == limit


def test_together_clients_may_take_as_many_times_longer_and_never_longer_than_a_round():
    deadlines = Deadlines(client=30.0, round=100.0)
    assert [deadlines.of(count) for count in (1, 2, 3, 4, 400)] == [30, 60, 90, 100, 100]
    assert [Deadlines(0.0, 100.0).of(count) for count in (1, 2, 3)] == [50, 100, 100]
    assert Deadlines().of(1) == 1800


def test_an_earlier_timer_of_somebody_else_is_left_alone():
    rang = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(True))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert within(5.0, lambda: time.sleep(0.2)) is None
        assert rang == [True]
        signal.setitimer(signal.ITIMER_REAL, 50.0)
        late = guarded(lambda: within(0.05, lambda: time.sleep(5)))
        assert late.reason.startswith("timeout")
        assert 0 < signal.setitimer(signal.ITIMER_REAL, 0)[0] <= 50
        assert signal.getsignal(signal.SIGALRM) is not before
    finally:
        signal.signal(signal.SIGALRM, before)


SECRET = "/secret/patient.csv"


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def crash():
    raise ValueError(f"boom from {SECRET}")


def chained():
    try:
        crash()
    except ValueError:
        raise KeyError(SECRET) from None


def bad_name():
    raise type(f"Error in {SECRET}", (Exception,), {})(SECRET)


def leave():
    raise SystemExit(SECRET)


def ctrl_c():
    raise KeyboardInterrupt(SECRET)


def out_of_memory():
    raise MemoryError(SECRET)


def out_of_gpu_memory():
    import torch

    raise torch.OutOfMemoryError(SECRET)


def out_of_torch_memory():
    import torch

    torch.empty(1 << 55)


def nothing():
    return None


def terminated():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)


class UnprintableError(Exception):
    def __str__(self):
        raise ValueError(SECRET)


def unprintable():
    raise UnprintableError


def recursion():
    return recursion()


CASES = {
    crash: "crash:ValueError",
    chained: "crash:KeyError",
    bad_name: "crash:Exception",
    unprintable: "crash:UnprintableError",
    recursion: "crash:RecursionError",
    leave: "exit",
    ctrl_c: "exit",
    terminated: "exit",
    out_of_memory: "memory",
    out_of_gpu_memory: "memory",
    out_of_torch_memory: "memory",
    nothing: "no-reply",
}


def ask(work, deadline=0.0):
    """Send a message to a ClientApp that does ``work``."""
    app = ClientApp(mods=[guard])

    @app.train()
    def train(message, context):
        return work()

    context = Context(1, 1, {}, RecordDict(), {"client-deadline": deadline})
    return app(Message(RecordDict(), dst_node_id=1, message_type="train"), context)


def assert_reason(reason, kind):
    assert re.fullmatch(re.escape(kind) + " incident=[0-9a-f]{12}", reason)


@pytest.mark.parametrize("work", CASES, ids=lambda work: work.__name__)
def test_whatever_happens_there_is_a_reply_and_no_text_of_it(work, caplog):
    with caplog.at_level(logging.ERROR):
        reply = ask(work)
    assert reply.has_error()
    assert_reason(reply.error.reason, CASES[work])
    assert reply.error.code == CODES[CASES[work].partition(":")[0]]
    assert SECRET not in repr(reply)
    [record] = caplog.records  # the client's own log has it all, under the same id
    assert record.getMessage() == reply.error.reason
    if work is crash:
        assert f"boom from {SECRET}" in caplog.text
        assert "Traceback" in caplog.text


def test_a_reply_that_is_no_message_is_none():
    assert_reason(ask(lambda: {"arrays": SECRET}).error.reason, "no-reply")


def test_a_good_reply_passes_untouched():
    asked = Message(RecordDict(), dst_node_id=1, message_type="train")
    answer = Message(RecordDict(), reply_to=asked)
    assert ask(lambda: answer) is answer
    assert ask(lambda: answer, deadline=60.0) is answer


def test_a_client_that_hangs_answers_at_the_deadline_and_then_works_again():
    start = time.monotonic()
    assert_reason(ask(lambda: time.sleep(30), deadline=0.2).error.reason, "timeout")
    assert time.monotonic() - start < 5
    assert_reason(ask(nothing, deadline=5.0).error.reason, "no-reply")


def test_code_that_catches_every_exception_is_interrupted_all_the_same():
    def stubborn():
        while True:
            with contextlib.suppress(Exception):
                time.sleep(30)

    assert_reason(ask(stubborn, deadline=0.2).error.reason, "timeout")


def test_signals_and_timers_are_as_before():
    def mine(*_):
        raise AssertionError

    old = [signal.signal(number, mine) for number in (signal.SIGTERM, signal.SIGALRM)]
    timer = signal.setitimer(signal.ITIMER_REAL, 1000.0)
    try:
        ask(lambda: time.sleep(30), deadline=0.1)
        assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.getsignal(signal.SIGALRM) is mine
        assert 900 < signal.getitimer(signal.ITIMER_REAL)[0] <= 1000
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        for number, handler in zip((signal.SIGTERM, signal.SIGALRM), old, strict=True):
            signal.signal(number, handler)


def test_a_deadline_that_comes_after_the_end_interrupts_nothing():
    def finish_at_the_last_moment():
        end = time.monotonic() + 0.05
        while time.monotonic() < end:
            pass

    for _ in range(10):  # on either side of the deadline; it must never come out of the guard
        kind = ask(finish_at_the_last_moment, deadline=0.05).error.reason.split()[0]
        assert kind in ("no-reply", "timeout")


def test_outside_the_main_thread_it_guards_without_signals():
    replies = []
    thread = threading.Thread(target=lambda: replies.append(ask(nothing, deadline=0.5)))
    thread.start()
    thread.join()
    assert_reason(replies[0].error.reason, "no-reply")


def test_a_signal_just_after_the_end_is_not_raised():
    interrupts = guard_module._Interrupts(0.0)
    with interrupts:
        assert interrupts.during(lambda: "answer") == "answer"
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(guard_module._StoppedError):
            interrupts.during(terminated)
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("library", [ctypes.CDLL, ctypes.PyDLL], ids=["gil-free", "gil-held"])
def test_native_code_that_never_returns_is_ended_with_its_process(library, monkeypatch):
    monkeypatch.setattr(guard_module, "GRACE", 0.3)

    def hang():
        mutex = ctypes.create_string_buffer(128)  # zeros: a plain mutex; no signal ends its wait
        lock = library(None).pthread_mutex_lock
        lock(mutex)
        lock(mutex)

    start = time.monotonic()
    child = os.fork()
    if child == 0:
        ask(hang, deadline=0.2)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 1
    assert time.monotonic() - start < 10


def test_no_process_is_ended_once_the_answer_is_there(monkeypatch):
    monkeypatch.setattr(guard_module, "GRACE", 0.0)
    ask(nothing, deadline=0.1)
    time.sleep(0.3)  # the timer is off, or this process would be gone


@pytest.mark.parametrize(
    "work", [w for w in CASES if w not in (ctrl_c, terminated)], ids=lambda work: work.__name__
)
def test_the_in_process_engine_gets_the_same_reasons(work):
    failure = guarded(work)
    assert isinstance(failure, Failure)
    assert failure.outcome == "error"
    assert_reason(failure.reason, CASES[work])


def test_a_result_passes_the_in_process_guard_and_so_does_ctrl_c():
    assert guarded(lambda: 0) == 0
    with pytest.raises(KeyboardInterrupt):
        guarded(ctrl_c)


def test_two_incidents_have_two_ids():
    assert guarded(crash).reason != guarded(crash).reason
