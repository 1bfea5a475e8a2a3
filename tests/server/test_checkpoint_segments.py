"""What clients keep is written once, and every checkpoint is whole all the same."""

import os
import random
from types import MappingProxyType

import pytest
import torch

from fedadapt.server import checkpoint_segments as segments
from fedadapt.server.checkpoint import Checkpoint, Checkpoints, load_latest

CLIENTS = 40


def state(seed, size=6):
    """One client's parts, which cannot change: the proxy stands for a keeper's state."""
    draw = torch.Generator().manual_seed(seed)
    return MappingProxyType({"personal": {"w": torch.randn(size, generator=draw)}})


def values(states):
    return {d: {p: w["w"].tolist() for p, w in parts.items()} for d, parts in states.items()}


def files(folder):
    return {p.name for p in folder.glob("kept-*")}


def segments_read(folder):
    """The rows that are in a checkpoint's files, dead ones included."""
    return sum(len(load["w"]) for load in (loaded(p) for p in folder.glob("kept-*")))


def loaded(path):
    return {name.split("/")[1]: t for name, t in segments.load_file(path).items()}


def run(folder, rounds, sampled=4, seed=1):
    """A run in which some clients change each round; yields (round, what they keep, its folder)."""
    draw = random.Random(seed)
    saver, states = Checkpoints(folder), {}
    for round in range(rounds):
        chosen = range(CLIENTS) if round == 0 else draw.sample(range(CLIENTS), sampled)
        states = {**states, **{d: state(1000 * round + d) for d in chosen}}
        yield round, states, saver.save(Checkpoint(round, states=states))


def test_only_what_changed_is_written_and_all_of_it_comes_back(tmp_path):
    known, written = set(), []
    for _, states, place in run(tmp_path, 30):
        assert values(load_latest(tmp_path).states) == values(states)
        written.append(sum(len(loaded(place / name)["w"]) for name in files(place) - known))
        known |= files(place)
    assert written[0] == CLIENTS
    assert written[1] == 4
    # A row is moved out of an old file for each row there that is true no more, at most.
    assert sum(written[1:]) <= 2 * 4 * 29
    assert len(list((tmp_path / "checkpoint").glob("round-*"))) == 2


def test_the_disk_holds_at_most_twice_what_is_kept(tmp_path):
    for _, _, place in run(tmp_path, 60):
        assert segments_read(place) <= 2 * CLIENTS


def test_a_file_that_is_used_again_is_the_same_file(tmp_path):
    places = [place for _, _, place in run(tmp_path, 2)]
    [shared] = files(places[0]) & files(places[1])
    assert (places[0] / shared).stat().st_ino == (places[1] / shared).stat().st_ino
    assert (places[1] / shared).stat().st_nlink == 2


def test_where_files_cannot_have_two_names_they_are_copied(tmp_path, monkeypatch):
    def refuse(*paths):
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", refuse)
    for _, states, _ in run(tmp_path, 4):
        assert values(load_latest(tmp_path).states) == values(states)


def test_a_dict_is_written_again_since_it_may_have_changed_inside(tmp_path):
    saver, parts = Checkpoints(tmp_path), {"personal": {"w": torch.zeros(2)}}
    saver.save(Checkpoint(1, states={0: parts}))
    parts["personal"] = {"w": torch.ones(2)}
    saver.save(Checkpoint(2, states={0: parts}))
    assert values(load_latest(tmp_path).states) == {0: {"personal": [1, 1]}}


def test_a_client_that_keeps_nothing_any_more_is_gone(tmp_path):
    saver, states = Checkpoints(tmp_path), {d: state(d) for d in range(4)}
    saver.save(Checkpoint(1, states=states))
    saver.save(Checkpoint(2, states={d: states[d] for d in (0, 1, 3)}))
    assert load_latest(tmp_path).states.keys() == {0, 1, 3}
    saver.save(Checkpoint(3))
    assert load_latest(tmp_path).states == {}


def test_a_round_that_is_saved_again_uses_its_own_files(tmp_path):
    saver, states = Checkpoints(tmp_path), {d: state(d) for d in range(4)}
    first = files(saver.save(Checkpoint(5, states=states)))
    states = {**states, 2: state(77)}
    again = files(saver.save(Checkpoint(5, states=states)))
    assert first < again
    assert values(load_latest(tmp_path).states) == values(states)


def test_a_folder_that_somebody_emptied_is_filled_anew(tmp_path):
    saver, states = Checkpoints(tmp_path), {d: state(d) for d in range(4)}
    place = saver.save(Checkpoint(1, states=states))
    for file in place.glob("kept-*"):
        file.unlink()
    saver.save(Checkpoint(2, states=states))
    assert values(load_latest(tmp_path).states) == values(states)


def test_many_clients_are_written_in_portions(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "PORTION", 3 * 6 * 4)  # three clients of six floats
    states = {d: state(d) for d in range(8)}
    place = Checkpoints(tmp_path).save(Checkpoint(1, states=states))
    assert sorted(len(loaded(p)["w"]) for p in place.glob("kept-*")) == [2, 3, 3]
    assert values(load_latest(tmp_path).states) == values(states)


@pytest.mark.parametrize(
    "step", ["tmp-written", "fsynced", "set-aside", "renamed", "file-written", "file-renamed"]
)
@pytest.mark.parametrize("last", [2, 5])
def test_dying_at_any_step_leaves_a_whole_round(tmp_path, step, last):
    child = os.fork()
    if child == 0:
        try:
            for round, states, _ in run(tmp_path, last + 1):
                if round == last:
                    os.environ["FEDADAPT_CRASH_AT"] = step
                    changed = {**states, 3: state(round)}
                    # Another one of the same round, as after a failed one.
                    Checkpoints(tmp_path).save(Checkpoint(round, states=changed))
                    os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 137
    wanted = [states for _, states, _ in run(tmp_path / "whole", last + 1)]
    found = load_latest(tmp_path)
    before, after = wanted[last], {**wanted[last], 3: state(last)}
    assert found.round == last
    assert values(found.states) in (values(before), values(after))
    # It goes on from there as if nothing had happened.
    saver = Checkpoints(tmp_path)
    saver.save(
        Checkpoint(last + 1, states={d: MappingProxyType(p) for d, p in found.states.items()})
    )
    assert values(load_latest(tmp_path).states) == values(found.states)


def test_the_server_keeps_states_of_the_same_clients_beside_their_own(tmp_path):
    saver = Checkpoints(tmp_path)
    own, of_server = {d: state(d) for d in range(3)}, {d: state(d) for d in range(2)}
    first = files(saver.save(Checkpoint(1, states=own, server_states=of_server)))
    of_server = {**of_server, 2: state(7)}
    place = saver.save(Checkpoint(2, states=own, server_states=of_server))
    found = load_latest(tmp_path)
    assert values(found.states) == values(own)
    assert values(found.server_states) == values(of_server)
    assert first < files(place)  # client 0 too: only the new state was written
    assert segments_read(place) == 6
