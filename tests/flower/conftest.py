"""Flower builds a ``Message`` only in a process that knows which task it runs."""

import pytest
from flwr.supercore.task_identity import TaskIdentity


@pytest.fixture
def flower_identity(monkeypatch):
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
