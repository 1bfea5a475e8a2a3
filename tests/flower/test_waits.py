"""A warm client does not wait for what has arrived meanwhile."""

import threading

from flwr.supercore.inflatable import inflatable_utils
from flwr.superlink.grid import http_grid
from flwr.supernode import start_client_internal
from flwr.supernode.runtime import run_clientapp

from fedadapt.flower.real_clients.waits import (
    FIRST,
    LONGEST,
    shorten_waits_of_node,
    shorten_waits_of_server,
    with_short_waits,
)


def test_a_part_that_comes_late_is_asked_for_often_and_to_the_end(monkeypatch):
    waits, asked = [], []

    class Event(threading.Event):
        def wait(self, timeout=None):
            if timeout is None:  # of a thread that begins
                return super().wait()
            waits.append(timeout)
            return False

    monkeypatch.setattr(inflatable_utils.threading, "Event", Event)

    def pull(object_id):
        asked.append(object_id)
        if len(asked) <= 600:
            raise inflatable_utils.ObjectUnavailableError(object_id)
        return b"content"

    assert with_short_waits(inflatable_utils.pull_objects)(["a"], pull) == {"a": b"content"}
    assert len(waits) == 600  # more than Flower tries
    assert waits[0] <= 1.2 * FIRST
    assert max(waits) <= 1.2 * LONGEST


def test_flower_takes_the_settings_of_waits_where_they_are_set():
    """The names that are replaced are there, and take what they are given."""
    import inspect

    for function in (
        inflatable_utils.pull_objects,
        run_clientapp.pull_and_inflate_object_from_tree,
    ):
        names = inspect.signature(function).parameters
        assert {"initial_backoff", "backoff_cap", "max_tries_per_object"} <= set(names)
    assert 0 < LONGEST <= 1


def test_the_server_waits_shorter_once_and_for_all(monkeypatch):
    before = inflatable_utils.pull_objects  # whatever an earlier test has made of it
    monkeypatch.setattr(http_grid, "pull_objects", before)
    shorten_waits_of_server()
    shorten_waits_of_server()
    assert http_grid.pull_objects.func is before
    monkeypatch.delattr(http_grid, "pull_objects")
    shorten_waits_of_server()


def test_the_supernode_waits_shorter_too(monkeypatch):
    before = inflatable_utils.pull_objects
    monkeypatch.setattr(start_client_internal, "pull_objects", before)
    shorten_waits_of_node()
    assert start_client_internal.pull_objects.func is before
