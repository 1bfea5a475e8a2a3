"""What clients keep: the same answers from memory and from the disk, within a budget."""

import gc
import threading

import pytest
import torch
from toys import assert_same_bits, copied

from fedadapt.errors import FedadaptError
from fedadapt.messages import Update
from fedadapt.server.client_states import ClientStates
from fedadapt.weights import num_bytes

NOWHERE = 0  # a budget: nothing stays in memory


def update(seed, clients=3, **more):
    draw = torch.Generator().manual_seed(seed)
    model = {
        "w": torch.randn(clients, 4, 5, generator=draw, dtype=torch.float64),
        "count": torch.full((clients,), seed),
        "half": torch.randn(clients, 3, generator=draw).bfloat16(),
        "mask": torch.randn(clients, 7, generator=draw) > 0,
        "none": torch.zeros(clients, 0, 2),
    }
    return Update({}, torch.ones(clients), states={"personal": model, **more})


def contents(client_states, clients):
    return {d: {p: copied(w) for p, w in client_states.of(d).items()} for d in clients}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for client, parts in wanted.items():
        assert list(found[client]) == list(parts)
        for part, weights in parts.items():
            assert list(found[client][part]) == list(weights)
            assert_same_bits(found[client][part], weights)


@pytest.fixture(params=[NOWHERE, 500, 2**30], ids=["disk", "both", "memory"])
def client_states(request, tmp_path):
    return ClientStates(tmp_path / "spilled", request.param)


def test_a_client_gets_back_what_it_kept_last(client_states):
    assert client_states.of(5) == {}
    client_states.remember((2, 5, 9), update(1))
    client_states.remember((5, 6, 7), update(2))
    rows = {2: (1, 0), 5: (2, 0), 6: (2, 1), 7: (2, 2), 9: (1, 2)}
    wanted = {
        d: {"personal": {n: t[at] for n, t in update(seed).states["personal"].items()}}
        for d, (seed, at) in rows.items()
    }
    assert_same(contents(client_states, rows), wanted)
    assert client_states.snapshot().keys() == wanted.keys()


def test_parts_that_are_not_renewed_stay(client_states):
    client_states.remember((0, 1, 2), update(1, norms={"m": torch.arange(3.0)}))
    client_states.remember(
        (0, 1, 2), Update({}, torch.ones(3), states={"norms": {"m": torch.ones(3)}})
    )
    assert list(client_states.of(1)) == ["personal", "norms"]
    assert client_states.of(1)["norms"]["m"] == 1
    assert_same_bits(
        client_states.of(1)["personal"], {n: t[1] for n, t in update(1).states["personal"].items()}
    )


@pytest.mark.parametrize("worst", [torch.nan, torch.inf])
def test_a_client_that_diverged_keeps_what_it_had(client_states, worst):
    client_states.remember((0, 1, 2), update(1, norms={"m": torch.arange(3.0)}))
    before = contents(client_states, range(3))
    bad = update(2, norms={"m": torch.tensor([1.0, worst, 1.0])})
    client_states.remember((0, 1, 2), bad)
    after = contents(client_states, range(3))
    assert_same({1: after[1]}, {1: before[1]})
    assert after[0]["norms"]["m"] == after[2]["norms"]["m"] == 1


def test_an_update_without_states_leaves_no_client_state(client_states):
    client_states.remember((0, 1), Update({}, torch.ones(2)))
    assert client_states.snapshot() == {}


def test_a_snapshot_is_what_was_whatever_happens_later(client_states):
    client_states.remember((0, 1, 2), update(1))
    wanted, snapshot = contents(client_states, range(3)), client_states.snapshot()
    for seed in range(2, 6):
        client_states.remember((0, 1, 2), update(seed))
    assert_same({d: dict(parts) for d, parts in snapshot.items()}, wanted)
    client_states.restore(snapshot)
    assert_same(contents(client_states, range(3)), wanted)


def test_restored_states_are_copied(client_states):
    given = {3: {"personal": {"w": torch.ones(2)}}, 4: {}}
    client_states.restore(given)
    given[3]["personal"]["w"].zero_()
    assert client_states.of(3)["personal"]["w"].tolist() == [1, 1]
    assert client_states.snapshot().keys() == {3, 4}


def test_memory_stays_within_the_budget_and_room_is_used_again(tmp_path):
    size = num_bytes({n: t[0] for n, t in update(0).states["personal"].items()})
    client_states = ClientStates(tmp_path, budget=2 * size)
    for seed in range(20):
        client_states.remember((0, 1, 2, 3, 4), update(seed, clients=5))
        assert client_states._storage._in_memory <= 2 * size
    gc.collect()
    # Five states, and one that is written before the one it replaces is let go.
    assert 3 * size <= client_states._storage._spill_file._end <= 6 * size
    assert list(tmp_path.iterdir()) == []  # the file has no name: a kill leaves nothing behind


def test_a_state_is_not_read_to_be_counted_or_compared(tmp_path, monkeypatch):
    client_states = ClientStates(tmp_path, NOWHERE)
    client_states.remember((0, 1, 2), update(1))
    monkeypatch.setattr("fedadapt.server.client_states._raw", None)
    first, again = client_states.snapshot(), client_states.snapshot()
    assert first[1] is again[1]
    assert "personal" in first[1]
    assert "norms" not in first[1]
    assert len(first[1]) == 1
    with pytest.raises(KeyError):
        first[1]["norms"]


def test_many_threads_read_and_write_at_once(client_states):
    wrong = []

    def work(client):
        for seed in range(60):
            client_states.remember((client,), update(100 * client + seed, clients=1))
            found = client_states.of(client)["personal"]
            if int(found["count"]) != 100 * client + seed:
                wrong.append(client)

    threads = [threading.Thread(target=work, args=(d,)) for d in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sorted(client_states.snapshot()) == list(range(6))


def test_a_folder_that_cannot_be_written_to_is_one_clear_line(tmp_path):
    (tmp_path / "taken").write_text("")
    client_states = ClientStates(tmp_path / "taken", NOWHERE)
    with pytest.raises(FedadaptError, match="taken: what clients keep does not fit into memory"):
        client_states.remember((0, 1, 2), update(1))
