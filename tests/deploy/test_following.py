"""A run on real clients from its command to its end: what is submitted, shown, and made of it."""

import tomllib
from pathlib import Path

import pytest
from fake_programs import Program

import fedadapt.deploy.runs.run as runs
from fedadapt.config import RunConfig
from fedadapt.deploy.certificates import fingerprint, load_public_key
from fedadapt.deploy.runs.app_folder import RESUME
from fedadapt.deploy.runs.run_status import RunStatus
from fedadapt.deploy.server.init import add_client
from fedadapt.deploy.server.stopped_runs import stopped_runs
from fedadapt.deploy.server.superlink import SuperLinkLostError
from fedadapt.errors import InputError, InterruptedRunError

CONFIG = RunConfig(benchmark="own", clients=3, classes="a,b", image_size=8, rounds=1)
RUNNING = RunStatus("1", "running", "", 0, 0)
DONE = RunStatus("1", "finished:completed", "", 2_000_000, 3_000_000)
LOST = RunStatus("1", "finished:failed", "Task failed with unknown error.", 0, 0)


class Server:
    """A server as the operator's side sees it: up or not, and what it says of the run."""

    def __init__(self, clock):
        self._clock = clock
        self.away = []  # (from, to), seconds
        self.statuses = [(0.0, RUNNING)]  # from when on
        self.submitted, self.calls, self.asked = [], [], []

    def is_up(self, _):
        return not any(begin <= self._clock.passed < end for begin, end in self.away)

    def status(self, deployment, number):
        self.asked.append(self._clock.passed)
        if not self.is_up(None):
            raise SuperLinkLostError("away")
        return [status for since, status in self.statuses if self._clock.passed >= since][-1]

    def flwr(self, deployment, *words):
        self.calls.append(words)
        if words[0] == "run":
            self.submitted.append(tomllib.loads(Path(words[-1]).read_text()))
        return {"run-id": "1"}


@pytest.fixture
def server(clock, programs, monkeypatch):
    server = Server(clock)
    monkeypatch.setattr(runs, "is_up", server.is_up)
    monkeypatch.setattr(runs, "run_status", server.status)
    monkeypatch.setattr(runs, "flwr", server.flwr)
    monkeypatch.setattr(runs, "Running", programs)
    return server


def run(deployment, **more):
    said = []
    config = more.pop("config", CONFIG)
    return runs.run(deployment, config, (), said.append, **more), said


def test_a_run_is_followed_to_its_end_and_stays_in_the_deployment(deployment, server, clock):
    """Its status is asked for once a minute, and when its log has ended."""
    server.statuses.append((130.0, DONE))
    folder, said = run(deployment)
    assert folder == deployment.runs / "own-fedavg-1"
    assert said[0] == f"run 1 -> {folder}"
    assert said[-1] == "finished; Flower counted 2.0 MB up and 3.0 MB down"
    assert len(server.asked) == 3
    assert server.asked[-1] >= 180
    [settings] = server.submitted
    assert settings["out"] == str(folder)
    assert settings.get(RESUME, "") == ""
    roster = Path(settings["roster"]).read_text().split()
    keys = [load_public_key(deployment.public_keys / f"client-{n}.pub") for n in (1, 2, 3)]
    assert roster[::2] == [fingerprint(key) for key in keys]
    assert roster[1::2] == ["client-1", "client-2", "client-3"]


def test_a_log_that_ends_is_asked_about_at_once_and_read_again_while_the_run_goes_on(
    deployment, server, clock, programs
):
    """Each line of ours is shown once, whichever reader brings it; others are not shown."""
    programs.lives["run-1"] = [5.0, 5.0]
    lines = ["waiting for the clients", "INFO: something of Flower's", "3 clients are there: 0",
             "round 1, train: asking 3 clients", "left out: client x: no answer"]  # fmt: skip

    def reading(command, log, env, on_line=None):
        reader = programs(command, log, env, on_line)
        for line in lines[: 3 if len(Program.started) == 1 else 5]:
            on_line(line)
        return reader

    runs.Running = reading
    server.statuses.append((9.0, DONE))
    _, said = run(deployment)
    assert said[1:-1] == [f"  {line}" for line in lines if "INFO" not in line]
    assert clock.passed < 20
    assert len(Program.started) == 2


def test_the_folder_is_brought_home_whole(deployment, server, tmp_path):
    server.statuses[:] = [(0.0, DONE)]

    def submit(deployment, settings):
        folder = Path(settings["out"])
        (folder / "models").mkdir(parents=True)
        (folder / "models" / "base").write_text("x")
        return "1"

    runs._submit, whole = submit, runs._submit
    try:
        home, _ = run(deployment, out=tmp_path / "mine")
    finally:
        runs._submit = whole
    assert home == tmp_path / "mine"
    assert (home / "models" / "base").read_text() == "x"
    assert (deployment.runs / "own-fedavg-1" / "models" / "base").exists()


def test_a_run_that_goes_on_has_the_roster_and_the_folder_that_it_began_with(deployment, server):
    """A client's number is its line: one that was added meanwhile takes no part."""
    server.statuses[:] = [(0.0, DONE)]
    folder, _ = run(deployment)
    folder.mkdir()
    add_client(deployment, "a-new-one")
    run(deployment, resume=folder)
    first, second = server.submitted
    assert second == first | {RESUME: str(folder)}
    assert "a-new-one" not in Path(second["roster"]).read_text()
    other, _ = run(deployment)
    assert other == deployment.runs / "own-fedavg-2"
    assert "a-new-one" in Path(server.submitted[-1]["roster"]).read_text()


def test_a_server_that_is_killed_is_waited_for_and_says_what_is_lost(deployment, server, clock):
    server.away.append((20.0, 50.0))
    server.statuses.append((50.0, LOST))
    with pytest.raises(SuperLinkLostError, match=r"go on with: fedadapt deploy run .* --resume"):
        run(deployment)
    assert 50 <= clock.passed < 55


def test_a_server_that_stays_away_is_given_up_with_the_command_that_goes_on(
    deployment, server, clock
):
    server.away.append((20.0, 1e9))
    with pytest.raises(SuperLinkLostError, match="the server is gone; start it") as gone:
        run(deployment)
    assert gone.value.exit_code == 8
    assert 20 + runs.LOST_AFTER + runs.BACK_WITHIN <= clock.passed < 100


def test_a_server_that_is_away_for_a_moment_costs_nothing(deployment, server, clock):
    server.away.append((20.0, 28.0))
    server.statuses.append((70.0, DONE))
    _, said = run(deployment)
    assert not any("does not answer" in line for line in said)


def test_ctrl_c_stops_the_run_and_lets_the_clients_know(deployment, server, clock):
    clock.ends_at = 30
    with pytest.raises(InterruptedRunError, match=r"interrupted; go on with: .* --resume") as ended:
        run(deployment)
    assert ended.value.exit_code == 5
    assert stopped_runs(deployment) == ["1"]
    assert ("stop", "1", "deployment") in server.calls
    assert Program.ended == ("run-1",)


def test_without_a_server_nothing_is_submitted(deployment, server):
    server.away.append((0.0, 1e9))
    with pytest.raises(SuperLinkLostError, match="the server is not running; start it"):
        run(deployment)
    assert server.submitted == []
    with pytest.raises(InputError, match="server-data: '/no' is no folder of the server"):
        run(deployment, config=RunConfig(benchmark="own", strategy="mas-racl", server_data="/no"))
