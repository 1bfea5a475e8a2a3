"""Hand jobs to the workers of a pool as they become free, and return results in client order.

A worker pool has numbered slots, each with a worker: a process here or an actor elsewhere. Results
come in the order of the clients, and the division into cohorts depends only on the number of
clients and the settings. Sums are therefore the same in every run, whichever worker computes a
cohort, and even if workers die.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from fedadapt.simulations.engines.compute import were_too_slow
from fedadapt.simulations.engines.jobs import Job, Reply, Request, Result, given_up, results
from fedadapt.simulations.engines.serialization import Tree

POLL = 5.0  # seconds between looks at the clock while workers compute
GRACE = 10.0  # seconds after its deadline until a worker that does not come back is ended
AHEAD = 2  # jobs handed to a worker, including the current one, so it need not wait for the server
WAITING = 3  # cohorts for each worker that may be handed out or computed and not yet fetched

log = logging.getLogger(__name__)


class Up(NamedTuple):
    """A worker is ready."""

    slot: int


class Done(NamedTuple):
    """A worker has computed the job with this number."""

    slot: int
    number: int
    reply: Reply


class Down(NamedTuple):
    """A worker died, with all its jobs; the pool is starting another one in its slot."""

    slot: int
    how: str  # "process 123 was killed by SIGKILL"
    number: int  # of the job that it was computing, if there was one


class WorkerPool(Protocol):
    """Workers in slots 0 to ``size`` - 1; each may die and be replaced."""

    size: int  # known once it has started
    lives: int  # deaths of workers after which a job is given up

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def publish(self, tree: Tree) -> Any:
        """Make tensors visible to all workers, for as long as the returned object is held."""
        ...

    def submit(self, slot: int, number: int, job: Job, common: Any, per_client: Tree) -> None:
        """Hand a job to a worker that is up; it computes its jobs in this order."""
        ...

    def wait(self, seconds: float) -> list[Up | Done | Down]:
        """Wait until something happens, and return what did: nothing if time is up before."""
        ...

    def end(self, slot: int) -> None:
        """End a worker that is up; ``wait`` will say that it died."""
        ...


@dataclass(eq=False)
class Span:
    """Clients that are computed together, by position in the request."""

    cohort: int  # number of the cohort that they are, or were cut from
    first: int
    last: int
    cost: float = 0.0  # relative to others
    deaths: int = 0  # of workers that computed it


@dataclass(eq=False)
class Running:
    """A request whose results are not all fetched."""

    request: Request
    per_client: Callable[[int, int], Tree]
    common: Any
    lives: int
    todo: list[Span]  # in order
    in_background: bool = False  # the jobs of requests that are not in the background go first
    done: dict[int, tuple[Span, list[Result]]] = field(default_factory=dict)  # by first client
    position: int = 0  # of the first client whose results are not fetched
    fetched: int = -1  # the last cohort whose results are fetched
    closed: bool = False

    def __post_init__(self) -> None:
        self.count = len(self.todo)  # all cohorts of the request

    def near(self, slots: int) -> list[Span]:
        """Return the spans that may be computed now, not too far ahead of what is fetched."""
        return [s for s in self.todo if s.cohort <= self.fetched + WAITING * slots]

    def one_by_one(self, span: Span) -> None:
        """Have each client of a span computed alone."""
        self.todo += [Span(span.cohort, d, d + 1) for d in range(span.first, span.last)]
        self.todo.sort(key=lambda s: s.first)

    def put_back(self, span: Span, how: str) -> None:
        """Put a span back after a worker died: whole, then client by client, then given up."""
        if span.deaths < self.lives:
            self.todo.append(span)
        elif span.last - span.first > 1:
            self.one_by_one(span)
        else:
            job = self.request.job(span.first, span.last)
            reason = f"exit: {span.deaths} workers died computing this client; the last {how}"
            self.done[span.first] = (span, given_up(job, reason))
        self.todo.sort(key=lambda s: s.first)

    def fetch(self) -> list[Result] | None:
        """Return the next results in client order; None if they are not there yet."""
        if self.position not in self.done:
            return None
        span, next_results = self.done.pop(self.position)
        self.position, self.fetched = span.last, span.cohort
        return next_results


def cohorts(num_clients: int, size: int, slots: int) -> list[Span]:
    """Cut clients into cohorts of at most ``size``, evenly, with work for every slot."""
    count = -(-num_clients // size)
    count = min(num_clients, -(-count // slots) * slots)
    ends = [num_clients * (i + 1) // count for i in range(count)]
    return [Span(i, f, e) for i, (f, e) in enumerate(zip([0, *ends], ends, strict=False))]


class Scheduler:
    """Hands the jobs of requests to the workers of a pool.

    Several requests may be under way, and one may be abandoned. The jobs of the oldest request go
    first; when none of its jobs can be handed out, those of the next one do. Requests in the
    background let all others go first.

    A worker that is late with a job (stopped, or stuck in native code) is ended. While the server
    itself is stopped, by Ctrl-Z say, nobody is late.
    """

    def __init__(
        self, worker_pool: WorkerPool, limit: Callable[[int], float] = lambda clients: math.inf
    ) -> None:
        """Prepare to hand out jobs.

        Args:
            limit: Seconds that a job for so many clients may take.

        """
        self._worker_pool = worker_pool
        self._limit = limit
        self._since: dict[int, float] = {}  # slots that compute -> when they began with the job
        self._open: list[Running] = []  # oldest first, and then those in the background
        self._jobs: dict[int, deque[tuple[int, Running, Span]]] = {}  # slots that are up
        self._number = 0

    def each(
        self,
        request: Request,
        per_client: Callable[[int, int], Tree],
        cohort_size: int,
        cost: Callable[[int], float] = lambda client: 1.0,
        *,
        in_background: bool = False,
    ) -> Iterator[Result]:
        """Return the results of all clients, in order; the first jobs start before this returns.

        Args:
            per_client: (first, last) -> the tensors of the clients at positions first to last - 1.
            cost: Cost of computing a client, relative to the others.
            in_background: Let requests that are made later go first. The first jobs then start
                with the next request, or when the first result is asked for.

        """
        if not request.clients:
            return iter(())
        todo = cohorts(len(request.clients), cohort_size, self._worker_pool.size)
        for span in todo:
            span.cost = sum(cost(d) for d in request.clients[span.first : span.last])
        common, lives = self._worker_pool.publish(request.common), self._worker_pool.lives
        running = Running(request, per_client, common, lives, todo, in_background)
        results = self._follow(running)
        next(results)
        return results

    def _follow(self, running: Running) -> Generator[Any, None, None]:
        """Yield None when the first jobs are handed out, then the results."""
        self._open.append(running)
        self._open.sort(key=lambda r: r.in_background)
        try:
            if not running.in_background:
                self._hand_out()
            yield None
            while running.position < len(running.request.clients):
                self._hand_out()
                while (next_results := running.fetch()) is not None:
                    self._hand_out()
                    yield from next_results
                    del next_results  # so that memory can be used again
                if running.position < len(running.request.clients):
                    self._take_in()
        finally:
            self._open.remove(running)
            running.closed = True
            running.done.clear()

    def _hand_out(self) -> None:
        while self._jobs:
            slot = min(self._jobs, key=self._busy)
            for running in self._open:
                if near := running.near(self._worker_pool.size):
                    break
            else:
                return
            # The last jobs go to the worker that is free first, unless there is one for each.
            last = len(running.todo) <= self._worker_pool.size < running.count
            ahead = 1 if last else AHEAD
            if len(self._jobs[slot]) >= ahead:
                return
            span = max(
                near, key=lambda s: s.cost
            )  # the most expensive first: at the end it would delay the round
            running.todo.remove(span)
            self._number += 1
            self._since.setdefault(slot, time.monotonic())
            self._jobs[slot].append((self._number, running, span))
            job = running.request.job(span.first, span.last)
            tensors = running.per_client(span.first, span.last)
            self._worker_pool.submit(slot, self._number, job, running.common, tensors)

    def _busy(self, slot: int) -> tuple[int, float, int]:
        jobs = self._jobs[slot]
        return len(jobs), sum(span.cost for _, _, span in jobs), slot

    def _take_in(self) -> None:
        began = time.monotonic()
        events = self._worker_pool.wait(POLL)
        stopped = time.monotonic() - began - 2 * POLL
        if stopped > 0:
            self._since = {slot: since + stopped for slot, since in self._since.items()}
        for event in events:
            match event:
                case Up(slot):
                    self._jobs[slot] = deque()
                case Done(slot, number, reply):
                    self._finish(slot, number, reply)
                case Down(slot, how, number):
                    log.warning("worker %s; its clients are computed again by another", how)
                    self._redo(slot, how, number)
        self._end_late()

    def _end_late(self) -> None:
        now = time.monotonic()
        for slot, since in list(self._since.items()):
            span = self._jobs[slot][0][2]
            limit = self._limit(span.last - span.first)
            if now > since + limit + GRACE:
                log.warning(
                    "worker %d: no answer for %.0f s, where client-deadline and round-deadline "
                    "allow %.0f s; it is ended",
                    *(slot, now - since, limit),
                )
                del self._since[slot]
                self._worker_pool.end(slot)

    def _finish(self, slot: int, number: int, reply: Reply) -> None:
        [(running, span)] = [(r, s) for n, r, s in self._jobs[slot] if n == number]
        self._jobs[slot] = deque(job for job in self._jobs[slot] if job[0] != number)
        self._since.pop(slot, None)
        if self._jobs[slot]:  # it has begun with the next one
            self._since[slot] = time.monotonic()
        if running.closed:
            return
        job = running.request.job(span.first, span.last)
        answers = results(job, reply)
        if were_too_slow(job.clients, answers):
            running.one_by_one(span)
        else:
            running.done[span.first] = (span, answers)

    def _redo(self, slot: int, how: str, number: int) -> None:
        self._since.pop(slot, None)
        for job, running, span in self._jobs.pop(slot, ()):
            span.deaths += job == number  # its other jobs were only waiting
            running.put_back(span, how)
