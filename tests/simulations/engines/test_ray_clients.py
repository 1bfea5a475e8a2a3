"""Ray actors compute what this process computes, on two machines, and whatever dies."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from machines import descendants
from ray_toys import CLIENTS, START, DyingRecipe, ToyRecipe
from toys import assert_same_bits, conv, initials, sent

from fedadapt.errors import FedadaptError, InputError
from fedadapt.messages import Sent
from fedadapt.server.client_pool import EvaluationRequest
from fedadapt.server.client_states import ClientStates
from fedadapt.simulations.assembly import assemble
from fedadapt.simulations.engines.in_process import InProcessClients
from fedadapt.simulations.engines.ray_clients import RayClients
from fedadapt.simulations.engines.ray_worker import State

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings(  # Ray leaves files of its own open
        "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
    ),
]


@pytest.fixture(scope="module")
def cluster():
    """Two machines with a core each."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        tests = Path(__file__).parents[2]
        path = [str(tests.parent), str(tests), str(tests / "simulations")]
        patch.setenv("PYTHONPATH", os.pathsep.join([*path, os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        node = {"num_cpus": 1, "object_store_memory": 2**27, "include_dashboard": False}
        found = Cluster(initialize_head=True, head_node_args=node)
        found.add_node(num_cpus=1, object_store_memory=2**27)
        ray.init(address=found.address, log_to_driver=False, logging_level="ERROR")
        try:
            yield found
        finally:
            ray.shutdown()
            found.shutdown()


def fleet_of(worker_spec, num_workers=2, cohort_size=3):
    client_pool = RayClients(
        tiny.config(),
        worker_spec.build(),
        address="",
        num_workers=num_workers,
        gpus_per_worker=0.0,
        cohort_size=cohort_size,
        client_states=ClientStates(),
    )
    client_pool._worker_pool._worker_spec = worker_spec
    return client_pool


def rounds(client_pool):
    """The answers of two rounds, the second with a model for each client; scores; what is kept."""
    own = Sent(CLIENTS, initials(conv(), len(CLIENTS)), {"server-round": 2})
    request = EvaluationRequest(2, CLIENTS, {"base": own.weights}, ("none", "adabn"), curves=True)
    first = list(client_pool.ask("train", 1, sent(START, CLIENTS), START))
    second = list(client_pool.ask("train", 2, own, START))
    return first, second, list(client_pool.evaluate(request)), client_pool.states()


def by_client(answers):
    return {
        d: {n: t[i] for n, t in a.update.weights.items()}
        for a in answers
        for i, d in enumerate(a.clients)
    }


def assert_same_answers(found, wanted):
    ours, theirs = by_client(found), by_client(wanted)
    assert list(ours) == list(theirs)  # in order
    for client in theirs:
        assert_same_bits(ours[client], theirs[client])


def assert_equal(found, wanted):
    for number in (0, 1):
        assert_same_answers(found[number], wanted[number])
    ours, theirs = ([row for a in some[2] for row in a.rows] for some in (found, wanted))
    assert ours == theirs
    assert found[3].keys() == wanted[3].keys()
    for client in wanted[3]:
        assert_same_bits(found[3][client]["norms"], wanted[3][client]["norms"])


@pytest.mark.slow
def test_actors_compute_what_this_process_computes_and_are_replaced_when_killed(cluster):
    import ray

    worker_spec = ToyRecipe()
    wanted = rounds(InProcessClients(worker_spec.build()))
    with fleet_of(worker_spec) as client_pool:
        assert_equal(rounds(client_pool), wanted)
        client_pool.restore({})
        answers = client_pool.ask("train", 1, sent(START, CLIENTS), START)
        found = [next(answers)]
        ray.kill(client_pool._worker_pool._actors[0])
        found += list(answers)
        assert_same_answers(found, wanted[0])


@pytest.mark.slow
def test_a_client_fails_alone_and_one_that_kills_its_actor_is_computed_again(
    cluster, tmp_path, caplog
):
    wanted = rounds(InProcessClients(ToyRecipe(True).build()))
    with fleet_of(ToyRecipe(True, str(tmp_path), 1), cohort_size=1) as client_pool:
        found = rounds(client_pool)
    assert len(list(tmp_path.iterdir())) == 1
    assert "its clients are computed again" in caplog.text
    assert_equal(found, wanted)
    for answers in found[:3]:
        assert [d for a in answers for d in a.failures] == [1]
    for reason in [f.reason for a in found[0] for f in a.failures.values()]:
        assert reason.startswith("crash:OSError incident=")
        assert "patient" not in reason


@pytest.mark.slow
def test_a_machine_that_is_gone_is_done_without(cluster):
    """Its actor waits for another machine; the rest is done by those there are."""
    worker_spec = ToyRecipe()
    wanted = list(
        InProcessClients(worker_spec.build()).ask("train", 1, sent(START, CLIENTS), START)
    )
    third = cluster.add_node(num_cpus=1, object_store_memory=2**27)
    cluster.wait_for_nodes()
    with fleet_of(worker_spec, num_workers=3, cohort_size=1) as client_pool:
        answers = client_pool.ask("train", 1, sent(START, CLIENTS), START)
        found = [next(answers)]
        cluster.remove_node(third, allow_graceful=False)
        found += list(answers)
    assert_same_answers(found, wanted)


@pytest.mark.slow
def test_a_stopped_actor_is_ended_and_its_clients_are_computed_again(
    cluster, tmp_path, caplog, monkeypatch
):
    """Ray alone would wait for it without end, and could not end it either."""
    monkeypatch.setattr("fedadapt.simulations.engines.scheduler.POLL", 0.2)
    monkeypatch.setattr("fedadapt.simulations.engines.scheduler.GRACE", 1.0)
    worker_spec = ToyRecipe(deadly=str(tmp_path), lives=1, how=signal.SIGSTOP)
    question = ("train", 1, sent(START, CLIENTS), START)
    wanted = list(InProcessClients(ToyRecipe().build()).ask(*question))
    with fleet_of(worker_spec, cohort_size=1) as client_pool:
        assert_same_answers(list(client_pool.ask(*question)), wanted)
    assert "allow 6 s; it is ended" in caplog.text


OWN = """
import os, signal, sys
import ray
from fedadapt.simulations.endings import stopped_by_signals
from fedadapt.simulations.engines.ray_cluster import RayCluster, _descendants
RayCluster(ray, "").join(1)
with stopped_by_signals():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        print("interrupted")
print(ray.get_runtime_context().gcs_address)
print(os.environ["RAY_AUTH_MODE"], len(os.environ["RAY_AUTH_TOKEN"]))
print(*(pid for pid, _ in _descendants(os.getpid())))
sys.stdout.flush()
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


def listening(pids: set[str]) -> set[str]:
    """The addresses, in hex, at which processes listen for TCP."""
    sockets = set()
    for pid in pids:
        for handle in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(handle))
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                found.add(words[1].partition(":")[0])
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_cluster_of_our_own_is_local_and_locked_and_ends_with_a_killed_driver():
    """SIGTERM is ours although Ray takes it; of Ray's processes none is there in the end."""
    pytest.importorskip("ray")
    driver = tiny.python("-c", OWN, stdin=subprocess.PIPE)
    lines = [driver.stdout.readline().strip() for _ in range(4)]
    assert lines[0] == "interrupted", driver.communicate()
    assert lines[1].startswith("127.0.0.1:")
    assert lines[2] == "token 64"
    pids = set(lines[3].split())
    assert len(pids) > 4
    local = {"0100007F", "0000000000000000FFFF00000100007F", "0" * 24 + "01000000"}
    assert listening(pids)
    assert listening(pids) <= local
    driver.communicate("\n", timeout=60)
    wait_for_end_of(pids)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_on_ray_that_is_told_to_end_ends_with_5_and_goes_on(tmp_path):
    """By SIGTERM, then by SIGHUP when it goes on as advised; nothing of Ray's is left."""
    pytest.importorskip("ray")
    begin = tiny.options(out=tmp_path, rounds=500, engine="ray", workers=1)
    latest = tmp_path / "checkpoint" / "LATEST"
    reached = []
    for number, options in ((signal.SIGTERM, begin), (signal.SIGHUP, ["--resume", str(tmp_path)])):
        at = latest.read_text() if latest.exists() else "round-00000000\n"
        before = signal.signal(number, signal.SIG_DFL)  # whatever this process has inherited
        process = tiny.python("-m", "fedadapt", "simulate", *options)
        signal.signal(number, before)
        while not latest.exists() or latest.read_text() == at:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        below = {*descendants(process.pid)}
        assert len(below) > 4
        process.send_signal(number)
        _, trouble = process.communicate(timeout=60)
        assert process.returncode == 5, trouble
        assert trouble.splitlines()[-1] == (
            f"fedadapt: interrupted; go on with: fedadapt simulate --resume {tmp_path}"
        )
        assert not (tmp_path / ".lock").exists()
        wait_for_end_of(below)
        reached.append(int(latest.read_text().rpartition("-")[2]))
    assert 0 < reached[0] < reached[1]


def wait_for_end_of(pids: set[str] | set[int]) -> None:
    deadline = time.monotonic() + 30
    while left := [pid for pid in pids if is_there(str(pid))]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def is_there(pid: str) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_an_actor_builds_what_the_configuration_says(cluster):
    assembly = assemble(tiny.config())
    start = {n: t.detach() for n, t in assembly.model.state_dict().items()}
    question = ("train", 1, sent(start, range(6)), start)
    engine = {"address": "", "num_workers": 1, "gpus_per_worker": 0.0, "cohort_size": 3}
    with RayClients(
        tiny.config(), assembly.worker, **engine, client_states=ClientStates()
    ) as client_pool:
        found = list(client_pool.ask(*question))
    with InProcessClients(assembly.worker, cohort_size=3) as client_pool:
        assert_same_answers(found, client_pool.ask(*question))
    assert [d for answers in found for d in answers.clients] == list(range(6))


def test_other_data_on_an_actor_s_machine_are_refused():
    pytest.importorskip("ray")
    worker_pool = fleet_of(ToyRecipe())._worker_pool
    with pytest.raises(
        InputError, match=r"^ray: an actor has other data \(manifest 1111.* here 0000"
    ):
        worker_pool._begun(0, State("1" * 64, ""))
    with pytest.raises(FedadaptError, match=r"^ray: an actor cannot begin: no such file"):
        worker_pool._begun(0, State("", "no such file"))


@pytest.mark.slow
def test_an_actor_that_dies_while_it_starts_is_begun_anew_a_few_times(cluster, tmp_path):
    with fleet_of(DyingRecipe(str(tmp_path), 1, os.getpid()), num_workers=1) as client_pool:
        answers = list(client_pool.ask("train", 1, sent(START, CLIENTS), START))
    assert [d for some in answers for d in some.clients] == list(CLIENTS)
    with pytest.raises(FedadaptError, match=r"^ray: .* before it was up, 4 times$"):
        fleet_of(DyingRecipe(str(tmp_path / "all"), 4, os.getpid()), num_workers=1).__enter__()


def test_more_actors_than_fit_are_refused(cluster):
    with pytest.raises(InputError, match=r"^workers: 50 Ray actors need 50 cores and 0 GPUs"):
        fleet_of(ToyRecipe(), num_workers=50).__enter__()


@pytest.mark.slow
def test_without_ray_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"^engine: ray is not installed; pip install"):
        fleet_of(ToyRecipe())
