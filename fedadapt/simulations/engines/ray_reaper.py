"""Ends Ray's processes after a run that was killed: Ray leaves some of them behind.

Runs on its own, with nothing of fedadapt. Standard input has a line for each process: its number,
and when it began, so that another process that got the number later is left alone. The end of
standard input is the end of the run.
"""

import os
import signal
import sys
import time
from pathlib import Path


def began(pid: str) -> str:
    """When a process began, in the system's own units; empty if it has ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        return status.rpartition(")")[2].split()[19]  # behind the name, which may have blanks
    except OSError:
        return ""


def main() -> None:
    processes = [line.split() for line in sys.stdin]
    time.sleep(0.5)  # most end by themselves
    for pid, when in processes:
        if when == began(pid):
            try:
                os.kill(int(pid), signal.SIGKILL)
            except OSError:
                continue


if __name__ == "__main__":
    main()
