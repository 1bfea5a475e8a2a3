"""``--help`` of a run's commands: every setting in its group, words whole, examples that parse."""

import shlex

import click
import pytest
from click.testing import CliRunner

from fedadapt.cli import main
from fedadapt.command_help import group_by_name
from fedadapt.config import GROUPS, RunConfig


def help_of(command: str, width: int = 80) -> str:
    result = CliRunner().invoke(main, [command, "--help"], terminal_width=width)
    assert result.exit_code == 0
    return result.output


def test_every_setting_has_a_group_that_begins_with_the_key_the_table_names():
    assert set(GROUPS) <= set(RunConfig.keys())
    assert set(group_by_name().values()) == set(GROUPS.values())
    assert group_by_name()["lr"] == "Training"
    assert group_by_name()["out"] == "Engine and files"
    assert group_by_name()["max_update_norm"] == "Faults"


@pytest.mark.parametrize("command", ["simulate", "compare"])
@pytest.mark.parametrize("width", [80, 120])
def test_help_shows_each_option_once_under_its_group_and_fits(command, width):
    text = help_of(command, width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    heads = [line.removesuffix(":") for line in lines if line.endswith(":") and line[0] != " "]
    assert heads == ["Options", *GROUPS.values(), "Examples"]
    options = [o for o in main.commands[command].params if isinstance(o, click.Option)]
    for option in options:
        assert sum(line.split()[:1] == [option.opts[0]] for line in lines) >= 1
    training = text.split("\nTraining:\n")[1].split("\nAdaptation")[0]
    assert "--lr FLOAT" in training
    assert "--out" not in training


def test_words_with_hyphens_are_not_cut():
    assert "[none,fine-tune]" in help_of("simulate")
    assert "e.g. long-tail:0.1" in " ".join(help_of("simulate").split())


@pytest.mark.parametrize("command", ["simulate", "compare"])
def test_the_examples_are_commands_that_are_understood(command):
    examples = help_of(command).split("Examples:\n")[1].strip().splitlines()
    assert examples
    for line in examples:
        program, name, *words = shlex.split(line)
        assert (program, name) == ("fedadapt", command)
        with click.Context(main.commands[command]) as context:
            main.commands[command].parse_args(context, words)


def test_the_version_has_a_short_option():
    assert "version" in CliRunner().invoke(main, ["-V"]).output
