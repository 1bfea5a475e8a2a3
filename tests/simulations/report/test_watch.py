"""The page of a run that goes on: for this computer alone, and loaded anew when it changes."""

import threading
import time
import urllib.error
import urllib.request

import pytest
from browser import Browser, chromium
from made_up import evaluation
from pages import finish

from fedadapt.errors import InputError
from fedadapt.simulations.report import watch
from fedadapt.simulations.results.journal import Journal

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture
def going_on(tmp_path):
    """A run in its second round: no tables, no summary, a journal that is open."""
    finish(tmp_path, [])
    for name in ("clients.parquet", "communication.parquet", "losses.parquet", "summary.json"):
        (tmp_path / name).unlink()
    with Journal(tmp_path) as journal:
        for client in range(6):
            journal.append(evaluation(client, 0.5, round=1))
            journal.append(evaluation(client, 0.6, "base+fine-tune", round=1))
        journal.positions()
        yield tmp_path, journal


@pytest.fixture
def address(going_on):
    with watch.server(going_on[0]) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def get(address: str, host: str = "") -> str:
    request = urllib.request.Request(address, headers={"Host": host} if host else {})
    with urllib.request.urlopen(request) as answer:
        return answer.read().decode()


def test_the_page_is_that_of_the_moment_and_the_version_says_when_there_is_another(
    going_on, address
):
    folder, journal = going_on
    first = get(address)
    assert "not complete" in first
    version = get(f"{address}/version")
    assert f'data-version="{version}"' in first
    assert get(f"{address}/version") == version
    for client in range(6):
        journal.append(evaluation(client, 0.875, round=2))
    journal.positions()
    assert get(f"{address}/version") != version
    assert "87.5" in get(address)
    assert not (folder / "report.html").exists()  # the run's folder is not touched


@pytest.mark.parametrize(("path", "host", "status"), [
    ("/config.toml", "", 404), ("/../etc/passwd", "", 404), ("/", "evil.example", 403),
])  # fmt: skip
def test_nothing_else_is_served_and_to_nobody_else(address, path, host, status):
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(address + path, host)
    assert refused.value.code == status
    refused.value.close()


def test_a_folder_without_a_run_and_a_taken_port_are_one_line(tmp_path, going_on):
    with pytest.raises(InputError, match="no run has begun"):
        watch.server(tmp_path / "empty")
    with watch.server(going_on[0]) as first, pytest.raises(InputError, match="port: "):
        watch.server(going_on[0], first.server_address[1])


def test_in_a_browser_it_follows_the_run_and_keeps_what_was_switched(going_on, monkeypatch):
    monkeypatch.setattr(watch, "SECONDS", 0.2)
    folder, journal = going_on
    window = Browser(chromium())
    try:
        with watch.server(folder) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            window.driver.get(f"http://127.0.0.1:{server.server_address[1]}/")
            window.pick("#pick-view", "gain")
            for client in range(6):
                journal.append(evaluation(client, 0.75, round=2))
                journal.append(evaluation(client, 0.875, "base+fine-tune", round=2))
            journal.positions()
            until = time.monotonic() + 30
            while "87.5" not in window.texts("#clients-note")[0] and time.monotonic() < until:
                time.sleep(0.1)
            assert "75.0 % → 87.5 %" in window.texts("#clients-note")[0]
            assert window.run("return document.getElementById('pick-view').value") == "gain"
            server.shutdown()
            thread.join()
    finally:
        window.driver.quit()
