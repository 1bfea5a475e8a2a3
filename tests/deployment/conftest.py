"""Fixtures of the tests that start a server and clients; ``-m deployment`` runs them."""

from pathlib import Path

import pytest
from machines import machines

from fedadapt.deploy.sample_pictures import write_pictures

CLIENTS = ("client-1", "client-2", "client-3")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.deployment)
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A server and three clients with pictures of their own, all connected."""
    with machines(tmp_path_factory.mktemp("bench"), len(CLIENTS)) as bench:
        bench.pictures = dict(
            zip(CLIENTS, write_pictures(bench.folder / "pictures", CLIENTS, 60), strict=True)
        )
        bench.start_server()
        for name in CLIENTS:
            bench.start_client(name, "--images", bench.pictures[name])
        bench.wait_connected(*CLIENTS)
        yield bench
