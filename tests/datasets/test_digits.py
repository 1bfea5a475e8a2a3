"""The built-in benchmarks: any number of clients, and no test image is trained on."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Benchmark
from fedadapt.datasets.feature_shift.spec import DOMAINS
from fedadapt.datasets.in_memory import StoredBenchmark
from fedadapt.datasets.load import load_benchmark
from fedadapt.datasets.partitioning import client_indices
from fedadapt.datasets.partitioning.label_skew import Dirichlet, Iid, Pathological, Shards
from fedadapt.datasets.partitioning.sampling_pool import SamplingPool
from fedadapt.datasets.sources.digits import read_digits

NAMES = ("digits-classes", "digits-domains", "digits-dirichlet")


def load(**settings) -> Benchmark:
    return load_benchmark(RunConfig(**{"clients": 20, **settings}))


@pytest.mark.parametrize("name", NAMES)
def test_every_client_has_what_the_contract_says(name):
    benchmark = load(benchmark=name)
    assert benchmark.name == name
    assert benchmark.num_clients == len(benchmark.kinds) == 20
    assert benchmark.image_shape == (1, 8, 8)
    assert benchmark.classes == tuple("0123456789")
    for client in range(20):
        split = benchmark.split(client)
        assert [len(part) for part in split] == [48, 16, 16]
        assert benchmark.num_train_examples(client) == 48
        for part in split:
            assert part.inputs.dtype == torch.uint8
            assert part.labels.dtype == torch.int64
            assert part.inputs.shape == (len(part), 1, 8, 8)


def test_digits_use_the_whole_range_of_a_byte():
    everybody = load().global_test
    assert everybody is not None
    assert int(everybody.inputs.min()) == 0
    assert int(everybody.inputs.max()) == 255


def test_the_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    wanted, found = load_digits(), read_digits()
    assert found.labels.tolist() == wanted.target.tolist()
    levels = found.inputs[:, 0].numpy() * (16 / 255)
    assert np.abs(levels - wanted.images).max() < 0.04  # half a byte


@pytest.mark.slow
def test_a_run_imports_nothing_that_takes_seconds_and_that_it_does_not_need():
    code = (
        "import sys\n"
        "from fedadapt.simulations import run\n"
        "from fedadapt.config import RunConfig\n"
        "run.assemble(RunConfig(clients=5))\n"
        "print({'sklearn', 'torchvision', 'pandas', 'flwr', 'ray'} & sys.modules.keys())\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "set()\n"


@pytest.mark.parametrize("name", NAMES)
def test_no_clients_test_image_is_any_clients_training_image(name):
    benchmark = load(benchmark=name, clients=200)
    train, adapt, test = (
        set(np.concatenate([benchmark.rows(d)[part] for d in range(200)]).tolist())
        for part in range(3)
    )
    assert not train & adapt
    assert not train & test
    assert not adapt & test


def test_a_client_never_holds_an_image_twice_however_many_clients_there_are():
    benchmark = load(clients=500)
    for client in range(500):
        for part in benchmark.rows(client):
            assert len(np.unique(part)) == len(part)


def test_a_small_federation_shares_no_image_and_a_large_one_shares_evenly():
    few = load(clients=10)
    rows = np.concatenate([part for d in range(10) for part in few.rows(d)])
    assert len(np.unique(rows)) == len(rows)
    many = load(clients=500, benchmark="digits-domains")
    uses = Counter(np.concatenate([many.rows(d)[0] for d in range(500)]).tolist())
    assert max(uses.values()) - min(uses.values()) <= 3


def drawn_by(wanted, items=10, seed=0):
    """The draws of each client from a pool of its own."""
    rng = np.random.default_rng(seed)
    pool = SamplingPool(np.arange(items), rng.permutation(items), np.array(wanted))
    for _ in pool.runs_out_at:
        pool.shuffle(rng)
    return np.split(pool.drawn(), np.cumsum(pool.counts)[:-1])


def test_a_pool_gives_every_item_once_before_any_comes_again():
    *drawn, everything = drawn_by([4, 4, 4, 4, 4, 99])
    assert all(len(set(items.tolist())) == 4 for items in drawn)
    assert len(set(np.concatenate(drawn[:2]).tolist())) == 8
    assert set(Counter(np.concatenate(drawn).tolist()).values()) == {2}
    assert sorted(everything) == list(range(10))


@pytest.mark.parametrize("seed", range(5))
def test_no_client_draws_an_item_twice_wherever_the_pool_runs_out(seed):
    wanted = np.random.default_rng(seed).integers(0, 9, 50)
    for drawn, want in zip(drawn_by(wanted, items=7, seed=seed), wanted, strict=True):
        assert len(set(drawn.tolist())) == len(drawn) == min(want, 7)


def test_an_empty_pool_gives_nothing():
    assert [len(drawn) for drawn in drawn_by([0, 3, 1], items=0)] == [0, 0, 0]


def test_the_assignment_is_what_it_was_when_clients_drew_one_after_another():
    # Manifests of older runs must stay true.
    known = {
        "digits-classes": "01d82af8a1810c61727cbc9e85d50f5f98546d944e9a391ecd61a0d6c089822d",
        "digits-dirichlet": "2da4364cab34ed3e42072be3b25fbea266779bf6a0884b483f169ce5c189730f",
    }
    for name, hash in known.items():
        assert load(benchmark=name, clients=300).manifest.hash == hash


def test_a_hundred_thousand_clients_are_assigned_without_making_an_image(monkeypatch):
    made = []
    monkeypatch.setattr(StoredBenchmark, "_examples", lambda *of: made.append(of))
    many = load(clients=100_000, examples=100)
    assert not made
    assert (
        sum(indices.images.nbytes for indices in many._assignment.clients.sets) == 4 * 100 * 100_000
    )
    assert [len(rows) for rows in many.rows(99_999)] == [60, 20, 20]


@pytest.mark.parametrize("at_once", [1, 7, 50])
def test_the_manifest_is_the_same_however_many_clients_are_hashed_at_once(monkeypatch, at_once):
    wanted = load(clients=50, quantity="lognormal:1").manifest
    monkeypatch.setattr(client_indices, "AT_ONCE", at_once)
    assert load(clients=50, quantity="lognormal:1").manifest == wanted


def test_class_types_are_five_disjoint_pairs():
    benchmark = load()
    assert Counter(benchmark.kinds) == {f"{c}+{c + 1}": 4 for c in range(0, 10, 2)}
    for client, kind in enumerate(benchmark.kinds):
        for part in benchmark.split(client):
            assert {str(c) for c in part.labels.tolist()} == set(kind.split("+"))


def test_domains_are_what_they_are_called():
    plain = load(benchmark="digits-domains", shift="none")
    domains = load(benchmark="digits-domains")
    assert domains.kinds == DOMAINS * 4
    before = [plain.split(d).test.inputs for d in range(5)]
    after = [domains.split(d).test.inputs for d in range(5)]
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1], 255 - before[1])
    assert torch.equal(after[2], before[2].rot90(1, (2, 3)))
    for made, given in zip(after[3:], before[3:], strict=True):
        assert made.shape == given.shape
        assert not torch.equal(made, given)
    edges = [(x[..., 1:].float() - x[..., :-1].float()).abs().mean() for x in (before[3], after[3])]
    assert edges[1] < 0.6 * edges[0]  # blurred


def test_rotation_turns_client_d_by_d_quarters():
    plain, turned = load(), load(shift="rotation")
    for client in range(8):
        expected = plain.split(client).train.inputs.rot90(client % 4, (2, 3))
        assert torch.equal(turned.split(client).train.inputs, expected)
    assert turned.kinds[:2] == ("0+1/upright", "0+1/rotated90")


def test_dirichlet_shares_sum_to_one_and_a_small_alpha_makes_them_uneven():
    rng = np.random.default_rng(0)
    for rule in (Dirichlet(0.3), Pathological(3), Shards(3), Iid()):
        assert rule.shares(50, 10, rng).sum(axis=1) == pytest.approx(np.ones(50))
    mild, strong = (Dirichlet(alpha).shares(500, 10, rng) for alpha in (10.0, 0.1))
    assert mild.max(axis=1).mean() < 0.25 < 0.6 < strong.max(axis=1).mean()
    assert {np.count_nonzero(row) for row in Pathological(3).shares(50, 10, rng)} == {3}
    assert max(np.count_nonzero(row) for row in Shards(3).shares(50, 10, rng)) <= 3


@pytest.mark.parametrize("imbalance", ["", "long-tail:0.01"])
def test_the_global_test_is_balanced_and_plain_and_no_client_trains_on_it(imbalance):
    benchmark = load(benchmark="digits-domains", imbalance=imbalance)
    everybody = benchmark.global_test
    assert everybody is not None
    assert len(torch.bincount(everybody.labels).unique()) == 1
    assert len(everybody) == 350
    # Its images are the plain ones, so exactly the plain clients' tests can be found in it.
    known = {bytes(image.numpy().tobytes()) for image in everybody.inputs}
    found = [
        np.mean([image.numpy().tobytes() in known for image in benchmark.split(d).test.inputs])
        for d in range(3)
    ]
    assert found[0] > 0.9
    assert found[1] == found[2] == 0


def test_a_long_tail_reaches_the_clients_in_proportion():
    benchmark = load(imbalance="long-tail:0.1", clients=200, partition="iid")
    labels = torch.cat([benchmark.split(d).train.labels for d in range(200)])
    counts = torch.bincount(labels).double()
    expected = torch.tensor([0.1 ** (c / 9) for c in range(10)], dtype=torch.float64)
    assert torch.allclose(counts / counts[0], expected, atol=0.05)


def test_quantity_and_examples_set_the_sizes():
    linear = load(quantity="linear", examples=100, clients=10)
    assert sorted(map(linear.num_train_examples, range(10))) == [6 * d for d in range(1, 11)]
    assert {load(examples=3).num_train_examples(d) for d in range(20)} == {1}


def test_more_examples_than_a_class_has_are_all_there_are():
    split = load(examples=5000, clients=2).split(0)
    assert 200 < len(split.train) < 230
    assert min(map(len, split)) > 60


def test_shares_are_what_was_asked_for():
    split = load(adapt_share=0.25, test_share=0.25, examples=80).split(0)
    assert [len(part) for part in split] == [40, 20, 20]


def test_unseen_clients_are_a_share_of_every_kind_and_depend_on_the_seed():
    benchmark = load(benchmark="digits-domains", unseen=0.2, clients=100)
    assert len(benchmark.unseen) == 20
    assert Counter(benchmark.kinds[d] for d in benchmark.unseen) == dict.fromkeys(DOMAINS, 4)
    assert len(benchmark.seen) == 80
    again = load(benchmark="digits-domains", unseen=0.2, clients=100)
    other = load(benchmark="digits-domains", unseen=0.2, clients=100, seed=2)
    assert benchmark.unseen == again.unseen != other.unseen
    assert len(load(unseen=0.99, clients=2).unseen) == 1  # somebody must train
    assert not load().unseen
