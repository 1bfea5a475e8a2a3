"""Where a new run goes, and where it must not."""

import os

import pytest
import tiny

from fedadapt.errors import InputError
from fedadapt.simulations.results.new_folder import new_folder


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


def test_a_folder_with_other_things_in_it_is_no_run(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert new_folder(tiny.config(out=str(tmp_path))) == tmp_path
    assert (tmp_path / "notes.txt").read_text() == "mine"


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
