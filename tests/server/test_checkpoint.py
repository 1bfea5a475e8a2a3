import json
import logging
import os
import re
import resource

import pytest
import torch

from fedadapt.errors import DiskFullError, InputError
from fedadapt.server.checkpoint import Checkpoint, check_same_config, load_latest, save
from fedadapt.weights import repeat

STEPS = [  # in the order they are taken; a file is LATEST
    "tmp-written",
    "fsynced",
    "renamed",
    "file-written",
    "file-fsynced",
    "file-renamed",
    "latest-updated",
]


def checkpoint(round=1, seed=None, clients=3):
    generator = torch.Generator().manual_seed(round if seed is None else seed)
    draw = torch.randn(clients, 4, 5, generator=generator)
    shared = torch.randn(7, generator=generator)
    return Checkpoint(
        round=round,
        tensors={
            "z.weight": shared,
            "a.alias": shared,
            "view": shared[2:4],
            "expanded": repeat({"x": shared}, 5)["x"],
            "turned": draw[0].T,
            "special": torch.tensor(
                [float("nan"), float("inf"), -0.0, 5e-324], dtype=torch.float64
            ),
            "half": shared.bfloat16(),
            "count": torch.tensor(round),
            "mask": shared > 0,
            "empty": torch.zeros(0, 3),
        },
        metadata={"failed-rounds": [2], "loss": 0.1 + 0.2, "worst": float("nan"), "name": "é"},
        states={
            **{d * 3: {"personal": {"w": draw[d], "b": draw[d, 0]}} for d in range(clients)},
            100: {"personal": {"w": draw[0, :2]}, "a/b": {"c/d": shared}},
            101: {"nothing": {}},
            102: {},
        },
        config={"lr": 0.05, "rounds": 20, "out": "here"},
    )


def assert_same_bits(found, wanted):
    def plain(tensors):
        return [
            (n, t.dtype, t.shape, t.contiguous().reshape(-1).view(torch.uint8).tolist())
            for n, t in tensors.items()
        ]  # a list: the order of the names counts as well

    assert found.round == wanted.round
    assert plain(found.tensors) == plain(wanted.tensors)
    assert repr(found.metadata) == repr(wanted.metadata)
    assert found.config == wanted.config
    assert found.states.keys() == wanted.states.keys()
    for client, parts in wanted.states.items():
        assert found.states[client].keys() == parts.keys()
        for part, weights in parts.items():
            assert plain(found.states[client][part]) == plain(weights)


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    saved = checkpoint()
    place = save(tmp_path, saved)
    assert_same_bits(load_latest(tmp_path), saved)
    states, *others = sorted(p.name for p in place.iterdir())
    assert re.fullmatch(r"kept-[0-9a-f]{16}\.safetensors", states)
    assert others == ["manifest.json", "state.safetensors"]


def test_where_nothing_is_kept_there_is_no_file_of_it(tmp_path):
    plain = Checkpoint(1, {"w": torch.ones(2)})
    place = save(tmp_path, plain)
    assert sorted(p.name for p in place.iterdir()) == ["manifest.json", "state.safetensors"]
    assert_same_bits(load_latest(tmp_path), plain)


def test_clients_alike_are_stored_as_one_tensor(tmp_path):
    place = save(tmp_path, checkpoint(clients=50))
    manifest = json.loads((place / "manifest.json").read_text())["manifest"]
    [segment] = manifest["segments"]
    assert len(segment["groups"]) == 4  # the fifty, and what 100 and 101 keep
    assert_same_bits(load_latest(tmp_path), checkpoint(clients=50))


def test_the_two_newest_stay(tmp_path):
    for round in (1, 2, 3):
        save(tmp_path, checkpoint(round))
    base = tmp_path / "checkpoint"
    assert sorted(p.name for p in base.iterdir()) == ["LATEST", "round-00000002", "round-00000003"]
    assert (base / "LATEST").read_text() == "round-00000003\n"
    assert load_latest(tmp_path).round == 3


def test_a_run_that_went_back_forgets_the_rounds_ahead(tmp_path):
    for round in (4, 5, 6):
        save(tmp_path, checkpoint(round))
    save(tmp_path, checkpoint(5, seed=77))
    assert_same_bits(load_latest(tmp_path), checkpoint(5, seed=77))
    assert sorted(p.name for p in (tmp_path / "checkpoint").glob("round*")) == ["round-00000005"]


@pytest.mark.parametrize("name", ["state.safetensors", "kept-*.safetensors", "manifest.json"])
@pytest.mark.parametrize("harm", ["first byte", "middle byte", "last byte", "cut", "empty", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, caplog, name, harm):
    save(tmp_path, checkpoint(1))
    place = save(tmp_path, checkpoint(2))
    [file] = place.glob(name)
    size = file.stat().st_size
    if harm == "gone":
        file.unlink()
    elif harm in ("cut", "empty"):
        os.truncate(file, 0 if harm == "empty" else size // 2)
    else:
        flip(file, {"first byte": 0, "middle byte": size // 2, "last byte": size - 1}[harm])
    with caplog.at_level(logging.WARNING):
        assert_same_bits(load_latest(tmp_path), checkpoint(1))
    assert str(place) in caplog.text


@pytest.mark.parametrize("pointer", [None, "", "round-00000009", "../../etc", "\x00"])
def test_a_lost_pointer_loses_nothing(tmp_path, pointer):
    save(tmp_path, checkpoint(1))
    save(tmp_path, checkpoint(2))
    latest = tmp_path / "checkpoint" / "LATEST"
    latest.unlink() if pointer is None else latest.write_text(pointer)
    assert load_latest(tmp_path).round == 2


def test_an_unfinished_checkpoint_is_not_looked_at(tmp_path):
    place = save(tmp_path, checkpoint(1))
    place.with_name("round-00000002").mkdir()
    place.with_name("round-00000002").rename(place.with_name("round-00000002.tmp"))
    assert load_latest(tmp_path).round == 1
    save(tmp_path, checkpoint(3))
    assert not list(place.parent.glob("*.tmp"))


def test_no_checkpoint_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match="no checkpoint; start the run anew"):
        load_latest(tmp_path)
    (save(tmp_path, checkpoint(1)) / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="none of 1 checkpoints is intact"):
        load_latest(tmp_path)


@pytest.mark.parametrize(
    ("format", "reason"),
    [
        (4, "format 4; this fedadapt reads format 3, update it"),
        (2, "written by fedadapt 0.1.0, which this version cannot read"),
    ],
)
def test_another_format_is_not_taken_for_damage(tmp_path, format, reason):
    save(tmp_path, checkpoint(1))
    manifest = save(tmp_path, checkpoint(2)) / "manifest.json"
    content = json.loads(manifest.read_text())
    content["manifest"]["format"] = format
    manifest.write_text(json.dumps(content))
    with pytest.raises(InputError, match=reason):
        load_latest(tmp_path)


def in_a_child(work):
    """Run in a forked process; its exit status."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("same_round", [False, True], ids=["next round", "same round"])
@pytest.mark.parametrize("step", STEPS)
def test_dying_at_any_step_leaves_the_old_or_the_new(tmp_path, step, same_round):
    old, new = checkpoint(1), checkpoint(1 if same_round else 2, seed=5)
    save(tmp_path, old)

    def die():
        os.environ["FEDADAPT_CRASH_AT"] = step
        save(tmp_path, new)

    assert in_a_child(die) == 137
    found = load_latest(tmp_path)
    named = STEPS.index(step) >= STEPS.index("renamed")
    took_effect = named if same_round else step in ("file-renamed", "latest-updated")
    assert_same_bits(found, new if took_effect else old)
    save(tmp_path, new)  # what the crash left is in nobody's way
    assert_same_bits(load_latest(tmp_path), new)
    left = {p.name for p in (tmp_path / "checkpoint").glob("*") if p.is_dir()}
    assert left == {f"round-{r:08d}" for r in {1, new.round}}


def test_dying_between_the_two_renames_of_a_repeated_round_loses_nothing(tmp_path):
    save(tmp_path, checkpoint(1))

    def die():
        os.environ["FEDADAPT_CRASH_AT"] = "set-aside"
        save(tmp_path, checkpoint(1, seed=5))

    assert in_a_child(die) == 137
    assert_same_bits(load_latest(tmp_path), checkpoint(1))


def test_a_full_disk_is_one_clear_line_and_the_last_checkpoint_stays(tmp_path):
    save(tmp_path, checkpoint(1))
    large = Checkpoint(2, {"w": torch.zeros(300_000)})

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with pytest.raises(DiskFullError, match=r"round-00000002: no room .* takes 1\.1 MiB"):
            save(tmp_path, large)

    assert in_a_child(fill) == 0
    assert_same_bits(load_latest(tmp_path), checkpoint(1))
    assert not list((tmp_path / "checkpoint").glob("*.tmp"))


def test_the_same_settings_pass():
    config = {"lr": 0.05, "rounds": 20, "out": "here", "workers": 0}
    check_same_config(config, {**config, "out": "there", "workers": 2, "rounds": 30})


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        ({"lr": 0.1}, "lr was 0.05, is 0.1"),
        ({"seed": 2, "lr": 0.1}, "lr was 0.05, is 0.1; seed was 1, is 2"),
        ({"rounds": 10}, "rounds was 20, is 10"),
        ({"new-key": True}, "new-key was not set, is True"),
    ],
)
def test_other_settings_are_refused_by_name(now, reason):
    saved = {"lr": 0.05, "seed": 1, "rounds": 20}
    with pytest.raises(InputError, match=reason):
        check_same_config(saved, {**saved, **now})


def test_a_setting_that_is_gone_is_named():
    with pytest.raises(InputError, match="seed was 1, is not set"):
        check_same_config({"seed": 1}, {})


def test_at_least_one_checkpoint_stays(tmp_path):
    with pytest.raises(ValueError, match="keep=0"):
        save(tmp_path, checkpoint(), keep=0)
