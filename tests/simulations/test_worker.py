"""What any client of a benchmark answers, whichever engine asks."""

from dataclasses import replace

import pytest
import torch
from toy_workers import SPLITS, make
from toys import Toys, assert_same_bits, cohort, conv, dense, images, initial, sent, split, training

from fedadapt.client.adaptations.ewc import Ewc
from fedadapt.client.adaptations.none import NoAdaptation
from fedadapt.client.evaluation import evaluate
from fedadapt.client.statistics.importance import fisher
from fedadapt.datasets.benchmark import Scaling
from fedadapt.errors import InputError
from fedadapt.simulations.worker import EVALUATE, Worker
from fedadapt.strategies.shared.fedavg import FedAvg
from fedadapt.strategies.shared_model import STATISTICS
from fedadapt.weights import repeat, row


def test_an_answer_is_the_strategys_for_the_clients_asked():
    worker, start = make(), initial(conv())
    found = worker.answer("train", 4, sent(start, (0, 2)))
    members = cohort(conv(), [SPLITS[0], SPLITS[2]], clients=(0, 2), seed=3, round=4)
    wanted = worker.strategy.answer("train", members, sent(start, (0, 2)))
    assert_same_bits(found.weights, wanted.weights)
    assert found.num_examples.tolist() == [5, 10]
    assert not any(t.requires_grad for t in found.weights.values())
    later = worker.answer("train", 5, sent(start, (2,)))
    assert not torch.isclose(later.metrics["loss"], found.metrics["loss"][1])


def test_what_a_strategy_learns_while_it_runs_is_of_the_adapt_images():
    worker, start = make(), initial(conv())
    found = worker.answer(EVALUATE, 1, sent(start, (0, 1)))
    members = cohort(conv(), SPLITS[:2])
    scores = evaluate(members, repeat(start, 2), [s.adapt for s in SPLITS[:2]])
    assert found.weights == {}
    assert found.num_examples.tolist() == [6, 6]
    torch.testing.assert_close(found.metrics["loss"].tolist(), [s.loss for s in scores])
    assert found.metrics["accuracy"].tolist() == [s.accuracy for s in scores]


@pytest.mark.parametrize("method", [Ewc(), Ewc(batch_size=4), Ewc(batch_size=4, part="adapt")])
def test_the_federations_fisher_is_measured_as_a_clients_own(method):
    worker, start = make(adaptations=[method]), initial(conv())
    found = worker.answer("query.ewc_fisher", 0, sent(start, (0, 1)))
    wanted = fisher(
        cohort(conv(), SPLITS[:2], clients=(0, 1), seed=3),
        repeat(start, 2),
        part=method.part,
        granularity="batch",
        batch_size=method.batch_size,
    )
    assert_same_bits(found.weights, wanted)


@pytest.mark.parametrize("method", [NoAdaptation(), Ewc(fisher="own")])
@pytest.mark.parametrize("action", ["query.ewc_fisher", "query.secrets", "query"])
def test_a_query_that_nothing_of_the_run_declares_is_refused(method, action):
    worker = make(adaptations=[method])
    with pytest.raises(InputError, match="neither the strategy nor an adaptation of this run"):
        worker.answer(action, 0, sent(initial(conv()), (0,)))


def test_a_query_belongs_to_one_who_asks():
    class Same(Ewc):
        def query(self):
            return replace(super().query(), action=STATISTICS)

    with pytest.raises(InputError, match=r"query\.moments is the strategy's own query"):
        make(adaptations=[Same()])


def test_the_networks_own_weights_are_never_read():
    model = conv()
    worker = Worker(Toys(SPLITS), model, FedAvg(training=training(), model=model), (), seed=3)
    with torch.no_grad():
        for t in model.parameters():
            t.fill_(torch.nan)
    assert all(
        t.isfinite().all()
        for t in worker.answer("train", 1, sent(initial(conv()), (0,))).weights.values()
    )
    assert {t.device.type for t in worker.cohort((0,), 1).model.state_dict().values()} == {"meta"}


def test_images_are_made_once():
    class Counting(Toys):
        asked = 0

        def split(self, client):
            self.asked += 1
            return super().split(client)

    benchmark = Counting(SPLITS)
    worker = Worker(benchmark, conv(), FedAvg(training=training(), model=conv()), (), seed=3)
    for number in range(3):
        worker.cohort((0, 1), number)
    assert benchmark.asked == 2


def test_bytes_are_scaled_to_float32():
    scaling = Scaling((0.5,), (0.25,))
    splits = [split(count, seed=count, make=images) for count in (5, 12, 10)]
    worker = Worker(
        Toys(splits, scaling=scaling),
        dense(),
        FedAvg(training=training(), model=dense()),
        (),
        seed=3,
    )
    start = {n: t.float() if t.is_floating_point() else t for n, t in initial(dense()).items()}
    found = worker.answer("train", 1, sent(start, (0, 1, 2)))
    assert {t.dtype for t in found.weights.values()} == {torch.float32, torch.int64}
    as_floats = [
        s._replace(train=type(s.train)((s.train.inputs.float() / 255 - 0.5) / 0.25, s.train.labels))
        for s in splits
    ]
    members = cohort(dense(), as_floats, clients=(0, 1, 2), seed=3, round=1)
    wanted = worker.strategy.answer("train", members, sent(start, (0, 1, 2)))
    torch.testing.assert_close(row(found.weights, 1), row(wanted.weights, 1), rtol=1e-4, atol=1e-5)
