"""A run is judged by Flower's word for it, and only settings are shipped."""

import json
import tomllib

import pytest
import tiny

import fedadapt.deploy.server.registration as registration
import fedadapt.deploy.server.superlink as superlink
from fedadapt.config import RunConfig
from fedadapt.deploy.certificates import fingerprint, load_public_key
from fedadapt.deploy.commands.server import _bounded
from fedadapt.deploy.runs.app_folder import RESUME, write_app
from fedadapt.deploy.runs.run_status import RunFailedError, RunStatus, judge
from fedadapt.deploy.server.init import add_client, revoke_client
from fedadapt.deploy.server.registration import node_ids, register, told_of
from fedadapt.deploy.server.stopped_runs import note_stopped, stopped_runs
from fedadapt.deploy.server.superlink import SuperLinkLostError, flwr, superlink_command
from fedadapt.errors import FedadaptError, InputError, InterruptedRunError, QuorumLostError
from fedadapt.flower.real_clients.exit_codes import exit_code_in, tells_exit_code

FAILED = "ServerApp failed with exception: "


def status(word, details=""):
    return RunStatus("1", word, details, 0, 0)


@pytest.mark.parametrize(
    ("word", "details", "kind", "code", "words"),
    [
        ("failed", f"{FAILED}2 of 3 clients (exit code 3)", RunFailedError, 3, "2 of 3 clients"),
        (
            "failed",
            f"{FAILED}round 2: nobody; resume with: flwr run . (exit code 3)",
            RunFailedError,
            3,
            "round 2: nobody; go on with: again$",
        ),
        ("failed", f"{FAILED}lr: too high (exit code 4)", RunFailedError, 4, "lr: too high"),
        ("failed", f"{FAILED}list index\nout of range", RunFailedError, 1, "list index out of"),
        ("failed", "Task failed with unknown error.", SuperLinkLostError, 8, "go on with: again"),
        (
            "failed",
            "No heartbeat received from the task",
            SuperLinkLostError,
            8,
            "go on with: again",
        ),
        ("failed", "", SuperLinkLostError, 8, "go on with: again"),
        ("stopped", "Task stopped by user.", InterruptedRunError, 5, "go on with: again"),
    ],
)
def test_the_exit_code_is_that_of_what_happened(word, details, kind, code, words):
    with pytest.raises(kind, match=words) as error:
        judge(status(f"finished:{word}", details), "again")
    assert error.value.exit_code == code
    assert "\n" not in str(error.value)
    assert "exit code" not in str(error.value)


def test_a_complete_run_is_no_error():
    judge(status("finished:completed"), "again")


def test_an_error_of_ours_tells_its_exit_code_through_flower():
    @tells_exit_code
    def main(grid, context):
        raise QuorumLostError("2 of 3 clients")

    with pytest.raises(QuorumLostError) as error:
        main(None, None)
    assert exit_code_in(str(error.value)) == ("2 of 3 clients", 3)
    with pytest.raises(RunFailedError) as judged:
        judge(status("finished:failed", f"{FAILED}{error.value}"), "again")
    assert (str(judged.value), judged.value.exit_code) == ("2 of 3 clients", 3)


def test_other_errors_are_left_alone():
    @tells_exit_code
    def main():
        raise KeyError("x")

    with pytest.raises(KeyError, match="'x'"):
        main()
    assert exit_code_in("anything (exit code 3) else") == ("anything (exit code 3) else", None)


def test_flower_takes_the_app_that_is_shipped_and_it_holds_no_code(tmp_path):
    from flwr.cli.config_utils import load_and_validate

    app = write_app(tmp_path / "app")
    assert sorted(p.name for p in app.iterdir()) == ["LICENSE", "pyproject.toml"]
    config, _ = load_and_validate(app / "pyproject.toml")
    keys = config["tool"]["flwr"]["app"]["config"]
    assert keys == RunConfig().to_mapping() | {"clients": 0, RESUME: ""}
    root = tomllib.loads((tiny.ROOT / "pyproject.toml").read_text("utf-8"))
    assert keys == root["tool"]["flwr"]["app"]["config"]


def test_the_superlink_is_never_without_database_tls_and_authentication(made):
    command = superlink_command(made)
    for word in ("--database", "--enable-supernode-auth", "--ssl-certfile", "--ssl-keyfile",
                 "--disable-runtime-dependency-installation"):  # fmt: skip
        assert word in command
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert "--insecure" not in command
    assert command[command.index("--database") + 1] == str(made.database)


class FakeFlower:
    """Knows keys and nodes as a SuperLink does; a key stays known when its node is gone."""

    def __init__(self):
        self.nodes, self.keys = {}, {}
        self.calls = []

    def __call__(self, deployment, *words):
        self.calls.append(words[1])
        if words[1] == "list":
            nodes = [{"node-id": int(n), "status": s} for n, s in self.nodes.items()]
            return {"success": True, "nodes": nodes}
        if words[1] == "register":
            from pathlib import Path

            key = Path(words[2]).read_text()
            if key in self.keys:
                raise InputError("flwr supernode: [code: 23] Public key already in use.")
            node = str(100 + len(self.keys))
            self.keys[key] = node
            self.nodes[node] = "registered"
            return {"success": True, "node-id": node}
        self.nodes[words[2]] = "unregistered"
        return {"success": True}


@pytest.fixture
def flower(monkeypatch):
    fake = FakeFlower()
    monkeypatch.setattr(registration, "flwr", fake)
    return fake


def test_the_superlink_knows_the_clients_that_have_a_key_and_no_other(deployment, flower):
    assert register(deployment) == (["client-1", "client-2", "client-3"], 0, [])
    assert register(deployment) == ([], 0, [])
    add_client(deployment, "new")
    revoke_client(deployment, "client-2")
    assert register(deployment) == (["new"], 1, [])
    alive = {node for node, word in flower.nodes.items() if word == "registered"}
    assert set(node_ids(deployment).values()) == alive
    assert len(alive) == 3


def test_a_client_that_is_made_again_is_another_node(deployment, flower):
    register(deployment)
    revoke_client(deployment, "client-2")
    add_client(deployment, "client-2")
    assert register(deployment) == (["client-2"], 1, [])


def test_a_key_that_was_revoked_and_put_back_is_named_with_a_remedy(deployment, flower):
    """The SuperLink takes it never again, and says of the client only that it is not registered."""
    register(deployment)
    path = deployment.public_keys / "client-2.pub"
    key = path.read_bytes()
    revoke_client(deployment, "client-2")
    register(deployment)
    path.write_bytes(key)
    assert register(deployment) == ([], 0, ["client-2"])
    assert "deploy revoke" in told_of(["client-2"], deployment)
    revoke_client(deployment, "client-2")
    add_client(deployment, "client-2")
    assert register(deployment) == (["client-2"], 0, [])


def test_a_kill_between_registering_and_remembering_loses_no_client(deployment, flower):
    register(deployment)
    key = fingerprint(load_public_key(deployment.public_keys / "client-2.pub"))
    remembered = node_ids(deployment)
    del remembered[key]
    deployment.nodes.write_text(json.dumps(remembered))
    assert register(deployment) == ([], 0, [])
    assert list(flower.nodes.values()).count("registered") == 3
    assert (
        flower.nodes[node_ids(deployment)[key]] == "registered"
    )  # found by leaving the others out
    revoke_client(deployment, "client-2")
    assert register(deployment) == ([], 1, [])


def test_two_such_kills_lose_no_client_and_a_fresh_database_mends_it(
    deployment, flower, monkeypatch
):
    """Which node is whose is not known then, so none is removed, and none is given up either."""
    register(deployment)
    remembered = node_ids(deployment)
    for name in ("client-1", "client-2"):
        del remembered[fingerprint(load_public_key(deployment.public_keys / f"{name}.pub"))]
    deployment.nodes.write_text(json.dumps(remembered))
    revoke_client(deployment, "client-3")
    assert register(deployment) == ([], 0, [])
    assert node_ids(deployment) == {}
    assert list(flower.nodes.values()).count("registered") == 3
    monkeypatch.setattr(registration, "flwr", FakeFlower())
    assert register(deployment) == (["client-1", "client-2"], 0, [])


def test_a_fresh_database_is_told_of_all_clients(deployment, flower, monkeypatch):
    register(deployment)
    monkeypatch.setattr(registration, "flwr", FakeFlower())
    assert register(deployment)[0] == ["client-1", "client-2", "client-3"]


def test_runs_that_were_stopped_are_remembered_the_last_ones(deployment):
    assert stopped_runs(deployment) == []
    for run in range(60):
        note_stopped(deployment, str(run))
    note_stopped(deployment, "58")
    assert stopped_runs(deployment)[-2:] == ["59", "58"]
    assert len(stopped_runs(deployment)) == 50
    deployment.stopped.write_text("[")
    assert stopped_runs(deployment) == []


def test_a_call_without_a_server_says_so(deployment, monkeypatch):
    class Done:
        returncode, stdout, stderr = 1, "", "Connection to the SuperLink is unavailable."

    monkeypatch.setattr(superlink.subprocess, "run", lambda *a, **k: Done)
    with pytest.raises(SuperLinkLostError, match="fedadapt deploy server"):
        flwr(deployment, "list")
    Done.stderr, Done.stdout = "", 'words {"success": false, "error-message": "no\\n such run"}'
    with pytest.raises(InputError, match="flwr list: no such run"):
        flwr(deployment, "list")
    Done.returncode, Done.stdout = 0, 'words {"success": true, "runs": []}'
    assert flwr(deployment, "list")["runs"] == []
    Done.stdout = '{"success": false, "error-message": "no such run"}'  # and still status 0
    with pytest.raises(InputError, match="flwr list: no such run"):
        flwr(deployment, "list")


def test_flowers_own_configuration_is_absolute_and_over_tls(deployment, monkeypatch):
    class Done:
        returncode, stdout, stderr = 0, "{}", ""

    called = {}
    monkeypatch.setattr(superlink.subprocess, "run", lambda *a, **k: called.update(k) or Done)
    flwr(deployment, "list")
    assert called["cwd"] == deployment.flower_home  # it would read an app's settings elsewhere
    assert called["env"]["FLWR_HOME"] == str(deployment.flower_home)
    text = (deployment.flower_home / "config.toml").read_text()
    [connection] = [v for v in tomllib.loads(text)["superlink"].values() if isinstance(v, dict)]
    assert connection == {
        "address": f"127.0.0.1:{deployment.control_port}",
        "root-certificates": str(deployment.ca_certificate),
    }


def test_errors_are_one_of_ours():
    assert issubclass(RunFailedError, FedadaptError)


@pytest.mark.parametrize(
    ("strategy", "bound"), [("fedavg", 5.0), ("pfa", 5.0), ("fedfomo", 0.0), ("mas-racl", 0.0)]
)
def test_a_run_has_the_bounds_that_its_method_uses_and_no_other(strategy, bound):
    """A bound without effect would be refused, and the run with it."""
    config = _bounded({"strategy": strategy, "clients": 3})
    assert (config.max_update_factor, config.max_weight_factor) == (bound, 10.0)
    assert _bounded({"strategy": strategy, "max_weight_factor": 2.0}).max_weight_factor == 2.0
