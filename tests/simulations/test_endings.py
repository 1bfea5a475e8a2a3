"""Whatever ends a run early: one line, a code of its own, advice that works, and nothing left."""

import errno
import importlib
import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner

from fedadapt.cli import main
from fedadapt.errors import DiskFullError, FedadaptError, InterruptedRunError, one_line
from fedadapt.files import write_atomically
from fedadapt.records import RoundLoss
from fedadapt.server.checkpoint import load_latest
from fedadapt.simulations.endings import early_endings, stopped_by_signals
from fedadapt.simulations.results.journal import Journal


def no_space() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    tiny.without_pictures(monkeypatch)


class Full:
    """A file on a full disk: what is written waits, and does not get there when it has to."""

    def __init__(self, file):
        self.file = file

    def flush(self):
        raise no_space()

    def close(self):
        self.file.close()
        raise no_space()

    def __getattr__(self, name):
        return getattr(self.file, name)


def full_from(monkeypatch, row: int) -> None:
    """The disk is full when so many rows have been appended to journals."""
    append, seen = Journal.append, []

    def counted(self, *given):
        append(self, *given)
        seen.append(given)
        if len(seen) == row:
            self._files = {kind: Full(file) for kind, file in self._files.items()}

    monkeypatch.setattr(Journal, "append", counted)


def test_a_disk_that_fills_up_in_the_middle_is_one_line_and_the_run_goes_on_when_there_is_room(
    tmp_path, monkeypatch
):
    wanted = tiny.run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        full_from(patch, 24)
        with pytest.raises(DiskFullError) as caught:
            tiny.run(tmp_path / "cut")
    assert caught.value.exit_code == 7
    line = str(caught.value)
    assert line.startswith(f"{tmp_path}/cut/")
    assert ".jsonl: no room on the disk for it; " in line
    assert "are free there: make room" in line
    assert line.endswith(f"then go on with: fedadapt simulate --resume {tmp_path}/cut")
    assert load_latest(tmp_path / "cut").round < 3
    found = tiny.run(tmp_path / "cut", resume=True)
    assert tiny.timeless(found) == tiny.timeless(wanted)


@pytest.mark.parametrize("name", ["config.toml", "manifest.json", "LATEST"])
def test_no_advice_to_go_on_where_nothing_was_saved(tmp_path, monkeypatch, name):
    def full(path, content, **settings):
        if path.name == name:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        write_atomically(path, content, **settings)

    monkeypatch.setattr("fedadapt.simulations.run.write_atomically", full)
    monkeypatch.setattr("fedadapt.server.checkpoint.write_atomically", full)
    with pytest.raises(DiskFullError) as caught:
        tiny.run(tmp_path)
    last = str(caught.value).rpartition("; then ")[2]
    if name == "LATEST":  # the checkpoint itself is there
        assert last.startswith("go on with")
    else:
        assert last == "nothing was saved yet: start it anew"


@pytest.mark.slow
def test_tables_and_models_that_have_no_room_end_with_the_same_code(tmp_path):
    """In a process of its own, whose files may not grow beyond 20 KB."""
    script = "import resource, sys\n"
    script += "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    script += "from fedadapt.cli import main\n"
    script += "main(sys.argv[1:])"
    options = tiny.options(out=tmp_path, workers=1, rounds=1)
    process = tiny.python("-c", script, "simulate", *options)
    _, trouble = process.communicate(timeout=100)
    assert process.returncode == 7, trouble
    last = trouble.splitlines()[-1]
    assert last.startswith(f"fedadapt: {tmp_path}/checkpoint/round-00000000: no room on the disk")
    assert "KiB" in last
    assert last.endswith("then nothing was saved yet: start it anew")
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_file_without_room_is_said_with_its_size_and_the_old_one_stays(tmp_path):
    path = tmp_path / "summary.json"
    write_atomically(path, b"old")

    def fill(file):
        raise no_space()

    with pytest.raises(DiskFullError, match=r"summary\.json: no room on the disk for it; .* free"):
        write_atomically(path, fill)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(DiskFullError, match=r"for it, which takes 3\.9 KiB; "):
            write_atomically(path, bytes(4000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_a_journal_that_cannot_be_closed_says_so_unless_something_else_was_first(tmp_path):
    def used(error):
        with Journal(tmp_path) as journal:
            journal._files[RoundLoss] = Full(journal._files[RoundLoss])
            if error is not None:
                raise error

    with pytest.raises(DiskFullError, match=r"losses\.jsonl"):
        used(None)
    with pytest.raises(KeyError):
        used(KeyError())


# --- stopped


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_order_to_end_is_taken_for_ctrl_c_and_handlers_are_put_back(number):
    def waiting():
        with stopped_by_signals():
            os.kill(os.getpid(), number)
            time.sleep(5)

    before = signal.signal(number, signal.SIG_DFL)  # under nohup it is ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            waiting()
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_stays_ignored():
    """As nohup has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def processes_of(folder: Path) -> list[str]:
    """Processes that have a folder in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in entry.read_bytes():
                found.append(entry.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_told_to_end_ends_with_5_and_goes_on(tmp_path, number):
    options = tiny.options(out=tmp_path, rounds=500, workers=2)
    before = signal.signal(number, signal.SIG_DFL)  # whatever this process has inherited
    process = tiny.python("-m", "fedadapt", "simulate", *options)
    signal.signal(number, before)
    while not (tmp_path / "checkpoint" / "LATEST").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    _, trouble = process.communicate(timeout=60)
    assert process.returncode == 5
    assert trouble.splitlines()[-1] == (
        f"fedadapt: interrupted; go on with: fedadapt simulate --resume {tmp_path}"
    )
    assert processes_of(tmp_path) == []
    assert not (tmp_path / ".lock").exists()


def test_what_is_interrupted_before_anything_was_saved_cannot_go_on(tmp_path, monkeypatch):
    def interrupted(config):
        raise KeyboardInterrupt

    monkeypatch.setattr("fedadapt.simulations.run.assemble", interrupted)
    with pytest.raises(InterruptedRunError, match="interrupted; nothing was saved yet: start it"):
        tiny.run(tmp_path / "api")
    options = tiny.options(out=tmp_path / "cli")
    result = CliRunner().invoke(main, ["simulate", *options])
    assert result.exit_code == 5
    assert not (tmp_path / "cli").exists()


def test_a_folder_in_the_advice_is_quoted_for_the_shell(tmp_path):
    folder = tmp_path / "my run"
    (folder / "checkpoint" / "round-00000000").mkdir(parents=True)
    with pytest.raises(InterruptedRunError) as caught, early_endings(folder):
        raise KeyboardInterrupt
    assert str(caught.value).endswith(f"--resume '{folder}'")


# --- code of others


@pytest.mark.parametrize("code", [0, None, 3, "done"])
def test_a_strategy_that_leaves_the_process_is_no_success(tmp_path, monkeypatch, code):
    import third_party

    monkeypatch.setattr(third_party.Leaving, "code", code)
    options = tiny.options(out=tmp_path, strategy="third_party:Leaving")
    result = CliRunner().invoke(main, ["simulate", *options])
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("fedadapt: ")
    assert f"third_party.py:{third_party.Leaving.line}: called sys.exit({code!r})" in last


def test_who_called_sys_exit_is_told_where_a_library_has_put_another_one_in_its_place(
    tmp_path, monkeypatch
):
    """Weights & Biases does, and calls the one before, which may be its own too."""
    (tmp_path / "hooking.py").write_text(
        "import sys\n"
        "def hook():\n"
        "    before = sys.exit\n"
        "    def exit(code=None):\n"
        "        before(code)\n"
        "    return exit\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    hooking = importlib.import_module("hooking")
    for _ in range(2):
        monkeypatch.setattr(sys, "exit", hooking.hook())
    test_a_strategy_that_leaves_the_process_is_no_success(tmp_path / "run", monkeypatch, 3)


def test_a_module_that_leaves_while_it_is_imported_is_no_success(tmp_path, monkeypatch):
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    result = CliRunner().invoke(main, ["simulate", "--strategy", "leaves:Strategy"])
    assert result.exit_code == 1
    assert "leaves.py:2: called sys.exit(0)" in result.stderr
    sys.modules.pop("leaves", None)


def test_leaving_is_an_error_of_the_library_too(tmp_path):
    with pytest.raises(FedadaptError, match=r"called sys\.exit\(0\)"), early_endings(tmp_path):
        sys.exit(0)


# --- words of others


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("a\nb\r\n\tc", "a b c"),
        ("\x1b[31mred\x07\x00", "?[31mred??"),
        ("bidi \u202e and \u200b and \udce9", "bidi ? and ? and ?"),
        ("x" * 400, "x" * 297 + "..."),
        ("", ""),
        (None, ""),
        ("ä é ∞", "ä é ∞"),
    ],
)
def test_words_of_others_become_one_line(words, line):
    assert one_line(words) == line
    assert one_line(line) == line


def test_settings_that_somebody_has_spoilt_are_damaged_and_no_traceback(tmp_path):
    """A date is TOML and no setting; a report of the run is written all the same."""
    from fedadapt.simulations.results.run_folder import RunFolder

    (tmp_path / "config.toml").write_text("out = 1979-05-27\n")
    run = RunFolder.read(tmp_path)
    assert "config.toml is damaged" in run.missing
    assert run.config == {}
