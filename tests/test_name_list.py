"""Lists for the terminal: a line each, no number cut, prose that ends at a word."""

import pytest
from rich.console import Console

from fedadapt.client.adaptations.listing import listing as adaptations
from fedadapt.datasets.listing import benchmark_rows
from fedadapt.datasets.task_incremental.benchmark_list import listing as benchmarks
from fedadapt.errors import InputError
from fedadapt.models.listing import listing as models
from fedadapt.models.registry import ENTRIES
from fedadapt.name_list import NameList, shortened
from fedadapt.strategies.listing import listing as strategies


def printed(list_, width: int) -> list[str]:
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as captured:
        console.print(list_)
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("listing", [strategies, adaptations, models])
def test_each_name_has_one_line_that_fits(listing, width):
    names = listing().names
    lines = printed(listing(), width)
    assert all(len(line.rstrip()) <= width for line in lines)
    assert [line.split()[0] for line in lines[1 : 1 + len(names)]] == names


def test_numbers_of_parameters_are_whole_and_end_below_each_other():
    lines = {line.split()[0]: line for line in printed(models(), 80)[1:] if line}
    ends = set()
    for entry in ENTRIES:
        number = f"{entry.num_parameters:,}"
        assert number in lines[entry.name]
        ends.add(lines[entry.name].index(number) + len(number))
    assert len(ends) == 1


def test_prose_is_its_first_sentence_cut_at_a_word():
    assert shortened("One model. Published somewhere.", 80) == "One model"
    assert shortened("One model for all of them", 16) == "One model ..."
    assert shortened("One model", 9) == "One model"
    assert shortened("PFA, sec. 5, ... plain. Or not.", 80) == "PFA, sec. 5, ... plain"


def test_what_comes_before_the_prose_is_shown_whole_on_the_narrowest_terminal():
    lines = printed(
        NameList(("name", "size", "what"), [("a-long-name", "1,000", "words " * 9)]), 40
    )
    assert "a-long-name" in lines[1]
    assert "1,000" in lines[1]


@pytest.mark.parametrize("width", [80, 120])
def test_each_benchmark_has_one_line_and_all_of_one_is_shown_by_its_name(width):
    lines = printed(benchmarks(), width)
    assert all(len(line.rstrip()) <= width for line in lines)
    starts = [line.split()[0] for line in lines if line.strip()]
    assert {row.name for row in benchmark_rows()} <= set(starts)
    text = " ".join(" ".join(printed(benchmarks("pfa-pacs"), width)).split())
    [row] = [row for row in benchmark_rows() if row.name == "pfa-pacs"]
    assert f"{row.description}." in text
    assert row.images in text
    with pytest.raises(InputError, match="did you mean 'pfa-pacs'"):
        benchmarks("pfa-pac")
