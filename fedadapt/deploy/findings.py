"""What a check has found: a line for people, and what to do about it."""

from typing import NamedTuple


class Finding(NamedTuple):
    """One thing that was looked at."""

    topic: str  # "name", "port", "certificate", "clock", "key", ...
    is_good: bool
    text: str
    remedy: str = ""
    may_pass: bool = False  # by waiting: a server that is not up yet, a network that is not there

    @property
    def line(self) -> str:
        return f"{self.topic}: {self.text}" + (f"; {self.remedy}" if self.remedy else "")
