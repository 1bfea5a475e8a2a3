"""Whatever kills a worker process, the round goes on with the same numbers; nothing is left."""

import logging
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch
from toys import Toys, assert_same_bits, conv, initial, sent, split, training

from fedadapt.client.adaptations.none import NoAdaptation
from fedadapt.client.failures import Deadlines
from fedadapt.errors import FedadaptError
from fedadapt.server.client_pool import EvaluationRequest
from fedadapt.server.client_states import ClientStates
from fedadapt.simulations.engines import process_worker
from fedadapt.simulations.engines.in_process import InProcessClients
from fedadapt.simulations.engines.jobs import Reply, Request
from fedadapt.simulations.engines.processes import ProcessClients
from fedadapt.simulations.engines.scheduler import WAITING, Done, Down, Scheduler, Up, cohorts
from fedadapt.simulations.engines.shared_memory import MappedBlock
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.shared.fedavg import FedAvg
from fedadapt.weights import repeat

SPLITS = [split(count, seed=count) for count in (5, 12, 10, 7, 9, 3, 8)]
CLIENTS = tuple(range(len(SPLITS)))
START = initial(conv())
QUESTION = ("train", 1, sent(START, CLIENTS), START)


class Deadly(Worker):
    """Client 4 kills its process, as often as it has lives; a file each counts."""

    folder: Path
    lives: int

    def _perhaps(self, clients) -> None:
        killed = len(list(self.folder.iterdir()))
        if 4 in clients and killed < self.lives:
            (self.folder / str(killed)).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def answer(self, action, round, sent, states=()):
        self._perhaps(sent.clients)
        return super().answer(action, round, sent, states)

    def evaluate(self, round, clients, *given, **more):
        self._perhaps(clients)
        return super().evaluate(round, clients, *given, **more)


def worker(kind=Worker):
    strategy = FedAvg(training=training(0.1, 2), model=conv(), batch_norm="local")
    return kind(Toys(SPLITS), conv(), strategy, (NoAdaptation(),), seed=1)


def deadly(folder, lives):
    found = worker(Deadly)
    found.folder, found.lives = folder, lives
    return found


def processes(of, num_workers=2, cohort_size=3):
    return ProcessClients(
        of, num_workers=num_workers, cohort_size=cohort_size, client_states=ClientStates()
    )


@pytest.fixture(scope="module")
def wanted():
    with InProcessClients(worker(), cohort_size=1) as client_pool:
        return {a.clients[0]: a.update for a in client_pool.ask(*QUESTION)}, client_pool.states()


def assert_as_wanted(found, states, wanted):
    updates, states = wanted
    for answers in found:
        for index, client in enumerate(answers.clients):
            ours = {n: t[index] for n, t in answers.update.weights.items()}
            assert_same_bits(ours, {n: t[0] for n, t in updates[client].weights.items()})
            assert_same_bits(states[client]["norms"], states[client]["norms"])


@pytest.mark.parametrize("cohort_size", [1, 3])
@pytest.mark.parametrize("lives", [1, 2, 3])
def test_killed_in_the_middle_of_a_round(tmp_path, caplog, wanted, lives, cohort_size):
    """By its own client: a cohort that kills twice goes on client by client."""
    with processes(deadly(tmp_path, lives), cohort_size=cohort_size) as client_pool:
        found = list(client_pool.ask(*QUESTION))
        states = client_pool.states()
    assert len(list(tmp_path.iterdir())) == (lives if cohort_size == 3 else min(lives, 2))
    computed = [d for a in found for d in a.clients]
    failed = {d: f for a in found for d, f in a.failures.items()}
    if cohort_size == 1 and lives >= 2:
        assert computed == [0, 1, 2, 3, 5, 6]
        [(client, failure)] = failed.items()
        assert (client, failure.outcome) == (4, "error")
        assert failure.reason.startswith("exit: 2 workers died computing this client")
        assert failure.reason.endswith("was killed by SIGKILL")
    else:
        assert (computed, failed) == (list(CLIENTS), {})
    assert_as_wanted(found, states, wanted)
    deaths = len(list(tmp_path.iterdir()))
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert ["was killed by SIGKILL" in r.getMessage() for r in warnings] == [True] * deaths


def test_a_client_that_kills_for_ever_is_an_error_of_its_own(tmp_path, wanted):
    request = EvaluationRequest(1, CLIENTS, {"base": repeat(START, 7)}, ("none",))
    with processes(deadly(tmp_path, 99)) as client_pool:
        answers = list(client_pool.ask(*QUESTION))
        states = client_pool.states()
        scored = list(client_pool.evaluate(request))
    for found in (answers, scored):
        assert [d for a in found for d in a.clients] == [0, 1, 2, 3, 5, 6]
        assert [d for a in found for d in a.failures] == [4]
    assert_as_wanted(answers, states, wanted)
    assert [row.client for a in scored for row in a.rows] == [0, 1, 2, 3, 5, 6]
    assert len(list(tmp_path.iterdir())) == 8  # twice together, twice alone; for both requests


def test_killed_from_outside_while_idle_and_while_busy(caplog, wanted):
    with processes(worker(), cohort_size=1) as client_pool:
        for slot in client_pool._worker_pool._slots.values():
            os.kill(slot.process.pid, signal.SIGINT)  # Ctrl-C is not for them
        list(client_pool.ask(*QUESTION))
        assert caplog.records == []
        client_pool.restore({})
        for slot in client_pool._worker_pool._slots.values():
            os.kill(slot.process.pid, signal.SIGKILL)
        found = list(client_pool.ask(*QUESTION))
        assert_as_wanted(found, client_pool.states(), wanted)
        client_pool.restore({})
        answers = client_pool.ask(*QUESTION)
        found = [next(answers)]
        for slot in client_pool._worker_pool._slots.values():
            os.kill(slot.process.pid, signal.SIGKILL)
        found += list(answers)
        assert [d for a in found for d in a.clients] == list(CLIENTS)
        assert_as_wanted(found, client_pool.states(), wanted)


def test_a_reply_that_cannot_be_fetched_any_more_is_computed_again(monkeypatch, wanted):
    """Its memory is gone with the process that answered."""
    monkeypatch.setattr(process_worker, "SMALL", 0)
    memory, lost = MappedBlock.memory, []

    def once_too_late(self, path, size):
        if not lost:
            lost.append(path)
            raise FileNotFoundError(path)
        return memory(self, path, size)

    with processes(worker(), cohort_size=1) as client_pool:
        monkeypatch.setattr(MappedBlock, "memory", once_too_late)
        found = list(client_pool.ask(*QUESTION))
        states = client_pool.states()
    assert lost
    assert [d for a in found for d in a.clients] == list(CLIENTS)
    assert_as_wanted(found, states, wanted)


def test_a_process_that_cannot_be_started_is_one_clear_error(monkeypatch):
    def dying(*_):
        os._exit(3)

    monkeypatch.setattr(process_worker, "_prepare", dying)
    before = torch.get_num_threads()
    with pytest.raises(FedadaptError, match=r"^workers: process \d+ ended with exit code 3 before"):
        processes(worker()).__enter__()
    assert torch.get_num_threads() == before


def test_where_a_fork_cannot_differentiate_it_is_said(monkeypatch):
    def broken():
        raise RuntimeError("Unable to handle autograd's threading in combination with fork")

    monkeypatch.setattr(process_worker, "_differentiate", broken)
    with pytest.raises(FedadaptError, match="Unable to handle autograd"):
        processes(worker()).__enter__()


class Slow(Worker):
    def answer(self, *given):
        time.sleep(60)


def serve(pipe):
    """A server whose workers are busy."""
    with processes(worker(Slow)) as client_pool:
        pipe.send([slot.process.pid for slot in client_pool._worker_pool._slots.values()])
        list(client_pool.ask(*QUESTION))


class Hanging(Worker):
    """Client 4 never comes back: it sleeps in Python, or its process is stopped as by SIGSTOP."""

    stops = False
    times: Path  # has a file when it was stopped

    def answer(self, action, round, sent, states=()):
        if 4 in sent.clients and self.stops:
            if not list(self.times.iterdir()):
                (self.times / "stopped").touch()
                os.kill(os.getpid(), signal.SIGSTOP)
        elif 4 in sent.clients:
            signal.setitimer(signal.ITIMER_REAL, 0.05)  # the deadline is near
            time.sleep(60)
        return super().answer(action, round, sent, states)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("fedadapt.simulations.engines.scheduler.POLL", 0.1)
    monkeypatch.setattr("fedadapt.simulations.engines.scheduler.GRACE", 0.5)


@pytest.mark.slow
def test_a_stopped_process_is_ended_and_its_clients_are_computed_again(
    tmp_path, caplog, wanted, impatient
):
    hanging = worker(Hanging)
    hanging.stops, hanging.times, hanging.deadlines = True, tmp_path, Deadlines(5.0, 10.0)
    with processes(hanging, cohort_size=1) as client_pool:
        found = list(client_pool.ask(*QUESTION))
        states = client_pool.states()
    assert "allow 5 s; it is ended" in caplog.text
    assert "killed by SIGKILL; its clients are computed again" in caplog.text
    assert_as_wanted(found, states, wanted)


def assert_only_client_4_timed_out(found, wanted):
    failures = {d: f for answers in found for d, f in answers.failures.items()}
    assert list(failures) == [4]
    assert failures[4].outcome == "error"
    assert failures[4].reason.startswith("timeout incident=")
    ours = {d: a.update for a in found for d in a.clients}
    assert list(ours) == [0, 1, 2, 3, 5, 6]
    for client, update in ours.items():
        assert_same_bits(update.weights, wanted[0][client].weights)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_client_that_hangs_in_python_times_out_alone(caplog, wanted, num_workers):
    """In this process and in others; of its cohort everybody else is computed one by one."""
    hanging = worker(Hanging)
    if num_workers:
        engine = processes(hanging, num_workers, cohort_size=3)
    else:
        engine = InProcessClients(hanging, cohort_size=3)
    with engine as client_pool:
        found = [one for a in client_pool.ask(*QUESTION) for one in singles(a)]
    assert_only_client_4_timed_out(found, wanted)
    assert "ended" not in caplog.text


def singles(answers):
    """The answers of each client of a cohort apart."""
    if answers.update is None:
        return [answers]
    rows = range(len(answers.clients))
    weights = [{n: t[d : d + 1] for n, t in answers.update.weights.items()} for d in rows]
    return [
        replace(answers, clients=(c,), update=replace(answers.update, weights=w))
        for c, w in zip(answers.clients, weights, strict=True)
    ]


class Clocked:
    """A pool whose first worker never answers, under a clock that the test moves."""

    size, lives = 2, 2

    def __init__(self, waits):
        self.now, self.waits, self.ended, self.jobs = 0.0, iter(waits), [], {0: [], 1: []}
        self.events = [Up(0), Up(1)]

    def publish(self, tree):
        return None

    def submit(self, slot, number, job, common, own):
        self.jobs[slot].append((number, job))

    def wait(self, seconds):
        if self.events:
            found, self.events = self.events, []
            return found
        self.now += next(self.waits)
        if self.ended and self.jobs[self.ended[-1]]:
            slot = self.ended[-1]
            [(number, _), *_], self.jobs[slot] = self.jobs[slot], []
            return [Down(slot, "was ended", number)]
        return []

    def end(self, slot):
        self.ended.append(slot)
        self.end_times = [*getattr(self, "end_times", []), self.now]


def test_a_worker_is_late_by_its_own_job_and_not_while_the_server_is_stopped(monkeypatch):
    """30 s for a job of one client, 10 s of grace; an hour in which the server was stopped."""
    pool = Clocked([5.0, 5.0, 3600.0] + [5.0] * 100)
    monkeypatch.setattr("fedadapt.simulations.engines.scheduler.time.monotonic", lambda: pool.now)
    request = Request.to_answer("train", 1, sent(START, (0,)))
    pool.size = 1
    found = list(Scheduler(pool, lambda clients: 30.0 * clients).each(request, lambda *_: {}, 1))
    assert [answers.failures[0].reason for answers in found] == [
        "exit: 2 workers died computing this client; the last was ended"
    ]
    # Late after 40 s: 5 + 5, of the hour the 10 that a wait may take, and 5 five times. The other
    # worker has got the job when the first had been seen to die.
    assert pool.end_times == [5 + 5 + 3600 + 25, 5 + 5 + 3600 + 25 + 5 + 45]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_server_however_it_ends(how):
    """The server's processes inherit one end of a pipe, which ends with the last of them."""
    ours, theirs = multiprocessing.Pipe()
    end, held = os.pipe()
    server = multiprocessing.get_context("fork").Process(target=serve, args=(theirs,))
    server.start()
    os.close(held)
    children = ours.recv()
    assert len(children) == 2
    assert not wait([end], timeout=0)
    before = set(Path("/dev/shm").glob("*"))
    os.kill(server.pid, how)
    server.join(20)
    assert server.exitcode == (-how if how == signal.SIGKILL else 1)
    assert wait([end], timeout=10)
    assert os.read(end, 1) == b""
    os.close(end)
    assert set(Path("/dev/shm").glob("*")) - before == set()


def test_cohorts_are_even_and_enough_for_all():
    def sizes(*given):
        return [span.last - span.first for span in cohorts(*given)]

    assert sizes(100, 64, 2) == [50, 50]
    assert sizes(100, 25, 2) == [25] * 4
    assert sizes(100, 40, 2) == [25] * 4
    assert sizes(7, 3, 2) == [1, 2, 2, 2]
    assert sizes(3, 1, 2) == [1, 1, 1]
    assert sizes(2, 64, 4) == [1, 1]
    for number in range(1, 40):
        for size in range(1, 12):
            for slots in range(1, 6):
                spans = cohorts(number, size, slots)
                assert [s.first for s in spans] == [0, *(s.last for s in spans)][:-1]
                assert spans[-1].last == number
                found = [s.last - s.first for s in spans]
                assert 0 < min(found) <= max(found) <= min(size, min(found) + 1)


class Scripted:
    """A crew that finishes jobs in the order the test says."""

    lives = 2

    def __init__(self, size):
        self.size, self.jobs, self.events = size, [], [Up(slot) for slot in range(size)]

    def publish(self, tree):
        return None

    def submit(self, slot, number, job, common, own):
        self.jobs.append((slot, number, job))

    def wait(self, seconds):
        if self.events:
            found, self.events = self.events, []
            return found
        slot, number, job = self.jobs.pop(self.choose())
        metadata = [(job.clients, {}, {}, {})] if job.clients else []
        numbers = {"numbers": {0: {"num-examples": torch.ones(len(job.clients))}}}
        reply = {"weights": {}, "report": {}, "kept": {}} | numbers
        return [Done(slot, number, Reply(metadata, reply))]

    def choose(self):
        return -1


def test_few_results_wait_for_their_turn_however_slow_the_first_is():
    worker_pool = Scripted(2)
    worker_pool.choose = lambda: -1  # the last that was handed out is done first
    clients, seen, ahead = tuple(range(40)), [], []
    submit = worker_pool.submit

    def watched(slot, number, job, common, own):
        ahead.append(job.clients[0] - len(seen))
        submit(slot, number, job, common, own)

    worker_pool.submit = watched
    request = Request.to_answer("train", 1, sent(START, clients))
    for answers in Scheduler(worker_pool).each(request, lambda first, last: {}, 1):
        seen += answers.clients
    assert seen == list(clients)
    assert max(ahead) == 2 * WAITING  # and the one that is being looked at


def test_a_request_begins_at_the_call_after_the_one_before():
    worker_pool = Scripted(2)
    worker_pool.choose = lambda: 0
    given, scheduler = [], Scheduler(worker_pool)
    submit = worker_pool.submit
    worker_pool.submit = lambda *job: (given.append(job[2].clients[0]), submit(*job))
    first, second = range(8), range(10, 18)
    ours = scheduler.each(Request.to_answer("a", 1, sent(START, first)), lambda *_: {}, 1)
    assert next(ours).clients == (0,)
    theirs = scheduler.each(Request.to_answer("b", 1, sent(START, second)), lambda *_: {}, 1)
    assert [0, *(a.clients[0] for a in ours)] == list(first)
    assert given[:8] == list(first)
    assert given[8:]  # whoever was free went on with the next
    assert [a.clients[0] for a in theirs] == list(second)
    assert given[8:] == list(second)


def test_a_request_in_the_background_lets_a_later_one_go_first():
    worker_pool = Scripted(1)
    worker_pool.choose = lambda: 0
    given, scheduler = [], Scheduler(worker_pool)
    submit = worker_pool.submit
    worker_pool.submit = lambda *job: (given.append(job[2].clients[0]), submit(*job))
    list(scheduler.each(Request.to_answer("a", 1, sent(START, [0])), lambda *_: {}, 1))
    given.clear()
    looks = Request.to_answer("b", 1, sent(START, range(10, 13)))
    later = scheduler.each(looks, lambda *_: {}, 1, in_background=True)
    assert not given
    first = scheduler.each(Request.to_answer("c", 1, sent(START, range(20, 23))), lambda *_: {}, 1)
    assert given == [20, 21]
    assert [a.clients[0] for a in first] == [20, 21, 22]
    assert given[:3] == [20, 21, 22]
    assert given[3:]  # whoever is free goes on with the other, while the answers are summed
    assert [a.clients[0] for a in later] == [10, 11, 12]


def test_a_request_in_the_background_needs_no_other_one_to_begin():
    scheduler = Scheduler(Scripted(2))
    found = scheduler.each(
        Request.to_answer("a", 1, sent(START, range(5))), lambda *_: {}, 1, in_background=True
    )
    assert [a.clients[0] for a in found] == list(range(5))


def test_a_request_nobody_is_interested_in_any_more_is_in_nobodys_way():
    worker_pool = Scripted(1)
    worker_pool.choose = lambda: 0
    scheduler = Scheduler(worker_pool)
    for leave in (lambda stream: None, next):
        stream = scheduler.each(Request.to_answer("a", 1, sent(START, range(8))), lambda *_: {}, 1)
        leave(stream)
        del stream
        after = Request.to_answer("b", 1, sent(START, range(10, 13)))
        assert [a.clients[0] for a in scheduler.each(after, lambda *_: {}, 1)] == [10, 11, 12]


def test_a_worker_that_dies_between_jobs_fails_no_client():
    worker_pool = Scripted(1)
    worker_pool.choose = lambda: 0
    request = Request.to_answer("train", 1, sent(START, CLIENTS))
    found = Scheduler(worker_pool).each(request, lambda first, last: {}, 1)
    seen = list(next(found).clients)
    for answers in found:
        seen += answers.clients
        assert not answers.failures
        worker_pool.jobs.clear()
        worker_pool.events = [Down(0, "died", 0), Up(0)]
    assert seen == list(CLIENTS)


def test_the_most_expensive_job_of_the_next_few_comes_first():
    worker_pool = Scripted(1)
    asked = []
    worker_pool.submit = lambda slot, number, job, common, own: (
        asked.append(job.clients[0]),
        worker_pool.jobs.append((slot, number, job)),
    )
    worker_pool.choose = lambda: 0
    costs = [1, 2, 9, 99, 3, 4, 5]
    request = Request.to_answer("train", 1, sent(START, range(7)))
    found = Scheduler(worker_pool).each(request, lambda first, last: {}, 1, costs.__getitem__)
    assert [a.clients[0] for a in found] == list(range(7))
    assert asked[:2] == [2, 1]  # of the first three
    assert sorted(asked) == list(range(7))


def given(count, busy=0):
    """How many jobs a worker had when it got each, of two workers that do ``busy`` jobs before."""
    worker_pool = Scripted(2)
    worker_pool.choose = lambda: 0
    scheduler, had, submit = Scheduler(worker_pool), [], worker_pool.submit
    worker_pool.submit = lambda *job: (
        had.append([j[0] for j in worker_pool.jobs].count(job[0])),
        submit(*job),
    )
    ask = lambda *clients: scheduler.each(  # noqa: E731
        Request.to_answer("a", 1, sent(START, range(*clients))), lambda *_: {}, 1
    )
    list(ask(2))  # both are up
    others = ask(busy)
    had.clear()
    ours = ask(10, 10 + count)
    list(others), list(ours)
    return had


def test_the_last_jobs_wait_for_who_is_free_first():
    assert given(8)[:4] == [0, 0, 1, 1]
    assert given(8)[-2:] == [0, 0]


def test_one_job_for_each_worker_is_handed_out_at_once():
    assert given(2, busy=2) == [1, 1]


def test_the_worker_with_the_cheaper_job_gets_the_next():
    worker_pool, costs = Scripted(2), [9, 1, 1, 1, 1]
    worker_pool.choose = lambda: 0
    scheduler, slots, submit = Scheduler(worker_pool), [], worker_pool.submit
    worker_pool.submit = lambda *job: (slots.append(job[0]), submit(*job))
    request = Request.to_answer("a", 1, sent(START, range(5)))
    list(scheduler.each(request, lambda *_: {}, 1, costs.__getitem__))
    assert slots[:3] == [0, 1, 1]


def test_a_request_has_begun_before_its_first_result_is_asked_for():
    worker_pool = Scripted(2)
    scheduler = Scheduler(worker_pool)
    list(scheduler.each(Request.to_answer("a", 1, sent(START, range(2))), lambda *_: {}, 1))
    stream = scheduler.each(Request.to_answer("b", 1, sent(START, range(9))), lambda *_: {}, 1)
    assert {slot for slot, _, _ in worker_pool.jobs} == {0, 1}
    stream.close()
