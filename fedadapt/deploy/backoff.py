"""How long to wait before a program that has ended is started again."""

import time


class Backoff:
    """Longer and longer waits; a program that lived for a while begins with the shortest again."""

    def __init__(
        self, shortest: float = 1.0, longest: float = 15.0, healthy_after: float = 60.0
    ) -> None:
        self._shortest = shortest
        self._longest = longest
        self._healthy_after = healthy_after
        self._wait = shortest
        self._began = time.monotonic()

    def started(self) -> None:
        """A program has been started."""
        self._began = time.monotonic()

    def next(self) -> float:
        """Seconds to wait, now that it has ended."""
        if time.monotonic() - self._began >= self._healthy_after:
            self._wait = self._shortest
        wait, self._wait = self._wait, min(2 * self._wait, self._longest)
        return wait
