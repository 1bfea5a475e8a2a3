"""Worker processes compute what threads compute, bit for bit, and leave nothing behind."""

import pytest
import tiny
import torch
from toys import (
    Toys,
    assert_close,
    assert_same_bits,
    conv,
    copied,
    initial,
    initials,
    sent,
    split,
    training,
)

from fedadapt.client.adaptations.adabn import AdaBN
from fedadapt.client.adaptations.none import NoAdaptation
from fedadapt.datasets.benchmark import Examples
from fedadapt.messages import Sent
from fedadapt.server.client_pool import EvaluationRequest
from fedadapt.server.client_states import ClientStates
from fedadapt.server.exchange import Exchange
from fedadapt.simulations.assembly import assemble
from fedadapt.simulations.engines import process_worker
from fedadapt.simulations.engines.in_process import InProcessClients
from fedadapt.simulations.engines.processes import ProcessClients
from fedadapt.simulations.engines.scheduler import AHEAD, WAITING
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.shared.fedavg import FedAvg
from fedadapt.strategies.stateful import StrategyWithState
from fedadapt.weights import repeat

SIZES = (5, 12, 10, 7, 9, 3, 8)
SPLITS = [split(count, seed=count) for count in SIZES]
CLIENTS = tuple(range(len(SIZES)))
START = initial(conv())
SECRET = "patient 4711"


def averaged(batch_norm="shared"):
    return FedAvg(training=training(0.1, 2), model=conv(), batch_norm=batch_norm)


def worker(splits=SPLITS, batch_norm="shared", kind=Worker, methods=(), **more):
    return kind(Toys(splits), conv(), averaged(batch_norm), methods, seed=1, **more)


def processes(of, num_workers=2, cohort_size=3, **more):
    return ProcessClients(
        of, num_workers=num_workers, cohort_size=cohort_size, client_states=ClientStates(), **more
    )


def federate(client_pool, batch_norm="shared", number=2):
    """The state after some rounds, the ledger without times, and what clients keep."""
    method, communication = StrategyWithState(averaged(batch_norm)), []
    method.begin(START, CLIENTS)
    with client_pool:
        for n in range(1, number + 1):
            patience = {"min_replies": 0.01, "max_update_norm": 0.0}
            exchange = Exchange(
                client_pool, n, **patience, record=communication.append, progress=lambda _: None
            )
            method.round(exchange, CLIENTS)
    return method.pack()[0], [e._replace(seconds=0.0) for e in communication], client_pool.states()


def assert_equal_runs(found, wanted):
    assert_same_bits(found[0], wanted[0])
    assert found[1] == wanted[1]
    assert found[2].keys() == wanted[2].keys()
    for client, parts in wanted[2].items():
        for part in parts:
            assert_same_bits(found[2][client][part], parts[part])


@pytest.mark.parametrize("batch_norm", ["shared", "local", "reestimate"])
@pytest.mark.parametrize("num_workers", [1, 3])
def test_processes_compute_what_threads_compute(batch_norm, num_workers):
    wanted = federate(InProcessClients(worker(batch_norm=batch_norm)), batch_norm)
    for cohort_size in (1, 3):
        client_pool = processes(worker(batch_norm=batch_norm), num_workers, cohort_size)
        assert_equal_runs(federate(client_pool, batch_norm), wanted)


def test_other_stacks_differ_by_rounding_only():
    wanted, _, _ = federate(InProcessClients(worker(), cohort_size=1))
    for num_workers, cohort_size in ((1, 7), (2, 7), (3, 2)):
        client_pool = processes(worker(execution="stacked-kernels"), num_workers, cohort_size)
        assert_close(federate(client_pool)[0], wanted)


def test_a_model_for_each_client_gets_to_it():
    models = initials(conv(), len(CLIENTS))
    question = Sent(CLIENTS, models, {"server-round": 1})
    with InProcessClients(worker()) as client_pool:
        wanted = [copied(a.update.weights) for a in client_pool.ask("train", 1, question, START)]
    with processes(worker(), cohort_size=1) as client_pool:
        found = list(client_pool.ask("train", 1, question, START))
    assert [a.clients for a in found] == [(d,) for d in CLIENTS]
    for one, other in zip(found, wanted, strict=True):
        assert_same_bits(one.update.weights, other)


def evaluations(client_pool, models, **more):
    with client_pool:
        found = list(
            client_pool.evaluate(EvaluationRequest(3, CLIENTS, models, ("none", "adabn"), **more))
        )
    assert [d for a in found for d in a.clients if d not in a.failures] == sorted(
        d for a in found for d in a.clients
    )
    return [row for answers in found for row in answers.rows], found


def test_processes_score_as_threads_do():
    methods = (NoAdaptation(), AdaBN())
    models = {"base": repeat(START, 7), "personal": initials(conv(), 7, seed=3)}
    wanted, _ = evaluations(InProcessClients(worker(methods=methods)), models, curves=True)
    found, _ = evaluations(processes(worker(methods=methods)), models, curves=True)
    assert found == wanted
    assert len(found) == 7 * 2 * 2 * 2  # clients, models, adaptations, test and adapt images


def test_the_worker_of_each_task_is_asked():
    turned = [s._replace(test=Examples(s.test.inputs, 2 - s.test.labels)) for s in SPLITS]
    methods = (NoAdaptation(), AdaBN())
    both = worker(methods=methods, later_tasks=[worker(turned, methods=methods)])
    models = {"base": repeat(START, 7)}
    for task in (0, 1):
        wanted, _ = evaluations(InProcessClients(both), models, task=task)
        assert evaluations(processes(both), models, task=task)[0] == wanted


POISONED = [SPLITS[0], OSError(f"{SECRET}: unreadable"), *SPLITS[2:]]


@pytest.mark.parametrize("cohort_size", [1, 3])
def test_a_client_that_fails_is_an_error_of_its_own(cohort_size):
    state, communication, _ = federate(
        processes(worker(POISONED), cohort_size=cohort_size), number=1
    )
    wanted, others, _ = federate(InProcessClients(worker(POISONED)), number=1)
    assert_same_bits(state, wanted)
    assert [e.outcome for e in communication] == [e.outcome for e in others]
    [reason] = [e.reason for e in communication if e.reason]
    assert reason.startswith("crash:OSError incident=")
    assert SECRET not in reason
    rows, found = evaluations(
        processes(worker(POISONED, methods=(NoAdaptation(),)), cohort_size=cohort_size),
        {"base": repeat(START, 7)},
    )
    assert [row.client for row in rows] == [0, 2, 3, 4, 5, 6]
    assert [d for a in found for d in a.failures] == [1]


def test_what_a_request_left_unfinished_does_not_get_into_the_next():
    with processes(worker(), cohort_size=1) as client_pool:
        first = client_pool.ask("train", 1, sent(START, CLIENTS), START)
        next(first)
        second = client_pool.ask("train", 2, sent(initial(conv(), 5), CLIENTS), START)
        found = [next(second), next(first), *second]  # side by side, too
        first.close()
        third = list(client_pool.ask("train", 1, sent(START, CLIENTS), START))
    with InProcessClients(worker()) as client_pool:
        ones = list(client_pool.ask("train", 1, sent(START, CLIENTS), START))
        twos = list(client_pool.ask("train", 2, sent(initial(conv(), 5), CLIENTS), START))
    wanted = [twos[0], ones[1], *twos[1:], *ones]
    for one, other in zip([*found, *third], wanted, strict=True):
        assert one.clients == other.clients
        assert_same_bits(one.update.weights, other.update.weights)


def test_answers_stay_what_they_are_as_long_as_they_are_held(monkeypatch):
    monkeypatch.setattr(process_worker, "SMALL", 0)  # everything in shared memory
    with processes(worker(), cohort_size=1) as client_pool:
        held = [list(client_pool.ask("train", n, sent(START, CLIENTS), START)) for n in (1, 2)]
        copies = [[copied(a.update.weights) for a in answers] for answers in held]
        for n in range(3, 6):
            for _ in client_pool.ask("train", n, sent(START, CLIENTS), START):
                pass
    for answers, before in zip(held, copies, strict=True):
        for one, other in zip(answers, before, strict=True):
            assert_same_bits(one.update.weights, other)


def test_memory_is_used_again(monkeypatch):
    """However many clients answer, a few cohorts' models are there at a time."""
    monkeypatch.setattr(process_worker, "SMALL", 0)
    with processes(worker(), cohort_size=1) as client_pool:
        for n in range(1, 11):
            for _ in client_pool.ask("train", n, sent(START, CLIENTS), START):
                pass
        theirs = [len(slot.mapped_block._maps) for slot in client_pool._worker_pool._slots.values()]
        ours = len(client_pool._worker_pool._pool._files)
    assert max(theirs) <= 2 * (2 * WAITING + 3)  # of 140: weights and numbers of each answer
    assert ours <= 2 * AHEAD + 2  # of 80


def test_the_models_sent_are_not_written_to_by_the_workers():
    before = copied(START)
    with processes(worker(), cohort_size=1) as client_pool:
        list(client_pool.ask("train", 1, sent(START, CLIENTS), START))
    assert_same_bits(START, before)


def test_ctrl_c_while_a_client_computes_gets_through():
    class Impatient(Worker):
        def answer(self, *given):
            raise KeyboardInterrupt

    with processes(worker(kind=Impatient)) as client_pool, pytest.raises(KeyboardInterrupt):
        list(client_pool.ask("train", 1, sent(START, CLIENTS), START))


@pytest.mark.slow
def test_processes_that_cannot_be_forked_build_everything_anew(monkeypatch):
    def broken():
        raise RuntimeError("Unable to handle autograd's threading in combination with fork")

    monkeypatch.setattr(process_worker, "_differentiate", broken)
    config = tiny.config()
    assembly = assemble(config)
    start = {n: t.detach() for n, t in assembly.model.state_dict().items()}
    question = sent(start, range(6))
    with InProcessClients(assembly.worker, cohort_size=3) as client_pool:
        wanted = list(client_pool.ask("train", 1, question, start))
    with processes(assembly.worker, num_workers=1, config=config) as client_pool:
        found = list(client_pool.ask("train", 1, question, start))
    for one, another in zip(found, wanted, strict=True):
        assert_same_bits(one.update.weights, another.update.weights)


def test_torch_s_threads_are_as_before():
    torch.set_num_threads(2)
    try:
        with processes(worker()):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
