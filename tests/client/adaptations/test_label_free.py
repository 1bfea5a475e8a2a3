"""Adaptations that read no labels: Tent, SHOT-IM, T3A and mixed batch-norm statistics."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from digits import fedavg
from torch import nn
from toys import (
    CLASSES,
    assert_close,
    assert_same_bits,
    cohort,
    conv,
    dense,
    initial,
    initials,
    plain,
    split,
    view_of,
)

from fedadapt.client.adaptations.adabn import AdaBN
from fedadapt.client.adaptations.bn_mix import BnMix
from fedadapt.client.adaptations.shot_im import ShotIm
from fedadapt.client.adaptations.t3a import T3A, rows_of
from fedadapt.client.adaptations.tent import Tent
from fedadapt.datasets.benchmark import Examples
from fedadapt.errors import InputError
from fedadapt.models.network import Network
from fedadapt.objectives import InformationMaximisation, entropy
from fedadapt.selectors import all_but, head, linear_head, norm_affine, norms
from fedadapt.weights import repeat, row, rows, stack

SPLITS = [split(count, adapt=16, test=7, seed=count) for count in (5, 12, 10)]
COUNTERS = "num_batches_tracked"


def normals(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def changed(before, after):
    return {n for n in before if not torch.equal(before[n], after[n])}


def without_counters(weights):
    return {n: t for n, t in weights.items() if not n.endswith(COUNTERS)}


def predictions(model, weights, d):
    net = model.double()
    net.load_state_dict(row(weights, d))
    return net.eval()(SPLITS[d].adapt.inputs)


# Tent


def test_the_gradient_of_the_entropy_is_its_closed_form():
    """For logit c it is -p_c (log p_c + H) / B, which is 0 where all classes are equal."""
    logits = normals(2, 4, 3)
    logits[0, 0] = 0.7
    logits.requires_grad_()
    value = entropy(view_of(logits))
    assert value.shape == (2,)
    value.sum().backward()
    log_p = logits.detach().log_softmax(-1)
    each = -(log_p.exp() * log_p).sum(-1, keepdim=True)
    torch.testing.assert_close(value.detach(), each[..., 0].mean(1))
    torch.testing.assert_close(logits.grad, -log_p.exp() * (log_p + each) / 4)
    assert logits.grad[0, 0].abs().max() < 1e-15


@pytest.mark.parametrize("settings", [{}, {"part": "train", "batch_size": 4, "momentum": 0.5}])
def test_tent_of_rate_0_is_adabn(settings):
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    found = Tent(lr=0.0, **settings).adapt(members, weights)
    settings.pop("momentum", None)
    wanted = AdaBN(**settings).adapt(members, weights)
    assert_same_bits(without_counters(found), without_counters(wanted))


def test_tent_moves_batch_norm_only_towards_surer_predictions():
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    start = AdaBN().adapt(members, weights)
    adapted = Tent(lr=0.05, epochs=20).adapt(members, weights)
    assert changed(weights, adapted) == norms(conv())
    assert changed(start, adapted) >= norm_affine(conv())
    for d in range(3):
        after, before = (predictions(conv(), w, d)[None] for w in (adapted, start))
        assert entropy(view_of(after)) < entropy(view_of(before))


def test_the_statistics_of_tent_fit_its_own_scale_and_shift():
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    adapted = Tent(lr=0.05).adapt(members, weights)
    assert_same_bits(AdaBN().adapt(members, adapted), adapted)


# Mixed statistics


def test_mixed_statistics_by_hand():
    """16 images of mean 2 and variance 4, a prior of 16 of mean 0 and variance 1: 1 and 2.5.

    Those of the two sets together would have a variance of 3.5.
    """

    class OneNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(1), nn.Linear(1, CLASSES)

        def forward(self, x):
            return self.head(self.norm(x))

    values = torch.tensor([0.0, 4.0] * 8, dtype=torch.float64).unsqueeze(1)
    images = Examples(values, torch.zeros(16, dtype=torch.int64))
    own = split(5)._replace(adapt=images)
    start = initial(OneNorm())
    start["norm.running_mean"] = torch.zeros(1, dtype=torch.float64)
    start["norm.running_var"] = torch.ones(1, dtype=torch.float64)
    found = BnMix(prior=16.0, batch_size=16).adapt(cohort(OneNorm(), [own]), repeat(start, 1))
    assert found["norm.running_mean"].item() == 1.0
    assert found["norm.running_var"].item() == 2.5


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_without_a_prior_it_is_adabn_and_with_an_endless_one_it_is_none(kind):
    weights = {
        n: t.to(kind) if t.is_floating_point() else t for n, t in initials(conv(), 3).items()
    }
    splits = [s._replace(adapt=Examples(s.adapt.inputs.to(kind), s.adapt.labels)) for s in SPLITS]
    members = cohort(conv(), splits)
    assert_same_bits(BnMix(prior=0.0).adapt(members, weights), AdaBN().adapt(members, weights))
    assert_same_bits(BnMix(prior=1e300).adapt(members, weights), weights)


def test_a_client_of_more_images_trusts_them_more():
    """The number is that of a client's images, whatever the batches: 4 and 12, prior 4."""
    images = SPLITS[0].adapt.inputs[:4]
    labels = torch.zeros(12, dtype=torch.int64)
    few = SPLITS[0]._replace(adapt=Examples(images, labels[:4]))
    many = SPLITS[0]._replace(adapt=Examples(images.repeat(3, 1, 1, 1), labels))
    weights = repeat(initial(conv()), 2)
    members = cohort(conv(), [few, many])
    found = BnMix(prior=4.0, batch_size=100).adapt(members, weights)
    own = AdaBN(batch_size=100).adapt(members, weights)
    name = "body.1.running_mean"
    way = (found[name] - weights[name]) / (own[name] - weights[name])
    torch.testing.assert_close(way[0], torch.full_like(way[0], 4 / 8))
    torch.testing.assert_close(way[1], torch.full_like(way[1], 12 / 16))


# SHOT-IM


def test_information_is_least_for_sure_and_balanced_predictions():
    """-log C for a batch that is one-hot and balanced, 0 for uniform predictions."""
    sure = 100 * torch.eye(4, dtype=torch.float64).repeat(2, 1)
    uniform = torch.zeros(8, 4, dtype=torch.float64)
    one_class = 100 * torch.eye(4, dtype=torch.float64)[[1] * 8]
    value = InformationMaximisation()(view_of(torch.stack([sure, uniform, one_class])))
    wanted = torch.tensor([-torch.log(torch.tensor(4.0)), 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(value, wanted, atol=1e-4, rtol=0)
    halved = InformationMaximisation(0.5)(view_of(sure[None]))
    torch.testing.assert_close(halved, wanted[:1] / 2, atol=1e-4, rtol=0)


@pytest.mark.parametrize("model", [conv, plain])
def test_shot_im_moves_the_body_and_holds_the_head(model):
    weights, members = initials(model(), 3), cohort(model(), SPLITS)
    found = ShotIm(epochs=3).adapt(members, weights)
    # What a bias adds before batch norm is taken away again: it has no gradient.
    assert changed(weights, found) >= all_but(head)(model()) - {"body.3.bias"}
    assert_same_bits({n: found[n] for n in head(model())}, {n: weights[n] for n in head(model())})


def test_shot_im_descends_its_objective():
    weights, members = initials(plain(), 3), cohort(plain(), SPLITS)
    found = ShotIm(epochs=20, lr=0.05).adapt(members, weights)
    value = InformationMaximisation()
    for d in range(3):
        after, before = (predictions(plain(), w, d)[None] for w in (found, weights))
        assert value(view_of(after)) < value(view_of(before))


def largest_class(learnt, **settings):
    """Share of a client's images that get its most frequent prediction, mean over clients."""
    worker, clients = learnt.trial.worker, range(learnt.benchmark.num_clients)
    members = worker.cohort(clients, learnt.rounds)
    adapted = ShotIm(**settings).adapt(members, learnt.trial.method.models(clients)["base"])
    images = torch.stack([members.scaling(own.adapt.inputs) for own in members.splits])
    found = members.logits(adapted, images).argmax(2)
    return sum(row.bincount().max().item() / len(row) for row in found) / len(found)


def test_without_the_diversity_term_unsure_predictions_run_into_one_class():
    """Images of all digits, and a model that does not know them: seen were 0.55 and 0.25."""
    learnt = fedavg("swapped-labels", 1)
    assert largest_class(learnt, diversity=0.0) > 0.45
    assert largest_class(learnt) < 0.35


def test_the_diversity_term_does_harm_where_classes_are_not_equally_frequent():
    """Label shift: seen were 0.89 without and 0.69 with the term."""
    without, with_it = (
        fedavg("dirichlet", 1).accuracies("base", "shot-im", f"shot-im.diversity={weight}").mean()
        for weight in (0, 1)
    )
    assert without > with_it + 0.1


# T3A


def rows_of_one(weight, bias, features, most):
    bias = None if bias is None else bias.unsqueeze(0)
    return rows_of(weight.unsqueeze(0), bias, features.unsqueeze(0), most)[0]


def test_without_images_the_rows_are_the_directions_of_the_old_ones():
    weight, bias = torch.eye(3, dtype=torch.float64) * torch.tensor([[2.0], [1.0], [3.0]]), None
    nothing = torch.zeros(0, 3, dtype=torch.float64)
    for most in (0, 5):
        found = rows_of_one(weight.double(), bias, nothing, most)
        torch.testing.assert_close(found, torch.eye(3, dtype=torch.float64))


def test_features_join_the_class_predicted_for_them_by_hand():
    """Class 0 has row (1, 0) and gets (3, 4), whose direction is (0.6, 0.8), by its bias."""
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    bias = torch.tensor([1.5, 0.0], dtype=torch.float64)  # of its own row: class 0, not 1
    features = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    found = rows_of_one(weight, bias, features, 0)
    joined = torch.tensor([1.0 + 0.0 + 0.6, 0.0 + 1.0 + 0.8], dtype=torch.float64)
    torch.testing.assert_close(found[0], joined / joined.norm())
    torch.testing.assert_close(found[1], weight[1])  # nothing belongs to it: its own row stays


def test_the_surest_supports_are_those_that_stay():
    weight = torch.eye(2, dtype=torch.float64)
    features = torch.tensor([[10.0, 1.0], [5.0, 0.0], [0.9, 0.8]], dtype=torch.float64)
    found = rows_of_one(weight, None, features, 1)
    torch.testing.assert_close(found[0], F.normalize(features[0], dim=0))  # of margin 9
    assert_same_bits({"w": found[1]}, {"w": weight[1]})
    two = F.normalize(F.normalize(features[:2], dim=1).sum(0), dim=0)
    torch.testing.assert_close(rows_of_one(weight, None, features, 2)[0], two)


def test_a_feature_that_is_no_number_is_not_among_the_surest():
    weight = torch.eye(2, dtype=torch.float64)
    good = torch.tensor([[10.0, 1.0], [5.0, 0.0]], dtype=torch.float64)
    bad = torch.cat([good, torch.full((1, 2), torch.nan, dtype=torch.float64)])
    assert torch.equal(rows_of_one(weight, None, bad, 2), rows_of_one(weight, None, good, 2))


@pytest.mark.parametrize("supports", [0, 2])
def test_the_head_of_t3a_has_directions_and_no_bias_and_the_order_of_images_does_not_matter(
    supports,
):
    weights, method = initials(conv(), 3), T3A(supports=supports, batch_size=5)
    found = method.adapt(cohort(conv(), SPLITS), weights)
    assert changed(weights, found) == head(conv())
    torch.testing.assert_close(found["head.weight"].norm(dim=2), torch.ones(3, 3).double())
    assert not found["head.bias"].any()
    turned = [
        s._replace(adapt=Examples(s.adapt.inputs.flip(0), s.adapt.labels.flip(0))) for s in SPLITS
    ]
    assert_close(method.adapt(cohort(conv(), turned), weights), found)
    # As little as by batches.
    assert_close(replace(method, batch_size=100).adapt(cohort(conv(), SPLITS), weights), found)


def test_the_rows_of_t3a_are_those_of_its_features():
    weights, members = initials(dense(), 3), cohort(dense(), SPLITS)
    found = T3A().adapt(members, weights)
    features = members.features(weights, torch.stack([s.adapt.inputs for s in SPLITS]))
    for d in range(3):
        w, b = weights["head.weight"][d], weights["head.bias"][d]
        torch.testing.assert_close(found["head.weight"][d], rows_of_one(w, b, features[d], 5))


@pytest.mark.parametrize("supports", [0, 1, 5])
def test_clients_with_different_numbers_of_images_have_the_rows_that_each_has_alone(supports):
    splits = [
        s._replace(adapt=Examples(s.adapt.inputs[:n], s.adapt.labels[:n]))
        for s, n in zip(SPLITS, (2, 4, 2), strict=True)
    ]
    weights, members = initials(dense(), 3), cohort(dense(), splits)
    found = T3A(supports=supports).adapt(members, weights)
    for d in range(3):
        alone = T3A(supports=supports).adapt(members.only(d), rows(weights, d, d + 1))
        assert_close(rows(found, d, d + 1), alone)


def test_a_head_that_is_no_linear_layer_is_refused_in_a_line():
    class TwoLayers(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Sequential(nn.Linear(16, 4), nn.Linear(4, CLASSES))

        def forward(self, x):
            return self.head(x.flatten(1))

    weights = repeat(initial(TwoLayers()), 3)
    with pytest.raises(InputError, match=r"^head: it must be one nn\.Linear here, not Sequential$"):
        T3A().adapt(cohort(TwoLayers(), SPLITS), weights)


def test_a_linear_head_is_found_by_its_names():
    assert linear_head(conv()) == ("head.weight", "head.bias")
    assert linear_head(nn.Linear(3, 2, bias=False)) == ("weight", None)
    body = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    network = Network(body, 5, CLASSES)
    network.head = nn.Linear(5, CLASSES, bias=False)
    weights = stack([initial(network, seed) for seed in range(3)])
    found = T3A().adapt(cohort(network, SPLITS), weights)
    assert changed(weights, found) == {"head.weight"}
