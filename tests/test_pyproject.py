"""The package as Flower and pip read it."""

import re
import tomllib
from pathlib import Path

import pytest

from fedadapt import __version__
from fedadapt.config import RunConfig
from fedadapt.flower.run_facts.experiment import RESUME

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
FLOWER = PROJECT["tool"]["flwr"]["app"]
HEAVY = ("ray", "flwr-datasets", "datasets", "pyarrow", "matplotlib", "jinja2")


def test_the_run_config_is_the_command_line_s_with_its_defaults():
    """Flower refuses keys that are not there; and 0 clients are as many as there are nodes."""
    config = dict(FLOWER["config"])
    assert config.pop(RESUME) == ""  # of a run over Flower alone
    assert config == RunConfig().to_mapping() | {"clients": 0}
    kinds = {key: type(value) for key, value in RunConfig().to_mapping().items()}
    assert {key: type(value) for key, value in config.items()} == kinds


def test_what_flower_s_format_1_demands_is_there():
    assert FLOWER["fab-format-version"] == 1
    assert FLOWER["publisher"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", FLOWER["flwr-version-target"])
    assert re.fullmatch(r"[a-z][a-z0-9-]{0,31}", PROJECT["project"]["name"])
    assert PROJECT["project"]["license"] == {"file": "LICENSE"}
    assert "Apache License" in (ROOT / "LICENSE").read_text("utf-8")
    assert "federations" not in PROJECT["tool"]["flwr"]  # Flower would rewrite this file


def test_flower_s_own_check_has_nothing_to_say():
    from flwr.common.config import validate_config

    valid, errors, warnings = validate_config(PROJECT)
    assert (valid, errors, warnings) == (True, [], [])


def test_components_are_where_they_are_said_to_be():
    import importlib

    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    for part, kind in (("serverapp", ServerApp), ("clientapp", ClientApp)):
        module, _, name = FLOWER["components"][part].partition(":")
        assert isinstance(getattr(importlib.import_module(module), name), kind)


def test_a_client_installs_neither_ray_nor_datasets():
    for requirement in PROJECT["project"]["dependencies"]:
        name = re.match(r"[\w-]+", requirement)[0]
        assert name not in HEAVY
        assert "[" not in requirement
    [flower] = [r for r in PROJECT["project"]["dependencies"] if r.startswith("flwr")]
    assert flower == f"flwr>={FLOWER['flwr-version-target']}"


def test_the_extras_simulation_and_test_exist_and_python_is_3_11():
    assert {"simulation", "test"} <= set(PROJECT["project"]["optional-dependencies"])
    assert PROJECT["project"]["requires-python"] == ">=3.11"


def test_every_extra_says_what_it_is_for():
    page = (ROOT / "docs" / "index.md").read_text("utf-8")
    rows = re.findall(r"^\| (`.+`) \| (.{10,}) \|$", page, re.MULTILINE)
    listed = [name for names, _ in rows for name in re.findall(r"`(\w+)`", names)]
    assert sorted(listed) == sorted(PROJECT["project"]["optional-dependencies"])


def test_versions_agree():
    assert PROJECT["project"]["version"] == __version__
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {__version__}\n" in citation
    assert f"\n## {__version__}," in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_command_is_the_package_s():
    assert PROJECT["project"]["scripts"] == {"fedadapt": "fedadapt.cli:main"}


@pytest.mark.parametrize("suffix", [".jinja", ".html", ".csv"])
def test_nothing_is_needed_that_flower_does_not_ship(suffix):
    """An app's bundle holds Python, TOML, Markdown, YAML, JSON, and nothing named like a test."""
    assert list((ROOT / "fedadapt").rglob(f"*{suffix}")) == []
    assert [p for p in (ROOT / "fedadapt").rglob("*.py")
            if p.name.startswith("test_") or p.stem.endswith("_test")] == []  # fmt: skip
