"""Many clients: what is told of them stays small, and what they keep need not fit into memory."""

import tracemalloc
from dataclasses import replace

import pytest
from made_up import communication, evaluation, evaluations
from pages import Page, finish, read
from toy_run import SETTINGS, Run, assert_same_run

from fedadapt.records import CommunicationEntry, Evaluation
from fedadapt.server.checkpoint import Checkpoint, Checkpoints, load_latest
from fedadapt.server.client_states import ClientStates
from fedadapt.simulations import federation
from fedadapt.simulations.results import parquet as results
from fedadapt.simulations.results.accuracies import last_accuracies
from fedadapt.simulations.results.communication import by_action
from fedadapt.simulations.results.journal import Journal, journal_rows
from fedadapt.simulations.results.parquet import (
    Rows,
    read_evaluations,
    table_rows,
    write_evaluations,
)
from fedadapt.simulations.results.run_folder import RunFolder

ROWS = 6_000


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    """A journal of some more clients than there are in other tests."""
    folder = tmp_path_factory.mktemp("journal")
    with Journal(folder) as file:
        for client in range(ROWS // 2):
            file.append(evaluation(client, 0.5, kind=f"kind {client % 5}", round=0))
        for client in range(ROWS // 2):
            file.append(evaluation(client, client / ROWS, kind=f"kind {client % 5}"))
            file.append(CommunicationEntry(5, client, "evaluate", "accepted", "", 10, 24, 0.1))
        file.positions()
    return folder


def peak(work):
    """Bytes that ``work`` had at most, beside what was there."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_tables_are_written_and_read_without_holding_them(journal, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROWS_READ", 500)
    rows = Rows(lambda: journal_rows(journal, Evaluation))
    last_accuracies(rows)  # whose first call imports what it needs
    all_at_once = peak(lambda: list(rows))
    assert peak(lambda: by_action(journal_rows(journal, CommunicationEntry))) < all_at_once / 5
    assert peak(lambda: last_accuracies(rows)) < all_at_once / 3
    write_evaluations(tmp_path, rows)
    assert peak(lambda: sum(1 for _ in table_rows(tmp_path, Evaluation))) < all_at_once / 2
    # As text, since a measure that is not a number equals no other.
    assert list(map(repr, read_evaluations(tmp_path))) == list(map(repr, rows))


def test_rows_can_be_gone_through_again():
    rows = Rows(lambda: iter([1, 2]))
    assert list(rows) == list(rows) == [1, 2]
    assert rows
    assert not Rows(lambda: iter(()))


def test_a_run_that_goes_on_is_read_as_far_as_it_was_when_it_was_opened(tmp_path):
    with Journal(tmp_path) as file:
        file.append(evaluation(0, 0.5))
        file.positions()
        run = RunFolder.read(tmp_path)
        file.append(evaluation(1, 0.5))
        file.positions()
        assert [row.client for row in run.evaluations] == [0]


def test_the_last_accuracies_are_those_of_the_list(journal):
    found = last_accuracies(Rows(lambda: journal_rows(journal, Evaluation)))
    assert found.round == 5
    assert found.client.tolist() == list(range(ROWS // 2))
    assert found.kind[7] == "kind 2"
    assert found.by_label["base"].tolist() == [d / ROWS for d in range(ROWS // 2)]


def test_a_report_of_ten_thousand_clients_lists_a_few_of_them_and_says_so(tmp_path):
    rows = evaluations(10_000, last_round=0, adaptations=("none", "fine-tune"))
    text = read(finish(tmp_path, rows, communication(20), clients=10_000))
    page = Page(text)
    assert "the 10 lowest" in page.text
    assert page.tags.count("tr") < 150
    assert len(text) < 1_500_000
    assert "clients were evaluated" not in page.text


def test_a_report_says_over_how_many_clients_its_numbers_are(tmp_path):
    some = [evaluation(d, 0.5, round=r) for r in (0, 2) for d in range(3)]
    rows = [*some, *(evaluation(d, 0.6) for d in range(8))]
    text = Page(read(finish(tmp_path, rows, clients=5_000))).text
    assert "8 of 5,000 clients were evaluated; every client counts once" in text
    assert "Before the end 3 clients were evaluated, at the end 8." in text


def asked(run):
    """Which clients were evaluated after which round."""
    found = {}
    for row in run.rows(Evaluation):
        if row.split == "test":
            found.setdefault(row.round, set()).add(row.client)
    return found


def test_of_very_many_clients_some_are_evaluated_on_the_way_and_all_at_the_end(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(federation, "ON_THE_WAY", 2)
    found = asked(Run(tmp_path).go())
    assert found.keys() == {0, 2, 4}
    assert found[0] == found[2]
    assert len(found[0]) == 2
    assert 5 in found[0]  # the unseen one
    assert found[4] == set(range(6))


def test_as_many_clients_are_evaluated_as_are_asked_for(tmp_path):
    found = asked(Run(tmp_path, replace(SETTINGS, evaluate_clients=4)).go())
    assert found[0] == found[2] == found[4]
    assert len(found[4]) == 4


@pytest.mark.parametrize("stop", [("train", 3), ("evaluate", 2)])
def test_a_run_whose_clients_keep_on_the_disk_goes_on_after_a_stop_as_any_other(tmp_path, stop):
    wanted = Run(tmp_path / "whole").go()
    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        Run(folder, stop=stop, client_states=ClientStates(folder, budget=0)).go()
    assert_same_run(
        Run(folder, client_states=ClientStates(folder, budget=0)).go(resume=True), wanted
    )


def test_client_states_on_disk_are_written_to_a_checkpoint_once(tmp_path):
    run = Run(tmp_path / "run", client_states=ClientStates(tmp_path, budget=0)).go()
    saver, states = Checkpoints(tmp_path), run.states
    first = {p.name for p in saver.save(Checkpoint(1, states=states)).glob("kept-*")}
    again = {p.name for p in saver.save(Checkpoint(2, states=run.states)).glob("kept-*")}
    assert first == again != set()
    other = ClientStates(tmp_path, budget=0)
    other.restore(load_latest(tmp_path).states)
    for client, parts in states.items():
        assert list(other.of(client)) == list(parts)
        for name, tensor in parts["norms"].items():
            assert tensor.equal(other.of(client)["norms"][name])
