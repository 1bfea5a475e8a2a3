"""The command ``fedadapt new``: writes a folder with a class, its test and its entry point."""

import importlib.util
import keyword
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import NamedTuple

import click

from fedadapt.client.adaptations.registry import ADAPTATIONS
from fedadapt.errors import InputError
from fedadapt.registry import Registry
from fedadapt.strategies.registry import STRATEGIES

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class Kind(NamedTuple):
    """What a starting point is for."""

    word: str
    registry: Registry
    then: str  # a command that runs it, from its folder


KINDS = (
    Kind("strategy", STRATEGIES, "fedadapt simulate --strategy {path} --rounds 5"),
    Kind("adaptation", ADAPTATIONS, "fedadapt simulate --adapt none,{path} --rounds 5"),
)


@click.group()
def new() -> None:
    """Write a starting point for a method of your own: a file, a test, an entry point."""


def _command(kind: Kind) -> Callable[..., None]:
    @click.argument("name")
    @click.option(
        "--into", type=click.Path(path_type=Path), default=Path(), help="where the folder goes  [.]"
    )
    def write(name: str, into: Path) -> None:
        folder = write_starting_point(kind, name, into)
        path = f"{module_of(name)}:{class_of(name)}"
        click.echo(f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")
        click.echo(f"next: cd {folder} && pytest && {kind.then.format(path=path)}")

    article = "an" if kind.word[0] in "aeiou" else "a"
    write.__doc__ = f"""Write {article} {kind.word} called NAME into a new folder NAME.

    NAME is in lower case, its words joined by "-": my-method.
    """
    return write


for _kind in KINDS:
    new.command(_kind.word)(_command(_kind))


def write_starting_point(kind: Kind, name: str, into: Path) -> Path:
    """Write the three files into a new folder; return it.

    Raises:
        InputError: The name cannot be one, something else has it, or the folder is there.

    """
    _check_name(kind, name)
    folder = into / name
    if folder.exists():
        raise InputError(f"new: {folder} is there already; choose another name or --into folder")
    module = module_of(name)
    words = {
        "name": name,
        "module": module,
        "cls": class_of(name),
        "title": class_of(name, " "),
        "group": kind.registry.group,
    }
    written = {
        f"{module}.py": f"{kind.word}.py.txt",
        f"test_{module}.py": f"test_{kind.word}.py.txt",
        "pyproject.toml": "pyproject.toml.txt",
    }
    templates = files("fedadapt.new") / "templates"
    texts = {
        file: Template((templates / template).read_text("utf-8")).substitute(words)
        for file, template in written.items()
    }
    try:
        folder.mkdir(parents=True)
        for file, text in texts.items():
            (folder / file).write_text(text, "utf-8")
    except OSError as error:
        raise InputError(f"new: {folder} cannot be written ({error.strerror})") from error
    return folder


def module_of(name: str) -> str:
    """Return the Python module of a name: ``my-method`` is in ``my_method``."""
    return name.replace("-", "_")


def class_of(name: str, between: str = "") -> str:
    """Return the class of a name: ``my-method`` is ``MyMethod``."""
    return between.join(part.capitalize() for part in name.split("-"))


def _check_name(kind: Kind, name: str) -> None:
    if not NAME.fullmatch(name):
        raise InputError(
            f'new: {name!r} is no name; take lower-case letters and digits, words joined by "-", '
            "e.g. my-method"
        )
    module = module_of(name)
    if keyword.iskeyword(module):
        raise InputError(f"new: {name!r} is a word of Python; choose another name")
    if name in kind.registry.names():
        raise InputError(f"new: there is {kind.word} {name!r} already; choose another name")
    if importlib.util.find_spec(module) is not None:
        raise InputError(f"new: there is a Python module {module!r} already; choose another name")
