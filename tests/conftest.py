"""Fixtures only. One thread: on small tensors more are slower, and tests run side by side."""

import os
import re
import signal
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import pytest
import torch

from fedadapt.client.cohort import Cohort

# Processes that run tests side by side ignore it, and whatever they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A file's tests stay together, with what they share; those that start servers in one line.

    Tests that take seconds each, and those of deployments, run if ``-m`` names them.
    """
    left_out = {"slow", "deployment"} - {*re.findall(r"\w+", config.option.markexpr)}
    later = [item for item in items if any(map(item.get_closest_marker, left_out))]
    config.hook.pytest_deselected(items=later)
    items[:] = [item for item in items if item not in set(later)]
    for item in items:
        servers = any(item.get_closest_marker(name) for name in ("flower", "ray", "deployment"))
        if not item.get_closest_marker("xdist_group"):  # else the file is cut into several
            item.add_marker(pytest.mark.xdist_group("servers" if servers else item.path.stem))
        if servers:
            seconds = 1800 if item.get_closest_marker("deployment") else 300
            item.add_marker(pytest.mark.timeout(seconds))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """A folder with real data sets; tests that need one are skipped where there is none."""
    root = os.environ.get("FEDADAPT_DATA", "")
    if not root or not Path(root).is_dir():
        pytest.skip("FEDADAPT_DATA names no folder with real data")
    return Path(root)


@pytest.fixture
def by_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every derivative is autograd's, so that methods that compute alike do to the bit.

    Where some are by hand and others cannot be, they are alike but for rounding.
    """
    monkeypatch.setattr(Cohort, "tail", None)
