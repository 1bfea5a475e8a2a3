"""Ray actors compute what this process computes, on two machines, and whatever dies."""

import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import tiny
from toys import Toys, assert_same_bits, conv, initial, initials, sent, split, training

from fedadapt.adaptations import AdaBN, NoAdaptation
from fedadapt.errors import InputError
from fedadapt.messages import Sent
from fedadapt.server.fleet import EvaluationRequest
from fedadapt.simulations.assembly import assemble
from fedadapt.simulations.in_process import InProcessFleet
from fedadapt.simulations.keeping import Keeper
from fedadapt.simulations.ray_fleet import RayFleet
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.fedavg import FedAvg

pytestmark = pytest.mark.filterwarnings(  # Ray leaves files of its own open
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

SPLITS = [split(count, seed=count) for count in (5, 12, 10, 7, 9, 3, 8)]
POISONED = [SPLITS[0], OSError("patient 4711: unreadable"), *SPLITS[2:]]
DEVICES = tuple(range(len(SPLITS)))
START = initial(conv())
METHODS = (NoAdaptation(), AdaBN())


class Deadly(Worker):
    """Device 4 kills its actor, as often as it has lives; a file each counts."""

    folder: Path
    lives: int

    def answer(self, action, round, sent, kept=()):
        killed = len(list(self.folder.iterdir()))
        if 4 in sent.devices and killed < self.lives:
            (self.folder / str(killed)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().answer(action, round, sent, kept)


class ToyRecipe(NamedTuple):
    """Toy devices instead of what a configuration says."""

    poisoned: bool = False
    deadly: str = ""
    lives: int = 0

    def build(self):
        strategy = FedAvg(training=training(0.1, 2), model=conv(), batch_norm="local")
        kind = Deadly if self.deadly else Worker
        splits = POISONED if self.poisoned else SPLITS
        worker = kind(Toys(splits), conv(), strategy, METHODS, seed=1)
        if self.deadly:
            worker.folder, worker.lives = Path(self.deadly), self.lives
        return worker


@pytest.fixture(scope="module")
def cluster():
    """Two machines with a core each."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        tests = Path(__file__).parents[1]
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


def fleet_of(recipe, num_workers=2, cohort_size=3):
    fleet = RayFleet(
        tiny.config(),
        recipe.build(),
        address="",
        num_workers=num_workers,
        gpus_per_worker=0.0,
        cohort_size=cohort_size,
        keeper=Keeper(),
    )
    fleet._crew._recipe = recipe
    return fleet


def rounds(fleet):
    """The answers of two rounds, the second with a model for each device, and the scores after."""
    own = Sent(DEVICES, initials(conv(), len(DEVICES)), {"server-round": 2})
    request = EvaluationRequest(2, DEVICES, {"base": own.weights}, ("none", "adabn"), curves=True)
    with fleet:
        first = list(fleet.ask("train", 1, sent(START, DEVICES), START))
        second = list(fleet.ask("train", 2, own, START))
        scores = list(fleet.evaluate(request))
        return first, second, scores, fleet.kept()


def by_device(answers):
    return {
        d: {n: t[i] for n, t in a.update.weights.items()}
        for a in answers
        for i, d in enumerate(a.devices)
    }


def assert_equal(found, wanted):
    for ours, theirs in zip(found[:2], wanted[:2], strict=True):
        ours, theirs = by_device(ours), by_device(theirs)
        assert list(ours) == list(theirs)  # in order
        for device in theirs:
            assert_same_bits(ours[device], theirs[device])
    ours, theirs = ([row for a in some[2] for row in a.rows] for some in (found, wanted))
    assert ours == theirs
    assert found[3].keys() == wanted[3].keys()
    for device in wanted[3]:
        assert_same_bits(found[3][device]["norms"], wanted[3][device]["norms"])


@pytest.mark.parametrize("poisoned", [False, True])
def test_actors_compute_what_this_process_computes(cluster, poisoned):
    recipe = ToyRecipe(poisoned)
    wanted = rounds(InProcessFleet(recipe.build()))
    found = rounds(fleet_of(recipe))
    assert_equal(found, wanted)
    for answers in found[:3]:
        assert [d for a in answers for d in a.failures] == [1] * poisoned
    for reason in [f.reason for a in found[0] for f in a.failures.values()]:
        assert reason.startswith("crash:OSError incident=")
        assert "patient" not in reason


def test_an_actor_killed_in_the_middle_of_a_round_is_replaced(cluster, tmp_path, caplog):
    wanted = rounds(InProcessFleet(ToyRecipe().build()))
    found = rounds(fleet_of(ToyRecipe(False, str(tmp_path), 1), cohort_size=1))
    assert_equal(found, wanted)
    assert "its devices are computed again" in caplog.text


def test_an_actor_killed_by_ray_is_replaced(cluster):
    import ray

    with fleet_of(ToyRecipe(), cohort_size=1) as fleet:
        answers = fleet.ask("train", 1, sent(START, DEVICES), START)
        found = [next(answers)]
        ray.kill(fleet._crew._actors[0])
        found += list(answers)
    assert [a.devices for a in found] == [(d,) for d in DEVICES]
    with InProcessFleet(ToyRecipe().build()) as fleet:
        wanted = by_device(fleet.ask("train", 1, sent(START, DEVICES), START))
    for device, weights in by_device(found).items():
        assert_same_bits(weights, wanted[device])


def test_a_machine_that_is_gone_is_done_without(cluster):
    """Its actor waits for another machine; the rest is done by those there are."""
    recipe = ToyRecipe()
    wanted = rounds(InProcessFleet(recipe.build()))
    third = cluster.add_node(num_cpus=1, object_store_memory=2**27)
    cluster.wait_for_nodes()
    with fleet_of(recipe, num_workers=3, cohort_size=1) as fleet:
        answers = fleet.ask("train", 1, sent(START, DEVICES), START)
        found = [next(answers)]
        cluster.remove_node(third, allow_graceful=False)
        found += list(answers)
    ours, theirs = by_device(found), by_device(wanted[0])
    assert list(ours) == list(DEVICES)
    for device in DEVICES:
        assert_same_bits(ours[device], theirs[device])


def test_an_actor_builds_what_the_configuration_says(cluster):
    assembly = assemble(tiny.config())
    start = {n: t.detach() for n, t in assembly.model.state_dict().items()}
    question = ("train", 1, sent(start, range(6)), start)
    engine = {"address": "", "num_workers": 1, "gpus_per_worker": 0.0, "cohort_size": 3}
    with RayFleet(tiny.config(), assembly.worker, **engine, keeper=Keeper()) as fleet:
        found = by_device(fleet.ask(*question))
    with InProcessFleet(assembly.worker, cohort_size=3) as fleet:
        wanted = by_device(fleet.ask(*question))
    assert list(found) == list(range(6))
    for device in range(6):
        assert_same_bits(found[device], wanted[device])


def test_other_data_on_an_actor_s_machine_are_refused(cluster):
    fleet = fleet_of(ToyRecipe(), num_workers=1)
    fleet._crew._manifest = "f" * 64
    with pytest.raises(InputError, match=r"^ray: an actor has other data \(manifest 0000"):
        fleet.__enter__()


def test_more_actors_than_fit_are_refused(cluster):
    with pytest.raises(InputError, match=r"^workers: 50 Ray actors need 50 cores and 0 GPUs"):
        fleet_of(ToyRecipe(), num_workers=50).__enter__()


def test_without_ray_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"^engine: ray is not installed; pip install"):
        fleet_of(ToyRecipe())
