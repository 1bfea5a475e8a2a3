"""Agreement of groups with kinds, where not every client has a group."""

import pytest

from fedadapt.simulations.results.rand_index import compared

KINDS = ["cat", "dog", "cat", "dog", "cat", "dog"]


@pytest.mark.parametrize("clients", [[0, 1, 2, 3, 4, 5], [1, 2, 3, 5], [0, 3, 4, 5]])
def test_labels_belong_to_clients_and_not_to_positions(clients):
    """Clients 0 and 4, say, never answered: the others agree with their own kinds."""
    labels = [int(KINDS[client] == "dog") for client in clients]
    found = compared({"clients": clients, "labels": labels}, KINDS)
    assert found == {"kinds": [KINDS[d] for d in clients], "adjusted_rand_index": 1.0}
    wrong = compared({"clients": clients, "labels": [0, 0, *labels[2:]]}, KINDS)
    assert wrong["adjusted_rand_index"] < 1


def test_the_index_by_hand():
    """Hubert & Arabie 1985: a table of [[2, 1], [0, 2]] has (2 - 1.6) / (4 - 1.6)."""
    found = compared({"clients": [0, 2, 1, 3, 4], "labels": [0, 0, 0, 1, 1]},
                     ["a", "b", "a", "b", "b"])  # fmt: skip
    assert found["adjusted_rand_index"] == pytest.approx((2 - 1.6) / (4 - 1.6))


def test_what_has_no_labels_is_not_compared():
    assert compared({}, KINDS) == {}
