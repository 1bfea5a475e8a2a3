"""The engine in this process: numbers do not depend on how it is run, faults stay one client's."""

import math

import pytest
import torch
from toys import (
    Toys,
    assert_close,
    assert_same_bits,
    conv,
    copied,
    dense,
    federate,
    initial,
    sent,
    split,
    training,
)

from fedadapt.client.adaptations.adabn import AdaBN
from fedadapt.client.adaptations.none import NoAdaptation
from fedadapt.datasets.benchmark import Examples
from fedadapt.server.client_pool import EvaluationRequest
from fedadapt.simulations.engines.in_process import InProcessClients
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.shared.fedavg import FedAvg
from fedadapt.weights import repeat

SIZES = (5, 12, 10, 7, 9, 3, 8)
SPLITS = [split(count, seed=count) for count in SIZES]
CLIENTS = tuple(range(len(SIZES)))
SECRET = "patient 4711"


def averaged(batch_norm="shared"):
    return FedAvg(training=training(0.1, 2), model=conv(), batch_norm=batch_norm)


def rounds(splits=SPLITS, number=2, batch_norm="shared", **engine):
    return federate(averaged(batch_norm), Toys(splits), conv(), initial(conv()), number, **engine)


def corrupted(own):
    """Images that train to NaN."""
    return own._replace(train=Examples(own.train.inputs * math.nan, own.train.labels))


def without_seconds(communication):
    return [e._replace(seconds=0.0) for e in communication]


@pytest.mark.parametrize("batch_norm", ["shared", "local", "reestimate"])
def test_a_run_is_the_same_bits_for_every_cohort_size_one_by_one(batch_norm):
    alone = rounds(batch_norm=batch_norm)
    for size in (2, 3):
        other = rounds(batch_norm=batch_norm, cohort_size=size)
        assert_same_bits(other.state, alone.state)
        assert other.client_pool.states().keys() == alone.client_pool.states().keys()
        for d, parts in alone.client_pool.states().items():
            assert_same_bits(other.client_pool.states()[d]["norms"], parts["norms"])
        assert without_seconds(other.communication) == without_seconds(alone.communication)


@pytest.mark.parametrize("batch_norm", ["shared", "local", "reestimate"])
def test_stacking_changes_rounding_only(batch_norm):
    alone = rounds(batch_norm=batch_norm)
    for size, execution in ((3, "stacked-kernels"), (7, "stacked-kernels"), (3, "vmap")):
        engine = {"execution": execution, "cohort_size": size}
        stacked = rounds(batch_norm=batch_norm, **engine)
        assert_close(stacked.state, alone.state)
        assert [e.bytes_up for e in stacked.communication] == [
            e.bytes_up for e in alone.communication
        ]


ENGINES = [
    {},
    {"cohort_size": 3},
    {"cohort_size": 3, "execution": "vmap"},
    {"cohort_size": 3, "execution": "stacked-kernels"},
]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_client_whose_images_cannot_be_read_is_an_error_of_its_own(engine):
    poisoned = [*SPLITS]
    poisoned[1] = OSError(f"{SECRET}: unreadable")
    found = rounds(poisoned, number=1, **engine)
    outcomes = {e.client: e.outcome for e in found.communication}
    assert outcomes == {d: "error" if d == 1 else "accepted" for d in CLIENTS}
    [reason] = [e.reason for e in found.communication if e.reason]
    assert reason.startswith("crash:OSError incident=")
    assert SECRET not in reason
    wanted = federate(averaged(), Toys(poisoned, unseen=[1]), conv(), initial(conv()), 1, **engine)
    assert_close(found.state, wanted.state)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_client_that_trains_to_nan_is_rejected_and_the_rest_is_as_without_it(engine):
    found = rounds([*SPLITS[:1], corrupted(SPLITS[1]), *SPLITS[2:]], number=1, **engine)
    outcomes = {e.client: e.outcome for e in found.communication}
    assert outcomes == {d: "rejected" if d == 1 else "accepted" for d in CLIENTS}
    assert "NaN or infinite" in next(e.reason for e in found.communication if e.client == 1)
    others = federate(averaged(), Toys(SPLITS, unseen=[1]), conv(), initial(conv()), 1).state
    (assert_close if "execution" in engine else assert_same_bits)(found.state, others)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_client_that_diverged_keeps_what_it_had(engine):
    worker = Worker(
        Toys(SPLITS),
        conv(),
        averaged("local"),
        (),
        seed=1,
        execution=engine.get("execution", "sequential"),
    )
    client_pool = InProcessClients(worker, **{k: v for k, v in engine.items() if k != "execution"})
    start = initial(conv())
    with client_pool:
        list(client_pool.ask("train", 1, sent(start, CLIENTS[:3]), start))
        before = {d: copied(parts["norms"]) for d, parts in client_pool.states().items()}
        worker._splits[1] = corrupted(SPLITS[1])
        list(client_pool.ask("train", 2, sent(start, CLIENTS[:3]), start))
    after = {d: parts["norms"] for d, parts in client_pool.states().items()}
    assert_same_bits(after[1], before[1])
    assert not torch.equal(after[0]["body.1.weight"], before[0]["body.1.weight"])
    assert not torch.equal(after[2]["body.1.weight"], before[2]["body.1.weight"])


@pytest.mark.parametrize("cohort_size", [1, 3])
def test_evaluation_goes_on_without_a_client_that_fails(cohort_size):
    poisoned = [*SPLITS]
    poisoned[1] = ValueError(SECRET)
    methods = (NoAdaptation(), AdaBN())
    worker = Worker(Toys(poisoned), conv(), averaged(), methods, seed=1)
    models = {"base": repeat(initial(conv()), 7)}
    request = EvaluationRequest(3, CLIENTS, models, ("none", "adabn"))
    with InProcessClients(worker, cohort_size=cohort_size) as client_pool:
        found = list(client_pool.evaluate(request))
    assert sorted(d for answers in found for d in answers.clients) == [0, 2, 3, 4, 5, 6]
    [(client, failure)] = [f for answers in found for f in answers.failures.items()]
    assert client == 1
    assert failure.outcome == "error"
    assert SECRET not in failure.reason
    rows = [r for answers in found for r in answers.rows]
    assert len(rows) == 6 * 2
    few = EvaluationRequest(3, CLIENTS, models, ("adabn",))
    with InProcessClients(worker, cohort_size=cohort_size) as client_pool:
        some = [r for answers in client_pool.evaluate(few) for r in answers.rows]
    key = lambda r: (r.client, r.adaptation)  # noqa: E731
    assert sorted(some, key=key) == sorted((r for r in rows if r.adaptation == "adabn"), key=key)


def test_ctrl_c_in_a_client_reaches_the_caller():
    class Impatient(Toys):
        def split(self, client):
            raise KeyboardInterrupt

    worker = Worker(
        Impatient(SPLITS), dense(), FedAvg(training=training(), model=dense()), (), seed=1
    )
    start = initial(dense())
    with InProcessClients(worker) as client_pool, pytest.raises(KeyboardInterrupt):
        list(client_pool.ask("train", 1, sent(start, CLIENTS), start))


def test_what_clients_keep_can_be_put_back():
    trial = rounds(batch_norm="local")
    states = {
        d: {p: copied(w) for p, w in parts.items()}
        for d, parts in trial.client_pool.states().items()
    }
    other = InProcessClients(trial.worker)
    other.restore(states)
    assert other.states().keys() == set(CLIENTS)
    start = trial.state
    with other, trial.client_pool:
        ours, theirs = (
            [a.update.weights for a in client_pool.ask("train", 3, sent(start, CLIENTS), start)]
            for client_pool in (other, trial.client_pool)
        )
    for one, another in zip(ours, theirs, strict=True):
        assert_same_bits(one, another)
    # Nothing that was put in is written to, and the two fleets share no memory.
    for d, parts in states.items():
        assert parts["norms"].keys() == trial.client_pool.states()[d]["norms"].keys()
        assert not torch.equal(
            parts["norms"]["body.1.weight"], other.states()[d]["norms"]["body.1.weight"]
        )


def test_torchs_threads_are_as_before():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        worker = Worker(Toys(SPLITS), conv(), averaged(), (), seed=1)
        with InProcessClients(worker) as client_pool:
            assert torch.get_num_threads() == 1
            assert list(client_pool.ready()) == list(CLIENTS)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
