"""The ledger: written before sending, append-only, and every change of it is noticed."""

import hashlib
import json
import os
import stat

import pytest

from fedadapt.client.egress.ledger import Ledger, Part, ledgers, plain
from fedadapt.errors import InputError

ARRAY = Part(record="arrays", name="w", dtype="float32", shape=(2, 3), bytes=152)
LOSS = Part(record="metrics", name="loss", dtype="float", shape=(), bytes=8)


def write(ledger, round=1, **changes):
    given = {"run": "ab12", "round": round, "type": "train", "outcome": "answer",
             "parts": [ARRAY, LOSS], **changes}  # fmt: skip
    return ledger.write(**given)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "state", "SHA256:ab/c")


def test_entries_come_back_as_they_were_written(ledger):
    first = write(ledger)
    ledger.confirm(first)
    write(ledger, 2, type="query.sparsity", epsilon=0.5, withheld=["secret"])
    one, two = ledger.entries()
    assert (one.round, one.type, one.outcome, one.bytes, one.epsilon) == (
        1, "train", "answer", 160, 0.0
    )  # fmt: skip
    assert one.parts == (ARRAY, LOSS)
    assert [one.confirmed, two.confirmed] == [True, False]
    assert (two.epsilon, two.withheld) == (0.5, ("secret",))
    [again] = ledgers(ledger.path.parents[1])
    assert again.path == ledger.path
    assert again.entries() == [one, two]


def test_an_entry_is_on_the_disk_before_its_message_can_be_sent(ledger, monkeypatch):
    """A power cut after the message has left forgets no entry."""
    synced, fsync = [], os.fsync

    def note(file):
        fsync(file)
        synced.append(ledger.path.read_bytes())

    monkeypatch.setattr(os, "fsync", note)
    write(ledger)
    assert synced == [ledger.path.read_bytes()]


def test_only_the_owner_can_read_it(ledger):
    old = os.umask(0)
    try:
        write(ledger)
    finally:
        os.umask(old)
    assert stat.S_IMODE(ledger.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(ledger.path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("harm", ["changed", "taken out", "swapped", "put in", "signed anew"])
def test_a_line_that_is_not_as_it_was_written_is_noticed(ledger, harm):
    for round in (1, 2, 3):
        write(ledger, round)
    lines = ledger.path.read_text().splitlines(keepends=True)
    if harm == "changed":
        lines[1] = lines[1].replace('"round": 2', '"round": 9')
    elif harm == "taken out":
        del lines[1]
    elif harm == "swapped":
        lines[1], lines[2] = lines[2], lines[1]
    elif harm == "put in":
        lines.insert(1, lines[1])
    else:
        content = json.loads(lines[1]) | {"bytes": 0}
        del content["hash"]
        text = json.dumps(content, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        lines[1] = json.dumps(content | {"hash": digest}) + "\n"
    ledger.path.write_text("".join(lines))
    wrong = 3 if harm in ("signed anew", "put in") else 2
    with pytest.raises(InputError, match=f"line {wrong} is not what was written"):
        ledger.entries()


def test_half_a_line_of_a_crash_is_cut_off_and_the_ledger_goes_on(ledger):
    write(ledger, 1)
    whole = ledger.path.read_bytes()
    write(ledger, 2)
    both = ledger.path.read_bytes()
    ledger.path.write_bytes(both[: len(whole) + 40])
    write(ledger, 3)
    assert [entry.round for entry in ledger.entries()] == [1, 3]


def test_half_a_first_line_is_cut_off_too(ledger):
    write(ledger, 1)
    ledger.path.write_bytes(ledger.path.read_bytes()[:20])
    write(ledger, 2)
    assert [entry.round for entry in ledger.entries()] == [2]


def test_nothing_is_written_after_a_damaged_line(ledger):
    """It would hide the damage behind a chain that goes on."""
    write(ledger, 1)
    ledger.path.write_bytes(ledger.path.read_bytes().replace(b'"round": 1', b'"round": 7'))
    with pytest.raises(InputError, match="the last line is damaged"):
        write(ledger, 2)


def test_a_disk_that_is_full_leaves_no_half_line(ledger, monkeypatch):
    write(ledger, 1)
    before = ledger.path.read_bytes()
    whole = os.write

    def half(file, data):
        return whole(file, data[: len(data) // 2]) if len(data) > 100 else whole(file, data)

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="could be written"):
        write(ledger, 2)
    monkeypatch.undo()
    assert ledger.path.read_bytes() == before
    write(ledger, 3)
    assert [entry.round for entry in ledger.entries()] == [1, 3]


def test_long_lines_are_found_from_the_end(ledger):
    many = [Part(record="arrays", name=f"layer.{n}.weight", dtype="float32", shape=(n,), bytes=n)
            for n in range(1500)]  # fmt: skip
    write(ledger, 1, parts=many)
    write(ledger, 2, parts=many)
    assert [len(entry.parts) for entry in ledger.entries()] == [1500, 1500]


def test_words_of_a_server_reach_the_ledger_on_one_line(ledger):
    write(ledger, run="a\nb\x1b[31m", type="query.\u202ex" * 40)
    [entry] = ledger.entries()
    assert entry.run == "a?b?[31m"
    assert len(entry.type) == 80
    assert plain("\x00") == "?"


def test_a_folder_without_a_ledger_is_refused(tmp_path):
    with pytest.raises(InputError, match="no ledger; name the state-dir"):
        ledgers(tmp_path)
