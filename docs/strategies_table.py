"""The tables of strategies.md: ``python docs/strategies_table.py`` writes them anew.

``tests/test_docs.py`` fails where the tables and the classes of ``fedadapt.strategies`` differ.
"""

import inspect
from pathlib import Path

from fedadapt.parameters import rows
from fedadapt.strategies.facts import TITLES, facts
from fedadapt.strategies.listing import arguments, summary
from fedadapt.strategies.registry import STRATEGIES, find, is_flowers
from fedadapt.strategies.selected import settings_of

PAGE = Path(__file__).parent / "strategies.md"
BEGIN, END = "<!-- strategies: begin -->", "<!-- strategies: end -->"


def tables() -> str:
    """All strategies, then what each of ours says of itself, and its parameters."""
    names = [(name, find(name)) for name in STRATEGIES.ours]
    lines = ["| name | what it does |", "| --- | --- |"]
    lines += [f"| `{name}` | {_says(cls)} |" for name, cls in names if not is_flowers(cls)]
    lines += [
        "",
        "What stays on a client and what travels. Tensors are those of the network, or begin",
    ]
    lines += [
        "with the word in `code`; what is everybody's is sent to all, also where nobody trains it:"
    ]
    lines += ["", f"| strategy | {' | '.join(TITLES)} |", "| --- " * (1 + len(TITLES)) + "|"]
    lines += [
        f"| `{name}` | {' | '.join(word or '-' for word in facts(cls))} |"
        for name, cls in names
        if not is_flowers(cls)
    ]
    lines += ["", "Flower's own, with the arguments of their constructors:", ""]
    lines += ["| name | what it does | arguments |", "| --- | --- | --- |"]
    lines += [
        f"| `{name}` | {_says(cls)} | {', '.join(f'`{a}`' for a in arguments(cls)) or 'none'} |"
        for name, cls in names
        if is_flowers(cls)
    ]
    lines += ["", "What ours do, what they take, and where they differ from their papers:"]
    for name, cls in names:
        if not is_flowers(cls):
            lines += ["", f"### `{name}`", "", *_described(name, cls)]
    return "\n".join(lines)


def _described(name: str, cls: type) -> list[str]:
    """The text of a class's docstring, its arguments and the settings that it uses."""
    text = (inspect.getdoc(cls) or "").replace("``", "`")
    lines = [text.replace("||", "\\|\\|"), ""]
    if arguments(cls):
        lines += ["| argument | default | allowed | what it is |", "| --- | --- | --- | --- |"]
        lines += [
            f"| `{key}` | {default or '-'} | {allowed} | {_escaped(help)} |"
            for key, default, allowed, help in rows(cls)
        ]
        lines.append("")
    settings = ", ".join(f"`{s}`" for s in sorted(settings_of(cls))) or "none"
    return [*lines, f"Settings of the run that it uses: {settings}."]


def _says(cls: type) -> str:
    return _escaped(summary(cls))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def updated(page: str) -> str:
    """The page with the tables between the two marks made anew."""
    before, found, rest = page.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"{PAGE}: {BEGIN} or {END} is missing")
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text("utf-8")), "utf-8")
