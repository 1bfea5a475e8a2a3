"""Jobs to whichever worker is free, results in the order of the clients, whoever dies on the way.

Workers live in places of a crew: processes here, or actors somewhere. The order of results is that
of the clients and which clients are computed together depends on how many there are alone, so sums
come out equal from run to run; who computes what when does not matter.
"""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from fedadapt.simulations.engines.jobs import Job, Reply, Request, Result, given_up, results
from fedadapt.simulations.engines.serialization import Tree

AHEAD = 2  # jobs of a worker, the one it computes included: it never waits for the server's sums
WAITING = 3  # cohorts a worker, at most, that are handed out or computed and not yet fetched

log = logging.getLogger(__name__)


class Up(NamedTuple):
    """A worker is ready."""

    slot: int


class Done(NamedTuple):
    """A worker has done the job with this number."""

    slot: int
    number: int
    reply: Reply


class Down(NamedTuple):
    """A worker is no more, with all jobs it had; the crew is getting another into its place."""

    slot: int
    how: str  # "process 123 was killed by SIGKILL"
    number: int  # of the job it was doing, if it was doing one


class WorkerPool(Protocol):
    """Workers that may die, each in a place of its own, 0 to ``size`` - 1."""

    size: int  # known once it has started
    lives: int  # workers that a job may cost

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def publish(self, tree: Tree) -> Any:
        """Put what all jobs of a request need where all workers see it, as long as this is held."""
        ...

    def submit(self, slot: int, number: int, job: Job, common: Any, own: Tree) -> None:
        """Hand a job to a worker that is up; it does its jobs in the order they came."""
        ...

    def wait(self) -> list[Up | Done | Down]:
        """Sleep until something happens."""
        ...


@dataclass(eq=False)
class Span:
    """Clients that are computed together, by position in the request."""

    cohort: int  # the cohort they are, or are of
    first: int
    last: int
    cost: float = 0.0  # relative to others
    deaths: int = 0  # of workers that computed it


@dataclass(eq=False)
class Running:
    """A request under way."""

    request: Request
    own: Callable[[int, int], Tree]
    common: Any
    lives: int
    todo: list[Span]  # in order
    done: dict[int, tuple[Span, list[Result]]] = field(default_factory=dict)  # by first client
    position: int = 0  # the first client whose results are not fetched
    fetched: int = -1  # the last cohort that is
    closed: bool = False

    def __post_init__(self) -> None:
        self.count = len(self.todo)  # of cohorts in all

    def near(self, slots: int) -> list[Span]:
        """What may be computed now."""
        return [s for s in self.todo if s.cohort <= self.fetched + WAITING * slots]

    def put_back(self, span: Span, how: str) -> None:
        """Another worker's turn; after too many of them each client's by itself, or nobody's."""
        if span.deaths < self.lives:
            self.todo.append(span)
        elif span.last - span.first > 1:
            self.todo += [Span(span.cohort, d, d + 1) for d in range(span.first, span.last)]
        else:
            job = self.request.job(span.first, span.last)
            reason = f"exit: {span.deaths} workers died computing this client; the last {how}"
            self.done[span.first] = (span, given_up(job, reason))
        self.todo.sort(key=lambda s: s.first)

    def fetch(self) -> list[Result] | None:
        """The next results in order, once they are there."""
        if self.position not in self.done:
            return None
        span, found = self.done.pop(self.position)
        self.position, self.fetched = span.last, span.cohort
        return found


def cohorts(num_clients: int, size: int, slots: int) -> list[Span]:
    """Cut clients into cohorts of at most ``size``, as even as possible, for all to be busy."""
    count = -(-num_clients // size)
    count = min(num_clients, -(-count // slots) * slots)
    ends = [num_clients * (i + 1) // count for i in range(count)]
    return [Span(i, f, e) for i, (f, e) in enumerate(zip([0, *ends], ends, strict=False))]


class Scheduler:
    """Hands jobs to a crew's workers. Several requests may be under way, or left unfinished.

    The jobs of the first of them go first; a worker that gets none of it gets one of the next.
    """

    def __init__(self, worker_pool: WorkerPool) -> None:
        self._worker_pool = worker_pool
        self._open: list[Running] = []  # in the order they came
        self._jobs: dict[int, deque[tuple[int, Running, Span]]] = {}  # of each place that is up
        self._number = 0

    def each(
        self,
        request: Request,
        own: Callable[[int, int], Tree],
        cohort_size: int,
        cost: Callable[[int], float] = lambda client: 1.0,
    ) -> Iterator[Result]:
        """Results of all clients, in order. The first jobs are handed out before this returns.

        Args:
            own: The tensors for positions first to last (excluded) alone.
            cost: What a client costs, relative to others.

        """
        if not request.clients:
            return iter(())
        todo = cohorts(len(request.clients), cohort_size, self._worker_pool.size)
        for span in todo:
            span.cost = sum(cost(d) for d in request.clients[span.first : span.last])
        common, lives = self._worker_pool.publish(request.common), self._worker_pool.lives
        results = self._follow(Running(request, own, common, lives, todo))
        next(results)
        return results

    def _follow(self, running: Running) -> Generator[Any, None, None]:
        """Nothing, once its first jobs are handed out; then its results."""
        self._open.append(running)
        try:
            self._hand_out()
            yield None
            while running.position < len(running.request.clients):
                self._hand_out()
                while (found := running.fetch()) is not None:
                    self._hand_out()
                    yield from found
                    del found  # so that memory can be used again
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
            # The last jobs wait for whoever is free first; if there is one each, nobody waits.
            last = len(running.todo) <= self._worker_pool.size < running.count
            ahead = 1 if last else AHEAD
            if len(self._jobs[slot]) >= ahead:
                return
            span = max(near, key=lambda s: s.cost)  # of equals the first; heavy ones last are late
            running.todo.remove(span)
            self._number += 1
            self._jobs[slot].append((self._number, running, span))
            job = running.request.job(span.first, span.last)
            own = running.own(span.first, span.last)
            self._worker_pool.submit(slot, self._number, job, running.common, own)

    def _busy(self, slot: int) -> tuple[int, float, int]:
        jobs = self._jobs[slot]
        return len(jobs), sum(span.cost for _, _, span in jobs), slot

    def _take_in(self) -> None:
        for event in self._worker_pool.wait():
            match event:
                case Up(slot):
                    self._jobs[slot] = deque()
                case Done(slot, number, reply):
                    self._finish(slot, number, reply)
                case Down(slot, how, number):
                    log.warning("worker %s; its clients are computed again by another", how)
                    self._redo(slot, how, number)

    def _finish(self, slot: int, number: int, reply: Reply) -> None:
        [(running, span)] = [(r, s) for n, r, s in self._jobs[slot] if n == number]
        self._jobs[slot] = deque(job for job in self._jobs[slot] if job[0] != number)
        if not running.closed:
            job = running.request.job(span.first, span.last)
            running.done[span.first] = (span, results(job, reply))

    def _redo(self, slot: int, how: str, number: int) -> None:
        for job, running, span in self._jobs.pop(slot, ()):
            span.deaths += job == number  # others were only waiting
            running.put_back(span, how)
