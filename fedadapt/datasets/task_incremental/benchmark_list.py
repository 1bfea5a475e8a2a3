"""What ``fedadapt benchmarks`` prints: a line for each, or all of one. No torch, no numpy."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedadapt.datasets.listing import BenchmarkRow, benchmark_rows
from fedadapt.datasets.task_incremental.task_listing import TaskRow, task_rows
from fedadapt.errors import unknown
from fedadapt.name_list import NameList

WORDS = {True: "yes", False: "no"}


def listing(name: str | None = None, data_root: str = "") -> RenderableType:
    """Return the lists of all benchmarks, those that are learnt task by task last, or one.

    Raises:
        InputError: There is no benchmark of that name.

    """
    return _one(name, data_root) if name else _all(data_root)


def _all(data_root: str) -> Group:
    rows = [(r.name, WORDS[r.found], r.classes, r.description) for r in benchmark_rows(data_root)]
    tasks = [(t.name, WORDS[t.found], str(t.tasks), t.description) for t in task_rows(data_root)]
    hint = "fedadapt benchmarks NAME: its images, who gets which, where its files must be"
    return Group(
        NameList(("name", "here", "classes", "what it is"), rows),
        Text(),
        NameList(("name", "here", "tasks", "what it is"), tasks, hint, "learnt task after task"),
    )


def _one(name: str, data_root: str) -> Group:
    every: list[BenchmarkRow | TaskRow] = [*benchmark_rows(data_root), *task_rows(data_root)]
    found = [row for row in every if row.name == name]
    if not found:
        raise unknown("benchmark", name, tuple(row.name for row in every))
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for field, value in found[0]._asdict().items():
        if field not in ("name", "description") and value != "":
            shown = WORDS[value] if isinstance(value, bool) else str(value)
            table.add_row({"found": "here"}.get(field, field), shown)
    return Group(Text(name, style="bold"), f"{found[0].description}.\n", table)
