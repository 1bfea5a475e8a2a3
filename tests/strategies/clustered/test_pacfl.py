"""PACFL: angles between subspaces by hand, who joins whom, and what it can and cannot see."""

import numpy as np
import pytest
import torch
from digits import fedavg, learn
from sklearn.metrics import adjusted_rand_score
from toys import Toys, cohort, federate, initial, plain, training

from fedadapt.client.statistics.subspaces import class_subspaces
from fedadapt.datasets.benchmark import Examples, Split
from fedadapt.messages import Answers
from fedadapt.server.clustering.principal_angles import angles_between
from fedadapt.strategies.clustered.pacfl import PACFL
from fedadapt.weights import row


def examples(pixels, count, seed, labels=3):
    """Images that are not zero in these of their 16 pixels."""
    random = np.random.default_rng(seed)
    images = np.zeros((count, 16))
    images[:, pixels] = random.normal(size=(count, len(pixels)))
    labels = torch.arange(count) % labels
    return Examples(torch.from_numpy(images.reshape(count, 1, 4, 4)), labels)


def client(pixels, seed=0, count=12, labels=3):
    part = examples(pixels, count, seed, labels)
    return Split(part, part, part)


def bases(*splits, per_class=2):
    return class_subspaces(cohort(plain(), splits), per_class, 3)


LEFT, RIGHT = range(8), range(8, 16)


def test_the_same_images_are_at_0_and_images_without_a_pixel_in_common_at_90_degrees():
    found = bases(client(LEFT), client(LEFT), client(RIGHT))
    for smallest in (False, True):
        angles = angles_between(found.float(), found.float(), smallest=smallest)
        wanted = torch.tensor([[0, 0, 90], [0, 0, 90], [90, 90, 0]]).double()
        torch.testing.assert_close(angles, wanted, rtol=0, atol=0.03)


def test_by_hand_in_three_dimensions():
    def plane_of(*columns):
        return torch.nn.functional.pad(torch.tensor(columns).double().T, (0, 1))[None]

    flat = plane_of((1, 0, 0), (0, 1, 0))
    # Turned by 60 degrees around the first axis, and a line at 60 degrees to the plane.
    turned = plane_of((1, 0, 0), (0, 0.5, 3**0.5 / 2))
    line = torch.nn.functional.pad(torch.tensor([[0.0, -0.5, 0.75**0.5]]).double().T, (0, 2))[None]
    assert angles_between(flat, turned).item() == pytest.approx(30)
    assert angles_between(flat, turned, smallest=True).item() == pytest.approx(0, abs=1e-5)
    assert angles_between(flat, line).item() == pytest.approx(60)
    assert angles_between(line, flat).item() == pytest.approx(60)
    # The sign of a singular vector says nothing.
    assert angles_between(-flat, turned).item() == pytest.approx(30)


def test_turning_all_images_changes_no_angle():
    splits = [client(range(d, 14), seed=d) for d in range(4)]
    matrix = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0]
    turn = torch.from_numpy(matrix)

    def turned(part):
        return Examples((part.inputs.flatten(1) @ turn).view(-1, 1, 4, 4), part.labels)

    before = bases(*splits)
    after = bases(*(Split(*(turned(part) for part in split)) for split in splits))
    found = angles_between(after, after)
    torch.testing.assert_close(found, angles_between(before, before), rtol=0, atol=1e-4)
    assert found[0, 3] > 5


def test_a_class_counts_for_as_many_directions_as_it_has_images():
    one = class_subspaces(cohort(plain(), [client(LEFT, count=4)]), 3, 3)[0]
    assert one.shape == (16, 9)
    used = one.any(0)
    assert used.tolist() == [True] * 4 + [False] * 5  # classes of 2, 1 and 1 images
    torch.testing.assert_close(one.T @ one, torch.diag(used.double()))


def strategy(**how):
    given = {"threshold": 30.0, "per_class": 2, **how}
    return PACFL(model=plain(), image_shape=(1, 4, 4), training=training(), **given)


def answered(method, state, splits, round=1):
    """The state after those of the clients asked that are in ``splits`` have answered."""
    sent = method.send(state, "query.subspaces", round, ())
    asked = [d for d in sent.clients if d in splits]
    members = cohort(plain(), [splits[d] for d in asked], clients=tuple(asked))
    told = method.answer("query.subspaces", members, sent)
    return method.merge(state, "query.subspaces", round, [Answers(tuple(asked), told)])


def test_clients_are_asked_once_and_late_ones_and_newcomers_join_the_nearest():
    sides = {0: LEFT, 1: RIGHT, 2: LEFT, 3: RIGHT, 4: RIGHT, 5: LEFT}
    splits = {d: client(side, seed=d, count=60) for d, side in sides.items()}
    method = strategy(newcomers=(5,), per_class=8)
    state = method.begin(initial(plain()), range(5))
    state = answered(method, state, {d: s for d, s in splits.items() if d != 4})
    assert state.clusters.of == {0: 0, 1: 1, 2: 0, 3: 1, 5: 0}
    assert method.actions(state, 2) == ("query.subspaces", "train")
    assert method.send(state, "query.subspaces", 2, ()).clients == (4,)
    state = answered(method, state, splits, 2)
    assert state.clusters.of == {0: 0, 1: 1, 2: 0, 3: 1, 4: 1, 5: 0}
    assert method.actions(state, 3) == ("train",)


def test_the_threshold_says_where_clusters_stay_apart():
    splits = [client(range(3 * d, 3 * d + 6), seed=d, count=90) for d in range(3)]
    angles = angles_between(*[bases(*splits, per_class=6)] * 2)
    assert 40 < angles[0, 1] < angles[0, 2] == pytest.approx(90, abs=1e-4)
    for threshold, wanted in ((30.0, 3), (60.0, 2), (89.0, 1)):
        method = strategy(threshold=threshold, per_class=6)
        state = answered(method, method.begin(initial(plain()), range(3)), dict(enumerate(splits)))
        assert len(state.clusters.models) == wanted


def test_who_has_no_cluster_has_the_model_of_the_largest():
    splits = [client(LEFT, 1, 60), client(RIGHT, 2, 60), client(RIGHT, 3, 60)]
    trial = federate(strategy(per_class=8), Toys(splits), plain(), initial(plain()), 2)
    models = trial.method.models([0, 1, 77])
    found = {n: t for n, t in models["personal"].items()}
    assert torch.equal(found["head.bias"][1], found["head.bias"][2])
    assert torch.equal(models["base"]["head.bias"][0], found["head.bias"][1])
    assert not torch.equal(found["head.bias"][0], found["head.bias"][1])
    assert {e.bytes_down for e in trial.communication if e.action == "query.subspaces"} == {0}
    described = trial.method.describe()["groups"]
    assert described["unit"] == "mean principal angle, degrees"
    assert np.array(described["distances"])[0, 1] == pytest.approx(90, abs=0.01)
    assert row(models["base"], 0).keys() == plain().state_dict().keys()


def test_two_groups_are_found_and_each_has_a_better_model():
    # Seen: .975 .981 .988, and FedAvg .903 .934 .938.
    seeds = (1, 2, 3)
    runs = [learn("pacfl", "two-groups", seed) for seed in seeds]
    for run in runs:
        described = run.trial.method.describe()["groups"]
        kinds = [run.benchmark.kinds[d] for d in described["clients"]]
        assert adjusted_rand_score(kinds, described["labels"]) == 1
    shared = np.mean([fedavg("two-groups", seed).base for seed in seeds])
    assert np.mean([run.personal for run in runs]) >= shared + 0.04


def test_other_labels_for_the_same_images_cannot_be_seen():
    # Whatever the threshold: angles between groups are those inside them.
    run = learn("pacfl", "swapped-labels", 1, rounds=1)
    described = run.trial.method.describe()["groups"]
    angles, kinds = np.array(described["distances"]), np.array(run.benchmark.kinds)
    others = ~np.eye(len(kinds), dtype=bool)
    inside = angles[(kinds[:, None] == kinds) & others].mean()
    across = angles[kinds[:, None] != kinds].mean()
    assert inside == pytest.approx(across, abs=0.5)
    assert described["num_groups"] == 1
