"""Time that passes at once, and programs that live for a while of it."""


class Clock:
    """Time that passes only where somebody sleeps; after ``ends_at`` seconds comes Ctrl-C."""

    def __init__(self):
        self.now, self.ends_at = 1000.0, 1e9

    def sleep(self, seconds):
        self.now += seconds
        if self.now >= 1000.0 + self.ends_at:
            self.ends_at = 1e9
            raise KeyboardInterrupt

    @property
    def passed(self):
        return self.now - 1000.0


class Program:
    """Stands for a running program: it lives for so many seconds of the clock, None: for ever."""

    started = ()  # (name of its log, seconds on the clock) of all, in their order
    ended = ()  # names of the logs

    def __init__(self, clock, lives, command, log, env, on_line=None):
        self._ends_at = None if lives is None else clock.now + lives
        self._clock, self.command, self.on_line = clock, command, on_line
        self.name, self.pid, self.is_ended = log.stem, 4711, False
        Program.started += ((self.name, clock.passed),)

    @property
    def exit_code(self):
        over = self._ends_at is not None and self._clock.now >= self._ends_at
        return 7 if over or self.is_ended else None

    def end(self):
        self.is_ended = True
        Program.ended += (self.name,)
