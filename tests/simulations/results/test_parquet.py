import math
import random
import sys

import pytest
from made_up import communication, evaluation, evaluations, losses

from fedadapt.errors import InputError
from fedadapt.files import sha256
from fedadapt.records import (
    CommunicationEntry,
    Evaluation,
    EvaluationFailure,
    RoundLoss,
    TaskForgetting,
)
from fedadapt.simulations.results import parquet as results
from fedadapt.simulations.results.finished_journals import drop_journals, restore_journals
from fedadapt.simulations.results.journal import JOURNALS, Journal, journal_line, journal_rows
from fedadapt.simulations.results.parquet import (
    read_communication,
    read_evaluations,
    read_losses,
    read_tasks,
    write_communication,
    write_evaluations,
    write_failures,
    write_losses,
    write_tasks,
)


def test_tables_give_back_the_rows_that_were_written(tmp_path):
    rows, entries, means = evaluations(7), communication(7), losses()
    assert write_evaluations(tmp_path, iter(rows)) == tmp_path / "clients.parquet"
    write_communication(tmp_path, entries)
    write_losses(tmp_path, means)
    assert read_evaluations(tmp_path) == rows
    assert read_communication(tmp_path) == entries
    assert read_losses(tmp_path) == means
    assert type(read_evaluations(tmp_path)[0].seen) is bool
    forgotten = [TaskForgetting(1, "mnist", "personal", "adabn", 2, 0.5, 0.25, 0.25)]
    write_tasks(tmp_path, forgotten)
    assert read_tasks(tmp_path) == forgotten
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "clients.parquet",
        "communication.parquet",
        "losses.parquet",
        "tasks.parquet",
    ]


def test_tables_are_written_in_groups_without_losing_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROWS_AT_ONCE", 10)
    for count in (0, 9, 10, 21):
        write_losses(tmp_path, (RoundLoss(r, 0.1 * r, 3) for r in range(count)))
        assert read_losses(tmp_path) == [RoundLoss(r, 0.1 * r, 3) for r in range(count)]


def test_a_write_that_fails_leaves_the_old_table_and_nothing_else(tmp_path):
    write_losses(tmp_path, losses())

    def broken():
        yield losses()[0]
        raise RuntimeError("the rows ran out")

    with pytest.raises(RuntimeError, match="ran out"):
        write_losses(tmp_path, broken())
    assert read_losses(tmp_path) == losses()
    assert [p.name for p in tmp_path.iterdir()] == ["losses.parquet"]


def test_a_missing_table_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"clients\.parquet: no such file; "):
        read_evaluations(tmp_path)


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_losses(tmp_path / "nowhere", losses())


def test_a_damaged_table_is_one_line(tmp_path):
    path = write_evaluations(tmp_path, evaluations(3))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"clients\.parquet: damaged") as caught:
        read_evaluations(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_table_of_another_kind_is_refused_by_column(tmp_path):
    write_losses(tmp_path, losses()).rename(tmp_path / "communication.parquet")
    with pytest.raises(InputError, match="column 'client' of type int64 is missing"):
        read_communication(tmp_path)


def test_without_pyarrow_the_user_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r'pip install "fedadapt\[simulation\]"'):
        write_losses(tmp_path, losses())


def mixed_rows():
    rows = [*evaluations(3), *communication(3), *losses(4)]
    random.Random(1).shuffle(rows)
    return rows


def test_a_journal_gives_back_each_type_in_the_order_of_writing(tmp_path):
    rows = mixed_rows()
    with Journal(tmp_path) as journal:
        for row in rows:
            journal.append(row)
        for kind in (Evaluation, CommunicationEntry, RoundLoss):
            expected = [row for row in rows if type(row) is kind]
            assert list(journal.rows(kind)) == expected
            assert list(journal.rows(kind)) == expected  # a second pass starts anew


def test_a_journal_keeps_floats_exactly_and_numbers_that_are_none(tmp_path):
    with Journal(tmp_path) as journal:
        journal.append(RoundLoss(1, 0.1 + 0.2, 3))
        journal.append(RoundLoss(2, math.nan, 3))
        first, second = journal.rows(RoundLoss)
    assert first.loss == 0.1 + 0.2
    assert math.isnan(second.loss)


def test_positions_are_the_bytes_on_the_disk_and_their_hash(tmp_path):
    with Journal(tmp_path) as journal:
        assert {size for size, _ in journal.positions().values()} == {0}
        journal.append(losses()[0])
        assert journal.positions() == {
            name: [(tmp_path / name).stat().st_size, sha256(tmp_path / name)]
            for name in (
                "evaluations.jsonl",
                "communication.jsonl",
                "losses.jsonl",
                "failures.jsonl",
                "confidences.jsonl",
            )
        }
        assert journal.positions()["losses.jsonl"][0] > 0


def test_the_running_hash_goes_on_after_reopening_and_cutting(tmp_path):
    """At every position it is the hash of the file's first bytes, however the journal got there."""
    with Journal(tmp_path) as journal:
        journal.append(losses()[0])
        first = journal.positions()
        journal.append(losses()[1])
    with Journal(tmp_path) as journal:
        assert journal.positions()["losses.jsonl"][1] == sha256(tmp_path / "losses.jsonl")
        journal.truncate(first)
        assert journal.positions() == first
        journal.append(losses()[1])
        assert journal.positions()["losses.jsonl"][1] == sha256(tmp_path / "losses.jsonl")


def test_a_journal_that_was_changed_is_refused_and_nothing_is_dropped(tmp_path):
    """A figure exchanged in a row before the checkpoint, so that lengths and lines still fit."""
    with Journal(tmp_path) as journal:
        journal.append(RoundLoss(1, 0.5, 3))
        checkpoint = journal.positions()
    path = tmp_path / "losses.jsonl"
    changed = path.read_bytes().replace(b"0.5", b"0.4")
    path.write_bytes(changed)
    with Journal(tmp_path) as journal, pytest.raises(InputError, match="not what it was then"):
        journal.truncate(checkpoint)
    assert path.read_bytes() == changed


def test_positions_of_before_there_were_hashes_still_count(tmp_path):
    with Journal(tmp_path) as journal:
        journal.append(losses()[0])
        size = journal.positions()["losses.jsonl"][0]
        journal.append(losses()[1])
        journal.truncate({"losses.jsonl": size})
        assert list(journal.rows(RoundLoss)) == [losses()[0]]


def test_a_resumed_journal_is_byte_for_byte_that_of_an_uninterrupted_run(tmp_path):
    rows = mixed_rows()
    first, second = rows[:20], rows[20:]
    with Journal(tmp_path / "whole") as journal:
        for row in rows:
            journal.append(row)
    with Journal(tmp_path / "killed") as journal:
        for row in first:
            journal.append(row)
        checkpoint = journal.positions()
        for row in second[:9]:  # written after the checkpoint, then killed
            journal.append(row)
    with Journal(tmp_path / "killed") as journal:
        journal.truncate(checkpoint)
        assert journal.positions() == checkpoint
        for row in second:
            journal.append(row)
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "killed" / path.name).read_bytes() == path.read_bytes()


def test_a_line_names_its_fields(tmp_path):
    with Journal(tmp_path) as journal:
        journal.append(RoundLoss(1, 0.5, 3))
    line = (tmp_path / "losses.jsonl").read_text()
    assert line == '{"round": 1, "loss": 0.5, "num_clients": 3}\n'


def test_truncating_to_nothing_starts_anew(tmp_path):
    with Journal(tmp_path) as journal:
        journal.append(losses()[0])
        journal.truncate({})
        assert list(journal.rows(RoundLoss)) == []
        journal.append(losses()[1])
        assert list(journal.rows(RoundLoss)) == [losses()[1]]


@pytest.mark.parametrize("whole", range(1, 12))
def test_a_line_torn_by_a_crash_is_dropped_wherever_it_was_torn(tmp_path, whole):
    with Journal(tmp_path) as journal:
        journal.append(RoundLoss(1, 0.5, 3))
        journal.append(RoundLoss(2, 0.25, 3))
    path = tmp_path / "losses.jsonl"
    line = path.read_bytes().splitlines(keepends=True)[0]
    path.write_bytes(line + line[:whole])
    assert list(journal_rows(tmp_path, RoundLoss)) == [RoundLoss(1, 0.5, 3)]
    assert path.read_bytes() == line + line[:whole]  # reading repairs nothing: a run may be writing
    with Journal(tmp_path) as journal:
        journal.append(RoundLoss(3, 0.125, 3))
        assert list(journal.rows(RoundLoss)) == [RoundLoss(1, 0.5, 3), RoundLoss(3, 0.125, 3)]


def test_a_torn_line_longer_than_a_block_is_dropped(tmp_path):
    entry = CommunicationEntry(1, 0, "train", "error", "x" * 200_000, 0, 0, 0.0)
    with Journal(tmp_path) as journal:
        journal.append(entry)
        journal.append(entry)
    path = tmp_path / "communication.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    with Journal(tmp_path) as journal:
        assert list(journal.rows(CommunicationEntry)) == [entry]


def test_a_checkpoint_of_another_run_is_refused_and_nothing_is_dropped(tmp_path):
    with Journal(tmp_path) as journal:
        for row in losses():
            journal.append(row)
        size, digest = journal.positions()["losses.jsonl"]
        wrong = ((size + 1, "the checkpoint was made at"), (3, "belongs to another run"))
        for offset, reason in wrong:
            with pytest.raises(InputError, match=reason):
                journal.truncate({"losses.jsonl": [offset, digest]})
        assert list(journal.rows(RoundLoss)) == losses()


@pytest.mark.parametrize(
    "line", [b"{}\n", b"[1, 2\n", b"[1, 2, 3]\n", b'{"round": 1}\n', b"\xff\xfe\n"]
)
def test_a_damaged_line_is_named_by_number(tmp_path, line):
    (tmp_path / "losses.jsonl").write_bytes(journal_line(RoundLoss(1, 0.5, 3)) + line)
    with pytest.raises(InputError, match=r"losses\.jsonl: line 2 is damaged"):
        list(journal_rows(tmp_path, RoundLoss))


def test_a_reason_with_line_ends_stays_one_row(tmp_path):
    entry = CommunicationEntry(1, 0, "train", "error", "two\nlines\u2028three", 0, 0, 0.0)
    with Journal(tmp_path) as journal:
        journal.append(entry)
        assert list(journal.rows(CommunicationEntry)) == [entry]
    row = evaluation(0, 0.5, kind="ü <script>")
    write_evaluations(tmp_path, [row])
    assert read_evaluations(tmp_path) == [row]


def test_a_table_of_an_older_run_has_the_columns_that_came_later(tmp_path):
    """``epoch`` and ``task`` were not there in the first runs."""
    import pyarrow.parquet as parquet

    rows = evaluations(7)
    path = write_evaluations(tmp_path, rows)
    parquet.write_table(parquet.read_table(path).drop_columns(["epoch", "task"]), path)
    assert read_evaluations(tmp_path) == [row._replace(epoch=0, task=0) for row in rows]


def test_journals_come_back_from_the_tables_byte_for_byte(tmp_path):
    with Journal(tmp_path) as journal:
        for row in mixed_rows():
            journal.append(row)
        rows = {kind: list(journal.rows(kind)) for kind in JOURNALS}
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    write_evaluations(tmp_path, rows[Evaluation])
    write_communication(tmp_path, rows[CommunicationEntry])
    write_losses(tmp_path, rows[RoundLoss])
    write_failures(tmp_path, rows[EvaluationFailure])
    drop_journals(tmp_path)
    assert not list(tmp_path.glob("*.jsonl"))
    restore_journals(tmp_path)
    with Journal(tmp_path):
        assert {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")} == before


def test_a_journal_whose_table_does_not_hold_all_of_it_stays(tmp_path, caplog):
    with Journal(tmp_path) as journal:
        for row in losses():
            journal.append(row)
    write_losses(tmp_path, losses()[:1])
    drop_journals(tmp_path)
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["losses.jsonl"]
    assert "does not hold all of it" in caplog.text
    restore_journals(tmp_path)
    assert list(journal_rows(tmp_path, RoundLoss)) == losses()


def test_a_row_whose_auc_is_missing_is_equal_to_itself_wherever_it_has_been(tmp_path):
    """NaN is not equal to NaN, but rows that hold the same object are."""
    row = evaluation(0, 0.5)._replace(auc=float("nan"))
    with Journal(tmp_path) as journal:
        journal.append(row)
        [found] = journal.rows(Evaluation)
    write_evaluations(tmp_path, [row])
    assert read_evaluations(tmp_path) == [found] == [evaluation(0, 0.5)]
