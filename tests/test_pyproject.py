"""The package as Flower and pip see it."""

import tomllib
from pathlib import Path

import pytest

from fedadapt import __version__
from fedadapt.config import RunConfig

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_flower_s_run_config_has_our_keys_and_defaults():
    """But for ``devices``: under Flower there are as many as there are nodes."""
    assert PROJECT["tool"]["flwr"]["app"]["config"] == RunConfig().to_mapping() | {"devices": 0}


def test_it_is_a_flower_app_of_format_one():
    app = PROJECT["tool"]["flwr"]["app"]
    assert app["fab-format-version"] == 1
    assert app["flwr-version-target"] == "1.41.0"
    assert PROJECT["project"]["license"] == {"file": "LICENSE"}  # a string would be refused
    assert "Apache License" in (ROOT / "LICENSE").read_text("utf-8")
    assert set(app["components"]) == {"serverapp", "clientapp"}


def test_there_is_one_version():
    assert PROJECT["project"]["version"] == __version__


@pytest.mark.parametrize("heavy", ["ray", "flwr-datasets", "datasets", "flwr[simulation]"])
def test_an_edge_device_installs_nothing_heavy(heavy):
    needed = [word.split(">")[0] for word in PROJECT["project"]["dependencies"]]
    assert heavy not in needed
