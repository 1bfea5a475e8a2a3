"""What the Dockerfile installs, read from it."""

import re
import shlex
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", " ")


def installed(stage: str) -> list[Requirement]:
    """The packages that are named for a stage, or for the one that all begin with."""
    values = dict(re.findall(r'^ARG (\w+)="?([^"\n]+)', TEXT, re.MULTILINE))
    stages = dict(
        re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    )
    words = []
    for part in ("base", stage):
        for line in re.findall(r"^RUN pip install (.*)$", stages[part], re.MULTILINE):
            words += shlex.split(re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], line))
    return [Requirement(word) for word in words if re.match(r"[a-z][\w-]*[>=<]", word)]


def requirements(stage: str) -> list[Requirement]:
    """The same, and what fedadapt itself needs, which is installed from its folder."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return [*installed(stage), *map(Requirement, project["dependencies"])]
