"""The list of rooms in docs/architecture.md is that of the package, and no room is overfull."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
TABLE = PAGE.partition("<!-- rooms: begin -->")[2].partition("<!-- rooms: end -->")[0]
ROWS = re.findall(r"^\| `(fedadapt/[\w/]*)` \| (.+) \|$", TABLE, re.MULTILINE)
LISTED = dict(ROWS)
ROOMS = sorted({f"{p.parent.relative_to(ROOT)}/" for p in (ROOT / "fedadapt").rglob("*.py")})
MOST_FILES = 22


def test_every_room_is_listed_and_every_room_listed_is_there():
    assert sorted(room for room, _ in ROWS) == ROOMS


@pytest.mark.parametrize("room", ROOMS)
def test_what_a_room_is_for_fits_a_line(room):
    assert 10 < len(LISTED[room]) <= 110


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_has_more_than_some_twenty_files(room):
    files = [p.name for p in (ROOT / room).glob("*.py") if p.name != "__init__.py"]
    assert len(files) <= MOST_FILES, files
