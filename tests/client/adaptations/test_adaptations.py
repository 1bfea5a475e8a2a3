"""What each local adaptation may and may not change, and what it is equal to."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from toys import (
    CLASSES,
    Quadratic,
    assert_close,
    assert_same_bits,
    cohort,
    conv,
    copied,
    dense,
    initials,
    plain,
    quadratic_split,
    split,
)

from fedadapt.client.adaptations.adabn import AdaBN
from fedadapt.client.adaptations.adabn_s import AdaBNS
from fedadapt.client.adaptations.atp import Atp
from fedadapt.client.adaptations.bn_mix import BnMix
from fedadapt.client.adaptations.class_selection import ClassSelection
from fedadapt.client.adaptations.ewc import Ewc
from fedadapt.client.adaptations.fine_tune import FineTune
from fedadapt.client.adaptations.kd import Kd
from fedadapt.client.adaptations.lp_ft import LpFt
from fedadapt.client.adaptations.none import NoAdaptation
from fedadapt.client.adaptations.prototype import Prototype
from fedadapt.client.adaptations.registry import ADAPTATIONS
from fedadapt.client.adaptations.shot_im import ShotIm
from fedadapt.client.adaptations.t3a import T3A
from fedadapt.client.adaptations.tent import Tent
from fedadapt.client.cohort import Schedule
from fedadapt.client.evaluation import evaluate
from fedadapt.client.fit import Sgd, fit
from fedadapt.client.statistics.batch_norm import batch_norm_statistics
from fedadapt.client.statistics.importance import fisher
from fedadapt.models.network import Network
from fedadapt.objectives import Distillation
from fedadapt.objectives import Ewc as Elastic
from fedadapt.selectors import head, norm_affine, norm_statistics
from fedadapt.weights import row

SPLITS = [split(count, adapt=9, test=7, seed=count) for count in (5, 12, 10)]
METHODS = [
    NoAdaptation(),
    AdaBN(batch_size=4),
    AdaBNS(epochs=2, lr=0.1, batch_size=4),
    FineTune(epochs=2, lr=0.1),
    Kd(epochs=2, lr=0.1),
    Ewc(epochs=2, lr=0.01, lam=10.0),
    LpFt(epochs=2, head_lr=0.1, lr=0.1, batch_size=4),
    Prototype(blend=0.5, batch_size=4),
    Tent(epochs=2, lr=0.1, batch_size=4),
    BnMix(prior=3.0, batch_size=4),
    ShotIm(epochs=2, lr=0.1, batch_size=4),
    Atp(batch_size=4),
    T3A(supports=2, batch_size=4),
    ClassSelection(),
]


def changed(before, after):
    """Names whose tensors differ on every client."""
    return {
        n
        for n in before
        if all(not torch.equal(a, b) for a, b in zip(before[n], after[n], strict=True))
    }


def parameters(model):
    return {n for n, _ in model.named_parameters()}


def statistics(model):
    return {n for n in norm_statistics(model) if not n.endswith("num_batches_tracked")}


def test_all_of_ours_are_tested_here():
    assert {m.name for m in METHODS} == set(ADAPTATIONS.ours)


@pytest.mark.parametrize("execution", ["sequential", "per-client", "stacked-kernels", "vmap"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_the_argument_is_not_moved_and_names_and_types_stay(method, execution):
    weights = initials(conv(), 3)
    before = copied(weights)
    found = method.adapt(cohort(conv(), SPLITS, execution), weights)
    assert_same_bits(weights, before)
    kinds = {n: (t.shape, t.dtype) for n, t in found.items()}
    assert kinds == {n: (t.shape, t.dtype) for n, t in weights.items()}


@pytest.mark.parametrize("execution", ["per-client", "stacked-kernels", "vmap"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_stacked_is_one_by_one_and_other_clients_do_not_matter(method, execution):
    weights = initials(conv(), 3)
    together = method.adapt(cohort(conv(), SPLITS, execution), weights)
    for d in range(3):
        own = {n: t[d : d + 1] for n, t in weights.items()}
        alone = method.adapt(cohort(conv(), SPLITS).only(d), own)
        assert_close({n: t[d : d + 1] for n, t in together.items()}, alone)


def test_none_is_the_model_as_it_came():
    weights = initials(conv(), 3)
    assert NoAdaptation().adapt(cohort(conv(), SPLITS), weights) is weights


def test_adabn_sets_the_statistics_the_model_is_evaluated_with():
    # The released code of the paper copied scale and shift and left the statistics behind.
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    found = AdaBN(batch_size=4).adapt(members, weights)
    assert changed(weights, found) == statistics(conv())
    for d, own in enumerate(SPLITS):
        x = torch.nn.functional.conv2d(own.adapt.inputs, weights["body.0.weight"][d], padding=1)
        torch.testing.assert_close(found["body.1.running_mean"][d], x.mean((0, 2, 3)))
        variance = x.var((0, 2, 3), unbiased=False)
        torch.testing.assert_close(found["body.1.running_var"][d], variance)
    tests = [own.test for own in SPLITS]
    before, after = (evaluate(members, w, tests) for w in (weights, found))
    assert all(b.loss != a.loss for b, a in zip(before, after, strict=True))


def test_adabn_does_not_look_at_labels():
    weights = initials(conv(), 3)
    permuted = [
        s._replace(adapt=replace(s.adapt, labels=(s.adapt.labels + 1) % CLASSES)) for s in SPLITS
    ]
    one, other = (AdaBN().adapt(cohort(conv(), some), weights) for some in (SPLITS, permuted))
    assert_same_bits(one, other)
    assert not AdaBN.needs_labels


def test_adabn_s_moves_scale_and_shift_and_statistics_only():
    weights = initials(conv(), 3)
    found = AdaBNS(lr=0.1, batch_size=4).adapt(cohort(conv(), SPLITS), weights)
    assert changed(weights, found) == norm_affine(conv()) | norm_statistics(conv())
    trained = changed(weights, found) & parameters(conv())
    assert sum(weights[n][0].numel() for n in trained) == 2 * (3 + 4)


def test_adabn_s_ends_with_the_statistics_of_its_own_scale_and_shift():
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    found = AdaBNS(lr=0.1, batch_size=100).adapt(members, weights)
    again = batch_norm_statistics(members, found, Schedule(100, part="adapt"))
    assert_close({n: found[n] for n in again}, again)


@pytest.mark.parametrize("method", [AdaBN(), AdaBNS(lr=0.1)], ids=lambda m: m.name)
def test_dropout_is_off_while_statistics_are_taken(method):
    def make(p):
        body = nn.Sequential(nn.Flatten(), nn.Dropout(p), nn.Linear(16, 5), nn.BatchNorm1d(5))
        return Network(body, 5, CLASSES)

    weights = initials(make(0), 3)
    with_it, without = (method.adapt(cohort(make(p), SPLITS), weights) for p in (0.9, 0.0))
    assert_same_bits(with_it, without)


@pytest.mark.parametrize("part", ["train", "adapt"])
@pytest.mark.parametrize(
    "method",
    # Without an answer ATP moves nothing, and a client may have the same classes in both parts.
    [m for m in METHODS[1:] if m.name not in ("atp", "class-selection")],
    ids=lambda m: m.name,
)
def test_the_part_is_the_one_asked_for(method, part):
    """The other images are not looked at: they could be anything. Of EWC neither by its Fisher."""
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    adaptation = replace(method, part=part)
    adapted = adaptation.adapt(members, weights)
    other = "adapt" if part == "train" else "train"
    anything = [s._replace(**{other: s.test}) for s in SPLITS]
    assert_same_bits(adaptation.adapt(cohort(conv(), anything), weights), adapted)
    swapped = [s._replace(train=s.adapt, adapt=s.train) for s in SPLITS]
    twin = replace(method, part=other)
    assert_same_bits(twin.adapt(cohort(conv(), swapped), weights), adapted)
    assert changed(twin.adapt(members, weights), adapted)


def test_fine_tuning_is_fit():
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    found = FineTune(epochs=3, lr=0.1, momentum=0.8, weight_decay=0.1, batch_size=4).adapt(
        members, weights
    )
    wanted = fit(members, weights, Sgd(0.1, 0.8, 0.1), Schedule(4, 3, "train", "fine-tune"))
    assert_same_bits(found, wanted.weights)
    assert changed(weights, found) >= parameters(conv())


@pytest.mark.parametrize("method", [FineTune, Kd, Ewc])
@pytest.mark.parametrize(("word", "selector"), [("head", head), ("norm-affine", norm_affine)])
def test_a_part_of_the_network_is_tuned_and_the_rest_is_held(method, word, selector):
    weights = initials(conv(), 3)
    tuned = method(epochs=2, lr=0.01, trainable=word)
    found = tuned.adapt(cohort(conv(), SPLITS), weights)
    assert changed(weights, found) & parameters(conv()) == selector(conv())


def test_distillation_keeps_closer_to_the_model_received():
    weights, members = initials(plain(), 3), cohort(plain(), SPLITS)
    tuned = FineTune(epochs=20, lr=0.1).adapt(members, weights)
    states = Kd(epochs=20, lr=0.1).adapt(members, weights)
    variant = [sum(((a[n] - weights[n]) ** 2).sum() for n in weights) for a in (tuned, states)]
    assert 0 < variant[1] < 0.1 * variant[0]
    objective = Distillation(0.95, 6.0)
    schedule = Schedule(32, 20, "train", "kd")
    wanted = fit(
        members, weights, Sgd(0.1, 0.5), schedule, objective=objective, memory={"teacher": weights}
    )
    assert_same_bits(states, wanted.weights)


def test_distillation_from_itself_is_a_twentieth_of_cross_entropy():
    weights, members = initials(plain(), 3), cohort(plain(), SPLITS)
    one_step = {"epochs": 1, "momentum": 0.0, "batch_size": 100}
    states = Kd(lr=0.1, **one_step).adapt(members, weights)
    assert_close(states, FineTune(lr=0.05 * 0.1, **one_step).adapt(members, weights))


def test_ewc_takes_a_first_step_like_fine_tuning():
    weights, members = initials(plain(), 3), cohort(plain(), SPLITS)
    one_step = {"epochs": 1, "lr": 0.1, "batch_size": 100}
    assert_close(
        Ewc(**one_step).adapt(members, weights), FineTune(**one_step).adapt(members, weights)
    )


@pytest.mark.parametrize("lam", [0.0, 1.0, 1e6])
def test_ewc_settles_between_its_images_and_the_model_received(lam):
    # F(w) = h/2 (w - t)^2, so the Fisher at w = a is (h (a - t))^2.
    h, t, a = 2.0, 1.5, 0.5
    pull = lam * (h * (a - t)) ** 2
    members = cohort(Quadratic(), [quadratic_split(h, t)])
    method = Ewc(lam=lam, epochs=60, lr=0.5 / (h + pull), momentum=0.0, fisher="own")
    found = method.adapt(members, {"w": torch.tensor([a], dtype=torch.float64)})
    assert found["w"].item() == pytest.approx((h * t + pull * a) / (h + pull), rel=1e-9)


def test_ewc_takes_the_federations_fisher_unless_told_otherwise():
    weights, members = initials(plain(), 3), cohort(plain(), SPLITS)
    of_all = {n: 3 + torch.zeros_like(t) for n, t in weights.items()}
    method = Ewc(epochs=2, lr=0.01, lam=2.0, batch_size=4)
    own = fisher(members, weights, granularity="batch", batch_size=4)

    def wanted(importance):
        memory = {"anchor": weights, "importance": importance}
        schedule = Schedule(4, 2, "train", "ewc")
        return fit(
            members, weights, Sgd(0.01, 0.5), schedule, objective=Elastic(2.0), memory=memory
        ).weights

    assert_same_bits(method.adapt(members, weights, of_all), wanted(of_all))
    assert_same_bits(replace(method, fisher="own").adapt(members, weights, of_all), wanted(own))
    assert_same_bits(method.adapt(members, weights), wanted(own))


def test_adaptations_of_one_client_draw_different_batches():
    weights, members = initials(plain(), 3), cohort(plain(), SPLITS)
    settings = {"epochs": 1, "lr": 0.1, "batch_size": 4}
    free = Kd(share=0.0, **settings).adapt(members, weights)
    assert not torch.isclose(
        free["head.weight"], FineTune(**settings).adapt(members, weights)["head.weight"]
    ).all()


@pytest.mark.parametrize(("pooled", "cut"), [(1e9, 1.0), (1.0, 1.0), (0.4, 0.4)])
def test_the_importance_of_ewc_is_cut_where_one_step_pulls_all_the_way_back(pooled, cut):
    """Two steps in closed form: w1 = a - lr h (a - t); w2 = w1 - lr h (w1 - t) - cut (w1 - a)."""
    h, t, a, lr, lam = 2.0, 1.5, 0.5, 0.125, 8.0  # 1 / (lr lam) = 1
    members = cohort(Quadratic(), [quadratic_split(h, t)])
    start, importance = (torch.tensor([v], dtype=torch.float64) for v in (a, pooled))
    ewc = Ewc(lam=lam, lr=lr, epochs=2, momentum=0.0)
    once = a - lr * h * (a - t)
    twice = once - lr * h * (once - t) - cut * (once - a)
    adapted = ewc.adapt(members, {"w": start}, {"w": importance})
    assert adapted["w"].item() == pytest.approx(twice, rel=1e-12)


def test_ewc_asks_for_the_fisher_of_every_parameter_unless_it_takes_the_clients_own():
    ewc, members = Ewc(batch_size=4, part="adapt"), cohort(conv(), SPLITS)
    query, weights = ewc.query(), initials(conv(), 3)
    assert query.action == "query.ewc_fisher"
    expected = query.expected(conv(), row(weights, 0))
    assert expected.keys() == parameters(conv())
    answer = query.answer(members, weights)
    assert_same_bits(
        answer, fisher(members, weights, part="adapt", granularity="batch", batch_size=4)
    )
    assert {n: t.shape[1:] for n, t in answer.items()} == {n: t.shape for n, t in expected.items()}
    assert Ewc(fisher="own").query() is None
    assert [method.name for method in METHODS if method.query() is not None] == ["ewc", "atp"]


def test_one_dense_network_with_batch_norm_goes_through_all_of_them():
    for method in METHODS:
        assert method.adapt(cohort(dense(), SPLITS, "stacked-kernels"), initials(dense(), 3))
