import os
import stat

import pytest
import torch

from fedadapt.client.state_store import ClientStateStore
from fedadapt.errors import InputError


def states(seed):
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(3, 4, generator=generator)
    return {
        "personal": {"z.weight": draw, "a.bias": draw[0].double(), "n": torch.tensor(seed)},
        "personal/z": {"weight": draw.T, ".": draw[1].expand(5, 4)},
        "a%2Fb": {"": draw.bfloat16(), "x": torch.zeros(0)},
        "a/b": {"x": draw > 0},
        "nothing": {},
    }


def assert_same_bits(found, wanted):
    assert list(found) == list(wanted)
    for part, weights in wanted.items():
        assert list(found[part]) == list(weights)
        for name, tensor in weights.items():
            assert found[part][name].dtype == tensor.dtype
            assert torch.equal(found[part][name], tensor)


@pytest.fixture
def store(tmp_path):
    return ClientStateStore(tmp_path / "state", "experiment 1", "SHA256:ab/cd+=")


def test_what_is_kept_survives_the_process_bit_for_bit(store, tmp_path):
    assert store.load() == {}
    store.save(states(1), round=1)
    store.save(states(2), round=4)
    again = ClientStateStore(tmp_path / "state", "experiment 1", "SHA256:ab/cd+=")
    assert_same_bits(again.load(), states(2))


def test_a_round_computed_again_starts_from_the_same_state(store):
    for round in (1, 2, 3):
        assert_same_bits(store.load(round), {} if round == 1 else states(round - 1))
        store.save(states(round), round)
    for round in (1, 2, 3, 4):
        assert_same_bits(store.load(round), {} if round == 1 else states(round - 1))


def test_an_exchange_that_is_done_again_starts_from_what_was_there_before_it(store):
    """Not from before its round: what an earlier exchange of the round left is there."""
    store.save(states(1), 1, "train")
    store.save(states(2), 2, "query.sparsity")
    store.save(states(3), 2, "train")
    assert_same_bits(store.load(2, "query.moments"), states(3))  # not done yet
    assert_same_bits(store.load(2, "train"), states(2))
    assert_same_bits(store.load(2, "query.sparsity"), states(1))
    store.save(states(4), 2, "query.sparsity")
    assert_same_bits(store.load(2, "train"), states(4))


def test_a_new_attempt_of_the_server_forgets_what_was_kept_later_once(store):
    for round in (1, 2, 3):
        store.save(states(round), round)
    store.begin(1, after=0)  # the first attempt: nothing to forget
    assert_same_bits(store.load(), states(3))
    store.begin(2, after=2)
    assert_same_bits(store.load(), states(2))
    store.save(states(7), 3)
    store.begin(2, after=2)  # a later message of the same attempt
    assert_same_bits(store.load(), states(7))
    store.begin(3, after=1)
    assert_same_bits(store.load(), states(1))


def test_an_attempt_that_goes_back_further_than_is_remembered_is_refused(store):
    for round in range(1, 7):
        store.save(states(round), round)
    with pytest.raises(InputError, match=r"nothing kept before round 4, .* begins at round 4"):
        store.begin(2, after=3)
    assert_same_bits(store.load(), states(6))


def test_going_back_to_before_everything_begins_afresh(store):
    store.save(states(1), 1)
    store.begin(2, after=0)
    assert store.load() == {}


def test_what_was_released_stays_released_when_the_server_goes_back(store):
    """Its noise is paid for: asked the same again, the client repeats its answer."""
    told = {"release": {"vector": torch.arange(3.0)}}
    store.save(states(1), 1)
    store.save(states(1) | told, 2, "query.sparsity")
    store.begin(2, after=1)
    assert_same_bits(store.load(2, "query.sparsity"), states(1) | told)


def test_saving_again_changes_nothing(store):
    store.save(states(1), round=1)
    store.save(states(2), round=2)
    before = {p.name: p.read_bytes() for p in store.folder.iterdir()}
    store.save(states(2), round=2)
    assert {p.name: p.read_bytes() for p in store.folder.iterdir()} == before


def test_going_back_forgets_the_rounds_ahead(store):
    for round in (1, 2, 3):
        store.save(states(round), round)
    store.save(states(9), round=2)
    assert_same_bits(store.load(), states(9))


def test_going_back_further_than_is_remembered_is_refused(store):
    for round in range(1, 7):
        store.save(states(round), round)
    assert len(list(store.folder.iterdir())) == 3
    assert_same_bits(store.load(5), states(4))
    with pytest.raises(InputError, match=r"nothing kept before round 4, .* begins at round 4"):
        store.load(4)


def test_clients_and_experiments_have_separate_files(tmp_path):
    places = [("e", "d"), ("e", "D 2"), ("e/d", "d"), ("e", ".."), ("..", "d"), ("e", "e/d")]
    for number, place in enumerate(places):
        ClientStateStore(tmp_path / "state", *place).save(states(number), round=1)
    for number, place in enumerate(places):
        assert_same_bits(ClientStateStore(tmp_path / "state", *place).load(), states(number))
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("text", ["", "x" * 300])
def test_a_name_that_makes_no_file_is_refused(tmp_path, text):
    with pytest.raises(InputError, match=r"experiment: .* empty or too long"):
        ClientStateStore(tmp_path, text, "d")


def test_only_the_owner_can_read(store):
    old = os.umask(0)
    try:
        store.save(states(1), round=1)
    finally:
        os.umask(old)
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.folder.parent.stat().st_mode) == 0o700
    [file] = store.folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "harm", ["first byte", "header", "middle byte", "last byte", "cut", "empty"]
)
def test_a_damaged_file_is_one_clear_line(store, harm):
    store.save(states(1), round=1)
    [file] = store.folder.iterdir()
    data = bytearray(file.read_bytes())
    if harm in ("cut", "empty"):
        data = data[: 0 if harm == "empty" else len(data) // 2]
    else:
        at = {"first byte": 0, "header": 12, "middle byte": len(data) // 2, "last byte": -1}[harm]
        data[at] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"round-00000001-0-train\.safetensors: damaged") as caught:
        store.load()
    assert "\n" not in str(caught.value)


def test_a_newer_format_is_named(store, monkeypatch):
    monkeypatch.setattr("fedadapt.client.state_store.FORMAT", 2)
    store.save(states(1), round=1)
    monkeypatch.setattr("fedadapt.client.state_store.FORMAT", 1)
    with pytest.raises(InputError, match="format 2; this fedadapt reads 1"):
        store.load()


@pytest.mark.parametrize("step", ["file-written", "file-fsynced", "file-renamed"])
def test_dying_at_any_step_leaves_the_old_or_the_new(store, step):
    store.save(states(1), round=1)
    child = os.fork()
    if child == 0:
        os.environ["FEDADAPT_CRASH_AT"] = step
        store.save(states(2), round=2)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 137
    assert_same_bits(store.load(), states(2 if step == "file-renamed" else 1))
    store.save(states(2), round=2)
    assert_same_bits(store.load(), states(2))
    assert not list(store.folder.glob(".*.tmp"))


def test_a_failed_write_leaves_the_old_state_and_no_litter(store, monkeypatch):
    store.save(states(1), round=1)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(OSError, match=r"no room on the disk|disk full"):
        store.save(states(2), round=2)
    assert_same_bits(store.load(), states(1))
    assert len(list(store.folder.iterdir())) == 1
