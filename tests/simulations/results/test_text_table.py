"""Tables of text: at any width every word is whole, and every cell is there."""

import io
import re
from collections import Counter

import pytest
from rich.console import Console

from fedadapt.simulations.results.text_table import Part, TextTable, divided

CLIENTS = range(9)
HEADS = ("what the paper shows", "where", "accuracy published", *(f"client {d}" for d in CLIENTS))
LINES = [
    ("AdaBN-S > BN for every method", "valid", "84.01", *(f"{d}0.25 ± 0.{d}" for d in CLIENTS)),
    ("AdaBN-S > BN for every method", "test", "-", *(f"{d}1.50 ± 1.{d}" for d in CLIENTS)),
    ("joint", "the best round by validation", "100.00", *(f"{d}2.75 ± 2.{d}" for d in CLIENTS)),
]  # fmt: skip


def printed(width: int, **changes) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as captured:
        console.print(TextTable("Accuracy", HEADS, LINES, ("Mean over clients.",), **changes))
    return captured.get().splitlines()


def words(text: str) -> list[str]:
    return re.findall(r"[^\s─━]+", text)


@pytest.mark.parametrize("width", [40, 56, 80, 100, 120, 160, 200, 400])
def test_no_word_is_split_and_no_cell_is_lost(width):
    lines = printed(width)
    assert all(len(line.rstrip()) <= width for line in lines)
    found = Counter(words(" ".join(lines)))
    wanted = Counter(
        word for line in LINES for word in words(" ".join(line[2:]).replace("± ", "±"))
    )
    wanted += Counter(words("joint the best round by validation Mean over clients."))
    assert not wanted - found
    titles = Counter(word for head in HEADS for word in words(head))
    assert not set(titles) - set(found)


def test_names_stand_in_each_part_and_the_same_name_once():
    narrow, wide = printed(80), printed(400)
    assert "\n".join(wide).count("AdaBN-S > BN for every method") == 1
    assert "\n".join(narrow).count("joint") == 2  # two tables
    assert "\n".join(wide).count("joint") == 1


def test_where_there_is_room_nothing_wraps():
    lines = printed(400)
    [joint] = [line for line in lines if line.startswith("joint")]
    assert joint.split("  ")[0] == "joint"
    assert "the best round by validation" in joint
    assert "22.75 ±2.2" in joint


def test_columns_are_divided_where_the_next_one_does_not_fit():
    parts = [Part("", ("12345",)), Part("", ("123",)), Part("", ("1",))]
    sizes = lambda width: [len(p) for p in divided(parts, 10, width)]  # noqa: E731
    assert sizes(10 + 6 + 4 + 2) == [3]
    assert sizes(10 + 6 + 4 + 1) == [2, 1]
    assert sizes(10 + 6 + 3) == [1, 2]
    assert sizes(10) == [1, 1, 1]  # it does not fit, and there is nowhere else


def test_a_column_needs_its_longest_word_and_is_whole_with_its_longest_text():
    part = Part("mean accuracy", ("71.50 ±0.40", "8.25"))
    assert (part.width, part.whole) == (8, 11)
