"""What an adaptation asks all training clients: round after round, weighted, or left out."""

import logging
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.adaptations.composition import Composition
from fedadapt.client.adaptations.none import NoAdaptation
from fedadapt.client.adaptations.query import BEFORE, Query
from fedadapt.messages import Answers, Sent, Update
from fedadapt.server.exchange import RoundFailedError
from fedadapt.simulations.pooled_answers import pooled_answer, pooled_answers

BASE = {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)}


@dataclass(frozen=True, kw_only=True)
class Asks(Adaptation):
    rounds: ClassVar[int] = 3

    def query(self) -> Query:
        return Query(action=f"query.{self.name}", answer=lambda cohort, w: w, rounds=self.rounds)

    def adapt(self, cohort, weights, pooled=None):
        return weights


def doubling(fails_in: dict[str, int] | None = None):
    """Answers one more than twice the mean of the round before; notes what it was asked."""
    asked: list[tuple[str, float]] = []

    def ask(query: Query, base, before):
        assert base is BASE
        assert all(name.startswith(BEFORE) for name in before)
        last = float(before.get(f"{BEFORE}m", torch.tensor(0.0)))
        number = sum(action == query.action for action, _ in asked) + 1
        asked.append((query.action, last))
        if (fails_in or {}).get(query.action) == number:
            raise RoundFailedError(query.action, 0, 3, 2, ["lost, gone"])
        return {"m": torch.tensor(2 * last + 1, dtype=torch.float64)}

    return ask, asked


def test_each_round_is_asked_with_the_mean_of_the_one_before_and_the_last_counts():
    ask, asked = doubling()
    pooled = pooled_answers([NoAdaptation(), Asks(name="a")], ask, BASE)
    assert asked == [("query.a", 0.0), ("query.a", 1.0), ("query.a", 3.0)]
    assert {name: answers["m"].item() for name, answers in pooled.items()} == {"a": 7.0}


def test_an_adaptation_that_is_part_of_several_is_asked_for_once():
    ask, asked = doubling()
    one, other = Asks(name="a"), Asks(name="b")
    both = Composition(chain=(one, other))
    pooled = pooled_answers([one, both], ask, BASE)
    assert sorted(pooled) == ["a", "b"]
    assert [action for action, _ in asked] == ["query.a"] * 3 + ["query.b"] * 3


@pytest.mark.parametrize(
    ("fails", "left", "words"),
    [(1, None, "a does without"), (2, 1.0, "a keeps to the round before"), (3, 3.0, "keeps to")],
)
def test_a_round_without_enough_answers_leaves_what_the_one_before_gave(caplog, fails, left, words):
    caplog.set_level(logging.WARNING)
    ask, asked = doubling({"query.a": fails})
    pooled = pooled_answers([Asks(name="a"), Asks(name="b")], ask, BASE)
    assert pooled["b"]["m"].item() == 7.0  # the others are asked all the same
    assert (pooled["a"]["m"].item() if "a" in pooled else None) == left
    [line] = caplog.messages
    assert "0 of 3 clients gave a usable answer" in line
    assert words in line
    assert len(asked) == fails + 3


class Told:
    """An exchange whose clients have answered."""

    def __init__(self, *answers: Answers) -> None:
        self.answers = answers

    def ask(self, action, sent, expected):
        return iter(self.answers)


def test_the_mean_of_a_round_is_weighted_by_training_examples():
    first = Update({"m": torch.tensor([[1.0], [4.0]], dtype=torch.float64)}, torch.tensor([1, 2]))
    second = Update({"m": torch.tensor([[10.0]], dtype=torch.float64)}, torch.tensor([5]))
    nobody = Answers((), None, {})
    exchange = Told(Answers((0, 1), first, {}), nobody, Answers((2,), second, {}))
    mean = pooled_answer(exchange, "query.a", Sent((0, 1, 2), BASE, {}), {})
    assert mean["m"].tolist() == [(1 * 1 + 2 * 4 + 5 * 10) / 8]
