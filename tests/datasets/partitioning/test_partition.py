"""Dividing a data set: no image twice, and each partition has the property it is named for."""

import numpy as np
import pytest

from fedadapt.datasets.partitioning.imbalance import parse_imbalance
from fedadapt.datasets.partitioning.partition import divide
from fedadapt.datasets.partitioning.quantity import relative_sizes, top_up
from fedadapt.datasets.partitioning.size_rules import parse_quantity
from fedadapt.datasets.partitioning.spec import parse_partition
from fedadapt.datasets.partitioning.stratified import stratified_order, three_sizes, whole_counts
from fedadapt.errors import InputError

CLASSES = 10
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(CLASSES), 200))
DOMAINS = np.arange(2000) % 4
PARTITIONS = ("iid", "dirichlet:0.3", "pathological:2", "shards:2", "class-types:2", "by-domain",
              "by-domain+dirichlet:0.5", "by-domain+class-types:2")  # fmt: skip
QUANTITIES = ("", "linear", "square", "lognormal:1")


def cut(partition, quantity="", clients=20, seed=1, rows=None):
    return divide(
        np.arange(len(LABELS)) if rows is None else rows,
        LABELS,
        DOMAINS,
        parse_partition(partition),
        parse_quantity(quantity),
        clients,
        np.random.default_rng(seed),
        "toy",
    )


def classes_of(rows):
    return set(LABELS[rows].tolist())


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("partition", PARTITIONS)
def test_no_image_is_on_two_clients_and_every_client_can_be_tested(partition, quantity):
    clients = cut(partition, quantity)
    assert len(clients) == 20
    everything = np.concatenate(clients)
    assert len(np.unique(everything)) == len(everything)
    assert min(map(len, clients)) >= 3


@pytest.mark.parametrize("partition", PARTITIONS)
def test_the_same_seed_divides_the_same_way_and_another_does_not(partition):
    first, again, other = cut(partition), cut(partition), cut(partition, seed=2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("partition", ["iid", "dirichlet:0.3", "class-types:2", "by-domain"])
def test_no_image_is_lost_where_sizes_are_even(partition):
    assert sum(map(len, cut(partition))) == len(LABELS)


def test_iid_clients_have_equal_sizes_and_all_classes():
    for rows in cut("iid"):
        assert len(rows) == 100
        assert len(classes_of(rows)) >= 9


def test_a_smaller_alpha_makes_clients_less_alike():
    def spread(alpha):
        counts = [np.bincount(LABELS[r], minlength=CLASSES) / len(r) for r in cut(alpha)]
        return np.std(counts, axis=0).mean()

    assert spread("dirichlet:0.1") > 2 * spread("dirichlet:1") > 4 * spread("dirichlet:100")


def test_a_tiny_alpha_starves_no_client():
    sizes = [len(rows) for rows in cut("dirichlet:0.01", clients=100)]
    assert sum(sizes) == len(LABELS)
    assert min(sizes) >= 10


def test_pathological_clients_have_exactly_k_classes_and_no_class_is_left_out():
    clients = cut("pathological:3")
    assert {len(classes_of(rows)) for rows in clients} == {3}
    assert set().union(*map(classes_of, clients)) == set(range(CLASSES))


def test_shards_give_at_most_k_classes_and_equal_sizes():
    clients = cut("shards:2")
    assert {len(rows) for rows in clients} == {100}
    assert max(len(classes_of(rows)) for rows in clients) <= 2
    assert len({frozenset(classes_of(rows)) for rows in clients}) > 5


def test_class_types_are_disjoint_pairs_and_each_client_has_its_whole_pair_evenly():
    for client, rows in enumerate(cut("class-types:2")):
        pair = client // 4  # 20 clients, 5 types, neighbours together
        assert np.bincount(LABELS[rows], minlength=CLASSES).tolist() == [
            50 if c // 2 == pair else 0 for c in range(CLASSES)
        ]


def test_class_types_that_do_not_divide_the_classes_leave_none_out():
    clients = cut("class-types:3", clients=6)
    assert [len(classes_of(rows)) for rows in clients] == [4, 4, 3, 3, 3, 3]
    assert set().union(*map(classes_of, clients)) == set(range(CLASSES))


def test_by_domain_gives_each_client_one_domain_and_spreads_clients_evenly():
    domains = [set(DOMAINS[rows].tolist()) for rows in cut("by-domain")]
    assert domains == [{d // 5} for d in range(20)]
    uneven = cut("by-domain", clients=6)
    assert [len(set(DOMAINS[rows].tolist())) for rows in uneven] == [1] * 6
    for rows in cut("by-domain"):  # classes as in the domain, up to rounding
        domain = LABELS[DOMAINS[rows[0]] == DOMAINS]
        expected = np.bincount(domain, minlength=CLASSES) / 5
        assert np.abs(np.bincount(LABELS[rows], minlength=CLASSES) - expected).max() <= 1


def test_label_skew_inside_domains_keeps_both():
    clients = cut("by-domain+dirichlet:0.1")
    assert [set(DOMAINS[rows].tolist()) for rows in clients] == [{d // 5} for d in range(20)]
    largest = [np.bincount(LABELS[rows]).max() / len(rows) for rows in clients]
    assert np.mean(largest) > 0.4


@pytest.mark.parametrize(("quantity", "power"), [("linear", 1), ("square", 2)])
def test_iid_sizes_follow_the_rule_and_use_every_image(quantity, power):
    sizes = sorted(map(len, cut("iid", quantity, clients=10)))
    ideal = np.arange(1, 11) ** power / (np.arange(1, 11) ** power).sum() * len(LABELS)
    assert sum(sizes) == len(LABELS)
    assert np.abs(np.array(sizes) - ideal).max() <= 10


def test_a_lognormal_of_zero_is_even_and_a_larger_one_is_less_so():
    assert {len(rows) for rows in cut("iid", "lognormal:0")} == {100}
    narrow, wide = ([len(r) for r in cut("iid", q)] for q in ("lognormal:0.3", "lognormal:1.5"))
    assert sum(wide) == len(LABELS)
    assert np.std(wide) > 2 * np.std(narrow) > 0


def test_quantity_thins_a_skewed_partition_and_keeps_its_classes():
    full, thinned = cut("class-types:2"), cut("class-types:2", "linear")
    sizes = sorted(map(len, thinned))
    assert sizes == [max(10, round(100 * d / 20)) for d in range(1, 21)]
    assert [classes_of(a) for a in full] == [classes_of(b) for b in thinned]


@pytest.mark.parametrize("partition", ["iid", "class-types:2"])
def test_an_exponential_starves_no_client(partition):
    sizes = [len(rows) for rows in cut(partition, "exponential")]
    assert min(sizes) == sorted(sizes)[10] == 10
    # iid: the largest has 1 - 1/e of all the images, less what it gives; else all of its share.
    assert max(sizes) > 1000 if partition == "iid" else max(sizes) == 100


def test_more_clients_than_images_are_refused_with_the_number_that_would_do():
    with pytest.raises(InputError, match="clients: 21 is more than toy can serve; at most 20"):
        cut("iid", clients=21, rows=np.arange(62))
    assert min(map(len, cut("iid", clients=20, rows=np.arange(62)))) == 3
    with pytest.raises(InputError, match=r"toy with class-types:2 can serve; at most \d+"):
        cut(
            "class-types:2", clients=100, rows=np.flatnonzero((LABELS > 1) | (np.arange(2000) < 90))
        )
    with pytest.raises(InputError, match="pathological:10 cannot divide"):
        cut("pathological:10", clients=30, rows=np.arange(100))


@pytest.mark.parametrize("factor", [1.0, 0.1, 0.01])
def test_a_long_tail_keeps_n_max_times_if_to_the_c_over_last(factor):
    rule = parse_imbalance(f"long-tail:{factor}")
    rows = rule.choose(np.arange(2000), LABELS, np.random.default_rng(0))
    expected = [int(200 * factor ** (c / 9) + 1e-9) for c in range(CLASSES)]
    assert np.bincount(LABELS[rows], minlength=CLASSES).tolist() == expected
    assert expected[0] == 200
    assert expected[-1] == round(200 * factor)
    assert len(np.unique(rows)) == len(rows)


def test_topping_up_moves_images_without_losing_or_doubling_any():
    clients = np.split(np.arange(100), [0, 1, 96, 99])  # 0, 1, 95, 3 and 1 images
    topped_up = top_up(clients, np.random.default_rng(0))
    assert sorted(np.concatenate(topped_up)) == list(range(100))
    assert sorted(map(len, topped_up)) == [10, 10, 10, 10, 60]


def test_relative_sizes_peak_at_one_and_come_in_random_order():
    sizes = relative_sizes(parse_quantity("linear"), 50, np.random.default_rng(0))
    assert sorted(sizes) == pytest.approx([d / 50 for d in range(1, 51)])
    assert abs(np.corrcoef(sizes, np.arange(50))[0, 1]) < 0.5


def test_every_stretch_of_a_stratified_order_has_the_classes_in_proportion():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    order = stratified_order(labels, np.random.default_rng(0))
    assert sorted(order) == list(range(1000))
    for start, stop in ((0, 100), (100, 350), (350, 1000)):
        counts = np.bincount(labels[order[start:stop]], minlength=3)
        assert np.abs(counts - (stop - start) * np.array([0.6, 0.3, 0.1])).max() <= 2


@pytest.mark.parametrize("shares", [(0.2, 0.2), (0.98, 0.01), (0.01, 0.98), (0.01, 0.01)])
@pytest.mark.parametrize("num", [3, 4, 10, 1001])
def test_each_of_the_three_sets_has_an_image(num, shares):
    sizes = three_sizes(num, *shares)
    assert sum(sizes) == num
    assert min(sizes) >= 1


def test_whole_counts_add_up_and_are_right_on_average():
    shares = np.tile([0.5, 0.25, 0.2, 0.05], (4000, 1))
    counts = whole_counts(shares, np.full(4000, 7), np.random.default_rng(0))
    assert (counts.sum(axis=1) == 7).all()
    assert np.abs(counts - 7 * shares).max() < 1
    assert counts.mean(axis=0) == pytest.approx(7 * shares[0], abs=0.05)
