"""Clients by number: the lines of a file, or the order of fingerprints."""

import pytest

from fedadapt.errors import InputError
from fedadapt.flower.roster import Roster


def test_lines_are_numbers_and_names(tmp_path):
    (tmp_path / "r").write_text(f"# our five\n{'b' * 64} kitchen\n\n{'a' * 64}  # no name\n")
    roster = Roster.read(tmp_path / "r")
    assert roster == Roster(("b" * 64, "a" * 64), ("kitchen", "aaaaaaaa"))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "names no client"),
        ("abc x", "line 1: must be 64 hexadecimal digits"),
        ("a" * 64 + " two words", "line 1: must be"),
        ("a" * 64 + " " + "x" * 41, "line 1: must be"),
        ("a" * 64 + " \x1b[2J", "line 1: must be"),
        ("a" * 64 + " x\n" + "a" * 64 + " y", "line 2: is there twice"),
        ("a" * 64 + " x\n" + "b" * 64 + " x", "line 2: is there twice"),
    ],
)
def test_a_bad_roster_is_refused_by_its_line(tmp_path, text, line):
    (tmp_path / "r").write_text(text)
    with pytest.raises(InputError) as refused:
        Roster.read(tmp_path / "r")
    assert line in str(refused.value)
    assert "\x1b" not in str(refused.value)


def test_without_a_file_fingerprints_are_numbered_in_their_order():
    fingerprints = {"c" * 64, "a" * 63 + "b", "a" * 64}
    roster = Roster.of(fingerprints, 0)
    assert roster.fingerprints == ("a" * 64, "a" * 63 + "b", "c" * 64)
    assert len({*roster.names}) == 3  # written out until they differ
    assert Roster.of(fingerprints, 2).fingerprints == roster.fingerprints[:2]
