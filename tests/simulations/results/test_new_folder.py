"""Where a new run goes, and where it must not."""

import os
import signal

import pytest
import tiny

from fedadapt.errors import InputError
from fedadapt.files import user_path
from fedadapt.simulations.results.new_folder import new_folder, opened
from fedadapt.simulations.results.run_lock import LOCK


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_without_a_name_each_run_gets_the_next_number():
    names = [new_folder(tiny.config()).as_posix() for _ in range(3)]
    assert names == [f"runs/digits-classes-fedavg-{n}" for n in (1, 2, 3)]


def test_a_name_is_one_folder_whatever_is_in_it():
    folder = new_folder(tiny.config(benchmark="folder:/data/my pictures", strategy="a.b:C"))
    assert folder.as_posix() == "runs/folder-data-my-pictures-a.b-C-1"
    assert folder.is_dir()


def test_a_folder_is_made_with_those_above_it(tmp_path):
    folder = new_folder(tiny.config(out=str(tmp_path / "a/b/c")))
    assert folder.is_dir()


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert new_folder(tiny.config(out="~/mine")) == tmp_path / "mine"


def test_a_folder_with_other_things_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for out in (str(tmp_path), "/"):
        with pytest.raises(InputError, match=r"holds other things .*; name a new folder"):
            new_folder(tiny.config(out=out))
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_counts_as_empty_and_what_a_run_left_at_its_very_beginning_is_taken(tmp_path):
    for name in ("lost+found", ".gitkeep", "losses.jsonl", ".config.toml.0123456789ab.tmp"):
        (tmp_path / name).touch()
    assert new_folder(tiny.config(out=str(tmp_path))) == tmp_path
    (tmp_path / "config.toml").write_text('benchmark = "a"\nstrategy = "b"\nrounds = 3\n')
    (tmp_path / "manifest.json").touch()
    assert new_folder(tiny.config(out=str(tmp_path))) == tmp_path
    (tmp_path / "config.toml").write_text('title = "of something else"\n')
    with pytest.raises(InputError, match="holds other things"):
        new_folder(tiny.config(out=str(tmp_path)))


def test_a_name_made_of_a_long_one_is_cut(tmp_path):
    folder = new_folder(tiny.config(benchmark=f"folder:/{'x' * 300}"))
    assert len(folder.name) < 120
    assert folder.is_dir()


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("~nosuch/x", "there is no such user"),
        ("x" * 300, "is too long"),
        ("a/" * 2100, "is too long"),
        ("a\0b", "zero byte"),
        ("caf\udce9", "is not UTF-8"),
    ],
)
def test_what_cannot_be_a_path_is_one_line_without_control_characters(out, reason):
    with pytest.raises(InputError, match=reason) as caught:
        user_path(out, "out")
    assert str(caught.value).startswith("out: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_a_run_is_not_written_over(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(InputError, match=r"holds a run already; .* --resume"):
        new_folder(tiny.config(out=str(tmp_path)))


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for out in ("file", "file/below"):
        with pytest.raises(InputError, match=f"out: {out}: "):
            new_folder(tiny.config(out=out))


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(InputError, match="cannot be written to"):
        new_folder(tiny.config(out=str(tmp_path)))


def test_only_one_run_at_a_time_opens_a_folder(tmp_path):
    """In one process and from another one; and again when the first has ended."""
    with opened(tmp_path, resume=False):
        for resume in (False, True):
            with pytest.raises(InputError, match=rf"going on in .* \(process {os.getpid()}\)"):
                opened(tmp_path, resume=resume).__enter__()
        assert "InputError: out: a run is going on" in _opened_elsewhere(tmp_path)
        assert "InputError: out: a run is going on" in _opened_elsewhere(tmp_path)
    assert not list(tmp_path.iterdir())
    assert _opened_elsewhere(tmp_path) == ""
    with opened(tmp_path, resume=True):
        pass


def _opened_elsewhere(folder):
    words = "from fedadapt.simulations.results.new_folder import opened; import pathlib, sys\n"
    words += "with opened(pathlib.Path(sys.argv[1]), resume=True): pass"
    process = tiny.python("-c", words, folder)
    return process.communicate()[1].strip()[-500:]


def test_a_lock_ends_with_its_process_and_is_not_that_of_the_processes_it_forked(tmp_path):
    words = "import os, pathlib, sys, time\n"
    words += "from fedadapt.simulations.results.run_lock import only_writer\n"
    words += "with only_writer(pathlib.Path(sys.argv[1])):\n"
    words += "    child = os.fork()\n"
    words += "    if child: print(child, flush=True)\n"
    words += "    time.sleep(60)"
    process = tiny.python("-c", words, tmp_path)
    child = int(process.stdout.readline())
    with pytest.raises(InputError, match=rf"\(process {process.pid}\)"):
        opened(tmp_path, resume=True).__enter__()
    process.kill()
    process.wait()
    try:
        with opened(tmp_path, resume=True):
            assert (tmp_path / LOCK).read_text() == f"process {os.getpid()}"
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()


def test_a_run_that_was_quicker_is_not_written_over(tmp_path):
    folder = new_folder(tiny.config(out=str(tmp_path)))
    (tmp_path / "checkpoint").mkdir()  # by another run, which has ended meanwhile
    with pytest.raises(InputError, match="holds a run already"):
        opened(folder, resume=False).__enter__()
    with opened(folder, resume=True):
        pass


def test_what_a_kill_left_unfinished_goes_at_the_next_start(tmp_path):
    names = (
        ".summary.json.0123456789ab.tmp",
        "models/base/.7.safetensors.0123456789ab.tmp",
        "checkpoint/round-00000007.tmp/kept.tmp",
    )
    others = ("models/mine.tmp", ".hidden", "clients/.state.0123456789ab.tmp")
    for name in names + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with opened(tmp_path, resume=True):
        assert [name for name in names if (tmp_path / name).exists()] == []
        assert [name for name in others if (tmp_path / name).exists()] == list(others)
