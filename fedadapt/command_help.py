"""``--help`` of commands that take a run's settings: in groups, with examples at the end."""

import textwrap
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import click

from fedadapt.config import GROUPS, RunConfig

OPTION = 30  # columns for an option and its type; a longer one has a line to itself


class RunCommand(click.Command):
    """A command whose options are mostly a run's settings, which ``--help`` prints by group.

    Its ``epilog`` holds the examples, a command a line.
    """

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group of settings, and first one for the command's own."""
        records: dict[str, list[tuple[str, str]]] = {}
        own = "Options"
        grouped = group_by_name()
        for parameter in self.get_params(context):
            record = parameter.get_help_record(context)
            if record is not None:
                group = grouped.get(parameter.name or "", own)
                records.setdefault(group, []).append(record)
        for group in (own, *GROUPS.values()):
            if group in records:
                with formatter.section(group):
                    _write(formatter, records[group])

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they would be typed: their lines are not joined."""
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.strip().splitlines():
                    formatter.write(f"{'':>{formatter.current_indent}}{line.strip()}\n")


def _write(formatter: click.HelpFormatter, records: Iterable[tuple[str, str]]) -> None:
    """Write options as click does, but keep words with hyphens whole: they are to be typed."""
    indent = " " * formatter.current_indent
    column = indent + " " * OPTION
    for option, text in records:
        lines = textwrap.wrap(
            text,
            formatter.width,
            initial_indent=column,
            subsequent_indent=column,
            break_on_hyphens=False,
            break_long_words=False,
        )
        head = indent + option
        if len(option) < OPTION - 1 and lines:
            lines[0] = head.ljust(len(column)) + lines[0].lstrip()
        else:
            lines.insert(0, head)
        formatter.write("".join(f"{line}\n" for line in lines))


def group_by_name() -> dict[str, str]:
    """Return the group of each setting, by the name of its field."""
    groups: dict[str, str] = {}
    title = ""
    for setting in fields(RunConfig):
        title = GROUPS.get(setting.name.replace("_", "-"), title)
        groups[setting.name] = title
    return groups


def examples(*lines: str) -> dict[str, Any]:
    """Return what ``click.command`` takes for a command with groups and these examples."""
    return {"cls": RunCommand, "epilog": "\n".join(lines)}
