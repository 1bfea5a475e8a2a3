"""Programs are started, logged, and ended with all that they have started."""

import os
import signal
import subprocess
import sys
import time

import pytest

import fedadapt.deploy.processes as processes
from fedadapt.deploy.backoff import Backoff
from fedadapt.deploy.folder import only_one
from fedadapt.deploy.processes import Running, environment, program
from fedadapt.errors import InputError


def python(tmp_path, code, on_line=None):
    log = tmp_path / "out.log"
    return Running([sys.executable, "-u", "-c", code], log, dict(os.environ), on_line)


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] == "Z"
    except FileNotFoundError:
        return True


def test_output_is_logged_privately_and_heard_line_by_line(tmp_path):
    lines = []
    running = python(tmp_path, "print('one'); print('two'); raise SystemExit(3)", lines.append)
    wait_for(lambda: running.exit_code is not None)
    assert running.exit_code == 3
    assert lines == ["one", "two"]
    assert (tmp_path / "out.log").read_text() == "one\ntwo\n"
    assert (tmp_path / "out.log").stat().st_mode & 0o077 == 0


def test_a_log_does_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "LARGEST_LOG", 100)
    running = python(tmp_path, "for i in range(100): print(f'{i:09d}')")
    wait_for(lambda: running.exit_code is not None)
    assert (tmp_path / "out.log").stat().st_size <= 110
    assert (tmp_path / "out.log.1").stat().st_size <= 110
    assert (tmp_path / "out.log").read_text().endswith("000000099\n") or (
        (tmp_path / "out.log.1").read_text().endswith("000000099\n")
    )


GRANDCHILD = (
    "import subprocess, sys, time\n"
    "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(p.pid)\n"
    "time.sleep(600)"
)


def test_ending_a_program_ends_what_it_has_started(tmp_path):
    lines = []
    running = python(tmp_path, GRANDCHILD, lines.append)
    wait_for(lambda: lines)
    running.end()
    assert is_gone(running.pid)
    wait_for(lambda: is_gone(int(lines[0])))


def test_a_program_that_does_not_listen_is_ended_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "END_WITHIN", 0.2)
    lines = []
    code = "import signal,time; signal.signal(15, signal.SIG_IGN); print('up'); time.sleep(600)"
    running = python(tmp_path, code, lines.append)
    wait_for(lambda: lines)
    running.end()
    assert is_gone(running.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="uses prctl")
def test_a_program_ends_when_whoever_started_it_is_killed(tmp_path):
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from fedadapt.deploy.processes import Running\n"
        "r = Running([sys.executable, '-c', 'import time; time.sleep(600)'],\n"
        f"            Path({str(tmp_path / 'x.log')!r}), dict(os.environ))\n"
        "print(r.pid, flush=True)\n"
        "time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: is_gone(child))


def test_flowers_programs_get_a_home_of_their_own_and_install_nothing(tmp_path):
    env = environment(tmp_path)
    assert env["FLWR_HOME"] == str(tmp_path)
    assert env["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert env["FLWR_TELEMETRY_ENABLED"] == "0"
    assert program("flower-supernode").endswith("flower-supernode")
    with pytest.raises(InputError, match="no-such-program is not installed"):
        program("no-such-program")


def test_waits_grow_up_to_a_limit_and_begin_anew_after_a_healthy_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    backoff = Backoff(1.0, 15.0, healthy_after=60.0)
    waits = []
    for _ in range(6):
        backoff.started()
        now[0] += 5.0
        waits.append(backoff.next())
    assert waits == [1, 2, 4, 8, 15, 15]
    backoff.started()
    now[0] += 61.0
    assert backoff.next() == 1.0


def test_a_supervisor_outlasts_the_minute_for_which_flower_refuses_a_client():
    from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, HEARTBEAT_PATIENCE

    from fedadapt.deploy.device.client import LONGEST_WAIT

    assert LONGEST_WAIT < HEARTBEAT_DEFAULT_INTERVAL * HEARTBEAT_PATIENCE


def test_a_lock_is_held_by_one_and_is_free_after_a_kill(tmp_path):
    lock = tmp_path / "lock"
    code = (
        "import time; from pathlib import Path; from fedadapt.deploy.folder import only_one\n"
        f"with only_one(Path({str(lock)!r}), 'x'):\n"
        "    print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=rf"busy \(process {holder.pid}\)"), only_one(lock, "busy"):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with only_one(lock, "busy"):
        pass
