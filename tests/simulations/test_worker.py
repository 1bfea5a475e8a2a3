"""What any client of a benchmark answers, whichever engine asks."""

from dataclasses import replace

import pytest
import torch
from toys import Toys, assert_same_bits, cohort, conv, dense, images, initial, sent, split, training

from fedadapt.client.adaptations.adabn import AdaBN
from fedadapt.client.adaptations.ewc import Ewc
from fedadapt.client.adaptations.fine_tune import FineTune
from fedadapt.client.adaptations.none import NoAdaptation
from fedadapt.client.evaluation import evaluate
from fedadapt.client.statistics.importance import fisher
from fedadapt.datasets.benchmark import Scaling
from fedadapt.errors import InputError
from fedadapt.simulations.worker import EVALUATE, Worker
from fedadapt.strategies.shared.fedavg import FedAvg
from fedadapt.strategies.shared_model import STATISTICS
from fedadapt.weights import repeat, row

SPLITS = [split(count, seed=count) for count in (5, 12, 10)]
EVERYWHERE = split(1, test=20, seed=77).test
METHODS = (NoAdaptation(), AdaBN(), FineTune(epochs=1))


def make(splits=SPLITS, adaptations=METHODS, **settings):
    strategy = FedAvg(training=training(), model=conv())
    benchmark = Toys(
        splits, unseen=[2], everywhere=EVERYWHERE, scaling=settings.pop("scaling", None)
    )
    return Worker(benchmark, conv(), strategy, adaptations, seed=3, **settings)


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


def test_evaluations_name_model_adaptation_and_test_set():
    worker, start = make(), initial(conv())
    models = {"base": repeat(start, 3), "personal": repeat(initial(conv(), 8), 3)}
    rows = worker.evaluate(6, (0, 1, 2), models, adaptations=METHODS, on_global=True).rows
    assert len(rows) == len(set(r[:7] for r in rows)) == 2 * 3 * 2 * 3
    assert {r.label for r in rows} == {
        f"{m}{a}" for m in ("base", "personal") for a in ("", "+adabn", "+fine-tune")
    }
    assert {(r.client, r.kind, r.seen) for r in rows} == {
        (0, "even", True), (1, "odd", True), (2, "even", False)
    }  # fmt: skip
    assert all(r.round == 6 for r in rows)
    assert all(r.num_examples == (20 if r.split == "global" else 5) for r in rows)
    for d, own in enumerate(SPLITS):
        [bare] = [r for r in rows if (r.client, r.label, r.split) == (d, "base", "test")]
        [score] = evaluate(cohort(conv(), [own]), repeat(start, 1), [own.test])
        assert (bare.accuracy, bare.loss) == pytest.approx((score.accuracy, score.loss))
    [everywhere] = evaluate(cohort(conv(), SPLITS[:1]), repeat(start, 1), [EVERYWHERE])
    bare = [r.loss for r in rows if (r.label, r.split) == ("base", "global")]
    assert bare == pytest.approx([everywhere.loss] * 3)


def test_the_global_test_needs_no_clients_images():
    worker, start = make([RuntimeError("unreadable")] * 3), initial(conv())
    [found] = worker.evaluate_everywhere(2, repeat(start, 1))
    [score] = evaluate(cohort(conv(), SPLITS[:1]), repeat(start, 1), [EVERYWHERE])
    assert (found.client, found.label, found.split) == (-1, "base", "global")
    assert (found.num_examples, found.accuracy) == (20, score.accuracy)
    assert found.loss == pytest.approx(score.loss)


def test_without_a_global_test_there_is_no_row_of_it():
    worker = Worker(Toys(SPLITS), conv(), FedAvg(training=training(), model=conv()), (), seed=1)
    assert worker.evaluate_everywhere(2, repeat(initial(conv()), 1)) == []
    models = {"base": repeat(initial(conv()), 3)}
    rows = worker.evaluate(1, (0, 1, 2), models, adaptations=METHODS[:1], on_global=True).rows
    assert {r.split for r in rows} == {"test"}


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


def test_pooled_answers_reach_the_adaptation_that_asked():
    ewc, start = Ewc(epochs=2, lr=0.01, lam=10.0), initial(conv())
    worker = make(adaptations=[ewc])
    pooled = {n: 0.5 + torch.zeros_like(start[n]) for n, _ in conv().named_parameters()}
    rows = worker.evaluate(
        6, (0, 1), {"base": repeat(start, 2)}, adaptations=[ewc], pooled={"ewc": pooled}
    ).rows
    members = cohort(conv(), SPLITS[:2], clients=(0, 1), seed=3, round=6)
    adapted = ewc.adapt(members, repeat(start, 2), repeat(pooled, 2))
    scores = evaluate(members, adapted, [s.test for s in SPLITS[:2]])
    assert [r.loss for r in rows] == [s.loss for s in scores]
    without = worker.evaluate(6, (0, 1), {"base": repeat(start, 2)}, adaptations=[ewc]).rows
    assert [r.loss for r in without] != [r.loss for r in rows]


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
