"""Whatever kills a worker process, the round goes on with the same numbers; nothing is left."""

import logging
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from toys import Toys, assert_same_bits, conv, initial, sent, split, training

from fedadapt.client.adaptations.settings import NoAdaptation
from fedadapt.errors import FedadaptError
from fedadapt.server.client_pool import EvaluationRequest
from fedadapt.simulations.engines import process_worker
from fedadapt.simulations.engines.client_states import Keeper
from fedadapt.simulations.engines.in_process import InProcessFleet
from fedadapt.simulations.engines.jobs import Reply, Request
from fedadapt.simulations.engines.processes import ProcessFleet
from fedadapt.simulations.engines.scheduler import WAITING, Dispatch, Done, Down, Up, cohorts
from fedadapt.simulations.engines.shared_memory import Window
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.fedavg import FedAvg
from fedadapt.weights import repeat

SPLITS = [split(count, seed=count) for count in (5, 12, 10, 7, 9, 3, 8)]
DEVICES = tuple(range(len(SPLITS)))
START = initial(conv())
QUESTION = ("train", 1, sent(START, DEVICES), START)


class Deadly(Worker):
    """Device 4 kills its process, as often as it has lives; a file each counts."""

    folder: Path
    lives: int

    def _perhaps(self, devices) -> None:
        killed = len(list(self.folder.iterdir()))
        if 4 in devices and killed < self.lives:
            (self.folder / str(killed)).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def answer(self, action, round, sent, kept=()):
        self._perhaps(sent.devices)
        return super().answer(action, round, sent, kept)

    def evaluate(self, round, devices, *given, **more):
        self._perhaps(devices)
        return super().evaluate(round, devices, *given, **more)


def worker(kind=Worker):
    strategy = FedAvg(training=training(0.1, 2), model=conv(), batch_norm="local")
    return kind(Toys(SPLITS), conv(), strategy, (NoAdaptation(),), seed=1)


def deadly(folder, lives):
    found = worker(Deadly)
    found.folder, found.lives = folder, lives
    return found


def processes(of, num_workers=2, cohort_size=3):
    return ProcessFleet(of, num_workers=num_workers, cohort_size=cohort_size, keeper=Keeper())


@pytest.fixture(scope="module")
def wanted():
    with InProcessFleet(worker(), cohort_size=1) as fleet:
        return {a.devices[0]: a.update for a in fleet.ask(*QUESTION)}, fleet.kept()


def assert_as_wanted(found, kept, wanted):
    updates, states = wanted
    for answers in found:
        for index, device in enumerate(answers.devices):
            ours = {n: t[index] for n, t in answers.update.weights.items()}
            assert_same_bits(ours, {n: t[0] for n, t in updates[device].weights.items()})
            assert_same_bits(kept[device]["norms"], states[device]["norms"])


@pytest.mark.parametrize("cohort_size", [1, 3])
@pytest.mark.parametrize("lives", [1, 2, 3])
def test_killed_in_the_middle_of_a_round(tmp_path, caplog, wanted, lives, cohort_size):
    """By its own device: a cohort that kills twice goes on device by device."""
    with processes(deadly(tmp_path, lives), cohort_size=cohort_size) as fleet:
        found = list(fleet.ask(*QUESTION))
        kept = fleet.kept()
    assert len(list(tmp_path.iterdir())) == (lives if cohort_size == 3 else min(lives, 2))
    computed = [d for a in found for d in a.devices]
    failed = {d: f for a in found for d, f in a.failures.items()}
    if cohort_size == 1 and lives >= 2:
        assert computed == [0, 1, 2, 3, 5, 6]
        [(device, failure)] = failed.items()
        assert (device, failure.outcome) == (4, "error")
        assert failure.reason.startswith("exit: 2 workers died computing this device")
        assert failure.reason.endswith("was killed by SIGKILL")
    else:
        assert (computed, failed) == (list(DEVICES), {})
    assert_as_wanted(found, kept, wanted)
    deaths = len(list(tmp_path.iterdir()))
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert ["was killed by SIGKILL" in r.getMessage() for r in warnings] == [True] * deaths


def test_a_device_that_kills_for_ever_is_an_error_of_its_own(tmp_path, wanted):
    request = EvaluationRequest(1, DEVICES, {"base": repeat(START, 7)}, ("none",))
    with processes(deadly(tmp_path, 99)) as fleet:
        answers = list(fleet.ask(*QUESTION))
        kept = fleet.kept()
        scored = list(fleet.evaluate(request))
    for found in (answers, scored):
        assert [d for a in found for d in a.devices] == [0, 1, 2, 3, 5, 6]
        assert [d for a in found for d in a.failures] == [4]
    assert_as_wanted(answers, kept, wanted)
    assert [row.device for a in scored for row in a.rows] == [0, 1, 2, 3, 5, 6]
    assert len(list(tmp_path.iterdir())) == 8  # twice together, twice alone; for both requests


def test_killed_from_outside_while_idle_and_while_busy(caplog, wanted):
    with processes(worker(), cohort_size=1) as fleet:
        for place in fleet._crew._places.values():
            os.kill(place.process.pid, signal.SIGINT)  # Ctrl-C is not for them
        list(fleet.ask(*QUESTION))
        assert caplog.records == []
        fleet.restore({})
        for place in fleet._crew._places.values():
            os.kill(place.process.pid, signal.SIGKILL)
        found = list(fleet.ask(*QUESTION))
        assert_as_wanted(found, fleet.kept(), wanted)
        fleet.restore({})
        answers = fleet.ask(*QUESTION)
        found = [next(answers)]
        for place in fleet._crew._places.values():
            os.kill(place.process.pid, signal.SIGKILL)
        found += list(answers)
        assert [d for a in found for d in a.devices] == list(DEVICES)
        assert_as_wanted(found, fleet.kept(), wanted)


def test_a_reply_that_cannot_be_fetched_any_more_is_computed_again(monkeypatch, wanted):
    """Its memory is gone with the process that answered."""
    monkeypatch.setattr(process_worker, "SMALL", 0)
    memory, lost = Window.memory, []

    def once_too_late(self, path, size):
        if not lost:
            lost.append(path)
            raise FileNotFoundError(path)
        return memory(self, path, size)

    with processes(worker(), cohort_size=1) as fleet:
        monkeypatch.setattr(Window, "memory", once_too_late)
        found = list(fleet.ask(*QUESTION))
        kept = fleet.kept()
    assert lost
    assert [d for a in found for d in a.devices] == list(DEVICES)
    assert_as_wanted(found, kept, wanted)


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
    with processes(worker(Slow)) as fleet:
        pipe.send([place.process.pid for place in fleet._crew._places.values()])
        list(fleet.ask(*QUESTION))


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.skipif(sys.platform != "linux", reason="a zombie is told by /proc alone")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_server_however_it_ends(how):
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("fork").Process(target=serve, args=(theirs,))
    server.start()
    children = ours.recv()
    assert len(children) == 2
    assert all(map(is_running, children))
    before = set(os.listdir("/dev/shm"))
    os.kill(server.pid, how)
    server.join(20)
    assert server.exitcode == (-how if how == signal.SIGKILL else 1)
    until = time.monotonic() + 10
    while any(map(is_running, children)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(is_running, children))
    assert set(os.listdir("/dev/shm")) - before == set()


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
            for places in range(1, 6):
                spans = cohorts(number, size, places)
                assert [s.first for s in spans] == [0, *(s.last for s in spans)][:-1]
                assert spans[-1].last == number
                found = [s.last - s.first for s in spans]
                assert 0 < min(found) <= max(found) <= min(size, min(found) + 1)


class Scripted:
    """A crew that finishes jobs in the order the test says."""

    lives = 2

    def __init__(self, size):
        self.size, self.jobs, self.events = size, [], [Up(place) for place in range(size)]

    def publish(self, tree):
        return None

    def submit(self, place, number, job, common, own):
        self.jobs.append((place, number, job))

    def wait(self):
        if self.events:
            found, self.events = self.events, []
            return found
        place, number, job = self.jobs.pop(self.choose())
        facts = [(job.devices, {}, {}, {})] if job.devices else []
        numbers = {"numbers": {0: {"num-examples": torch.ones(len(job.devices))}}}
        reply = {"weights": {}, "report": {}, "kept": {}} | numbers
        return [Done(place, number, Reply(facts, reply))]

    def choose(self):
        return -1


def test_few_results_wait_for_their_turn_however_slow_the_first_is():
    crew = Scripted(2)
    crew.choose = lambda: -1  # the last that was handed out is done first
    devices, seen, ahead = tuple(range(40)), [], []
    submit = crew.submit

    def watched(place, number, job, common, own):
        ahead.append(job.devices[0] - len(seen))
        submit(place, number, job, common, own)

    crew.submit = watched
    request = Request.to_answer("train", 1, sent(START, devices))
    for answers in Dispatch(crew).each(request, lambda first, last: {}, 1):
        seen += answers.devices
    assert seen == list(devices)
    assert max(ahead) == 2 * WAITING  # and the one that is being looked at


def test_a_request_begins_at_the_call_after_the_one_before():
    crew = Scripted(2)
    crew.choose = lambda: 0
    given, dispatch = [], Dispatch(crew)
    submit = crew.submit
    crew.submit = lambda *job: (given.append(job[2].devices[0]), submit(*job))
    first, second = range(8), range(10, 18)
    ours = dispatch.each(Request.to_answer("a", 1, sent(START, first)), lambda *_: {}, 1)
    assert next(ours).devices == (0,)
    theirs = dispatch.each(Request.to_answer("b", 1, sent(START, second)), lambda *_: {}, 1)
    assert [0, *(a.devices[0] for a in ours)] == list(first)
    assert given[:8] == list(first)
    assert given[8:]  # whoever was free went on with the next
    assert [a.devices[0] for a in theirs] == list(second)
    assert given[8:] == list(second)


def test_a_request_nobody_is_interested_in_any_more_is_in_nobodys_way():
    crew = Scripted(1)
    crew.choose = lambda: 0
    dispatch = Dispatch(crew)
    for leave in (lambda stream: None, next):
        stream = dispatch.each(Request.to_answer("a", 1, sent(START, range(8))), lambda *_: {}, 1)
        leave(stream)
        del stream
        after = Request.to_answer("b", 1, sent(START, range(10, 13)))
        assert [a.devices[0] for a in dispatch.each(after, lambda *_: {}, 1)] == [10, 11, 12]


def test_who_dies_without_doing_a_job_is_no_job_s_fault():
    crew = Scripted(1)
    crew.choose = lambda: 0
    request = Request.to_answer("train", 1, sent(START, DEVICES))
    found = Dispatch(crew).each(request, lambda first, last: {}, 1)
    seen = list(next(found).devices)
    for answers in found:
        seen += answers.devices
        assert not answers.failures
        crew.jobs.clear()
        crew.events = [Down(0, "died", 0), Up(0)]
    assert seen == list(DEVICES)


def test_the_heaviest_come_first_but_not_before_their_time():
    crew = Scripted(1)
    asked = []
    crew.submit = lambda place, number, job, common, own: (
        asked.append(job.devices[0]),
        crew.jobs.append((place, number, job)),
    )
    crew.choose = lambda: 0
    costs = [1, 2, 9, 99, 3, 4, 5]
    request = Request.to_answer("train", 1, sent(START, range(7)))
    found = Dispatch(crew).each(request, lambda first, last: {}, 1, costs.__getitem__)
    assert [a.devices[0] for a in found] == list(range(7))
    assert asked[:2] == [2, 1]  # of the first three
    assert sorted(asked) == list(range(7))


def given(count, busy=0):
    """How many jobs a worker had when it got each, of two workers that do ``busy`` jobs before."""
    crew = Scripted(2)
    crew.choose = lambda: 0
    dispatch, had, submit = Dispatch(crew), [], crew.submit
    crew.submit = lambda *job: (had.append([j[0] for j in crew.jobs].count(job[0])), submit(*job))
    ask = lambda *devices: dispatch.each(  # noqa: E731
        Request.to_answer("a", 1, sent(START, range(*devices))), lambda *_: {}, 1
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


def test_who_has_the_lighter_job_gets_the_next():
    crew, costs = Scripted(2), [9, 1, 1, 1, 1]
    crew.choose = lambda: 0
    dispatch, places, submit = Dispatch(crew), [], crew.submit
    crew.submit = lambda *job: (places.append(job[0]), submit(*job))
    request = Request.to_answer("a", 1, sent(START, range(5)))
    list(dispatch.each(request, lambda *_: {}, 1, costs.__getitem__))
    assert places[:3] == [0, 1, 1]


def test_a_request_has_begun_before_its_first_result_is_asked_for():
    crew = Scripted(2)
    dispatch = Dispatch(crew)
    list(dispatch.each(Request.to_answer("a", 1, sent(START, range(2))), lambda *_: {}, 1))
    stream = dispatch.each(Request.to_answer("b", 1, sent(START, range(9))), lambda *_: {}, 1)
    assert {place for place, _, _ in crew.jobs} == {0, 1}
    stream.close()
