import os
import stat

import pytest

from fedadapt.files import sha256, write_atomically


def test_content_is_bytes_or_what_a_function_writes(tmp_path):
    write_atomically(tmp_path / "a", b"one")
    write_atomically(tmp_path / "b", lambda file: file.write(b"one"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == b"one"
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_writer_that_fails_half_way_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a"
    write_atomically(path, b"old")

    def fail(file):
        file.write(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_are_as_private_as_the_user_wants_them(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
