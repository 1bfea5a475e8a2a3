"""Errors for the user are ordinary Python errors too, and nothing swallows them on the way."""

import pytest
import third_party
import tiny
from made_up import losses

from fedadapt.errors import FedadaptError, InputError
from fedadapt.records import RoundLoss
from fedadapt.server.clustering.grouping import group_clients
from fedadapt.simulations.results.journal import Journal, journal_rows
from fedadapt.strategies.registry import select


def test_bad_input_is_a_value_error_for_people_who_call_the_library():
    with pytest.raises(ValueError, match="grouping: method: unknown 'best'"):
        group_clients(None, method="best")
    assert InputError.exit_code == 2
    assert not issubclass(FedadaptError, ValueError)


class Refusing(third_party.Halfway):
    """A Flower strategy that checks its own arguments with our error."""

    def __init__(self) -> None:
        raise InputError("share: 2; it must be at most 1")


def test_an_input_error_of_a_strangers_strategy_keeps_its_message(monkeypatch):
    monkeypatch.setattr(third_party, "Refusing", Refusing, raising=False)
    with pytest.raises(InputError, match=r"^share: 2; it must be at most 1$"):
        select(tiny.config(strategy="third_party:Refusing")).construct()


def test_an_error_of_the_reader_of_a_journal_is_not_blamed_on_the_journal(tmp_path):
    journal = Journal(tmp_path)
    for row in losses(2):
        journal.append(row)
    journal.close()
    rows = journal_rows(tmp_path, RoundLoss)
    next(rows)
    with pytest.raises(InputError, match=r"^mine$"):
        rows.throw(InputError("mine"))
