"""What the documentation says can be done, can be done."""

import importlib.util
import re
import shlex
from dataclasses import fields
from pathlib import Path

import click
import pytest

from fedadapt.cli import main
from fedadapt.config import RunConfig

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
TEXTS = {str(page.relative_to(ROOT)): page.read_text("utf-8") for page in PAGES}


def blocks(language: str) -> list[tuple[str, str]]:
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(name, code) for name, text in TEXTS.items() for code in pattern.findall(text)]


def commands() -> list[tuple[str, str]]:
    """Every line of a shell block that calls fedadapt."""
    lines = [(name, line) for name, code in blocks("bash") for line in code.splitlines()]
    return [(n, line) for n, line in lines if line.startswith("fedadapt ")]


def test_the_two_commands_are_there():
    lines = [
        line for name, code in blocks("bash") if name == "README.md" for line in code.split("\n")
    ]
    start = "python3 -m venv .venv && .venv/bin/pip install -e "
    assert f'{start}".[simulation]" && .venv/bin/fedadapt demo' in lines
    assert f'{start}".[test]" && .venv/bin/python -m pytest' in lines


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_shown_is_understood(page, line):
    words = shlex.split(line, comments=True)[1:]
    command = main.commands[words[0]]
    parent = click.Context(main, info_name="fedadapt", **main.context_settings)
    if isinstance(command, click.Group):
        parent = click.Context(command, parent=parent, info_name=words.pop(0))
        command = command.commands[words[0]]
    with command.make_context(words[0], words[1:], parent=parent) as context:
        given = {k: v for k, v in context.params.items() if v is not None}
    if words[0] not in ("simulate", "compare"):
        return  # its options are not those of a run
    known = {f.name for f in fields(RunConfig)}
    settings = {k: v for k, v in given.items() if k in known and isinstance(v, str | int | float)}
    RunConfig(**settings)


@pytest.mark.parametrize("page", TEXTS)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", TEXTS[page]):
        if not target.startswith("http"):
            assert (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_shown_is_python(page, code):
    compile(code, page, "exec")


def test_the_strategy_of_the_readme_runs(tmp_path, monkeypatch):
    """Halfway of share 0 never moves; of share 1 it is FedAvg."""
    import tiny
    import torch

    [code] = [code for name, code in blocks("python") if "class Halfway" in code]
    (tmp_path / "readme_strategy.py").write_text(code, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    tiny.without_pictures(monkeypatch)

    def base(name: str, **changes: str) -> dict[str, torch.Tensor]:
        tiny.run(tmp_path / name, rounds=1, adapt="none", **changes)
        return tiny.base(tmp_path / name)

    plugged = {"strategy": "readme_strategy:Halfway"}
    still = base("still", **plugged, strategy_args="share=0.0")
    whole = base("whole", **plugged, strategy_args="share=1.0")
    half = base("half", **plugged)
    for name in still:
        torch.testing.assert_close(half[name], (still[name] + whole[name]) / 2)
    for name, tensor in base("ours", strategy="fedavg").items():
        torch.testing.assert_close(whole[name], tensor)


@pytest.mark.parametrize(
    ("script", "page"),
    [
        ("configuration_table", "configuration.md"),
        ("flower_tables", "flower.md"),
        ("strategies_table", "strategies.md"),
        ("adaptations_table", "adaptations.md"),
    ],
)
def test_the_tables_made_from_the_code_are_up_to_date(script, page):
    spec = importlib.util.spec_from_file_location(script, ROOT / "docs" / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.updated(TEXTS[f"docs/{page}"]) == TEXTS[f"docs/{page}"]


def test_the_adaptation_shown_is_the_example():
    assert (ROOT / "examples/pseudo_labels.py").read_text("utf-8") in TEXTS["docs/adaptations.md"]
