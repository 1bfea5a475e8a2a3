"""What models are worth on clients: which rows there are, and on which images."""

import pytest
import torch
from toy_workers import EVERYWHERE, METHODS, SPLITS, make
from toys import Toys, cohort, conv, initial, training

from fedadapt.client.adaptations.ewc import Ewc
from fedadapt.client.evaluation import evaluate
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.shared.fedavg import FedAvg
from fedadapt.weights import repeat


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
