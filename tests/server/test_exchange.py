"""Every client asked is accounted for, and below quorum nothing happens."""

import math
from collections import Counter

import pytest
import torch
from toys import assert_same_bits, copied, sent

from fedadapt.messages import Answers, Failure, Sent, Update
from fedadapt.server.aggregation import StreamingMean
from fedadapt.server.exchange import Exchange, RoundFailedError

MODEL = {"w": torch.zeros(2, 3, dtype=torch.float64), "count": torch.tensor(3)}
CLIENTS = tuple(range(10, 20))


def good(clients, *, loss=1.0, corrupt_reply=()):
    """Answers that differ from client to client; those to ``corrupt_reply`` hold a NaN."""
    w = torch.stack([torch.full((2, 3), float(d) / 7, dtype=torch.float64) for d in clients])
    for d in corrupt_reply:
        w[clients.index(d), 1, 2] = math.nan
    update = Update(
        {"w": w, "count": torch.full((len(clients),), 4)},
        torch.tensor([float(d) for d in clients], dtype=torch.float64),
        {"loss": torch.full((len(clients),), loss, dtype=torch.float64)},
    )
    return Answers(
        tuple(clients), update, {}, dict.fromkeys(clients, 100), dict.fromkeys(clients, 0.5)
    )


def failed(client, outcome="error", reason="crash:ValueError incident=0123456789ab"):
    return Answers((), None, {client: Failure(outcome, reason)}, {client: 7})


class Replies:
    """A fleet whose answers are known beforehand."""

    def __init__(self, *stream):
        self.stream = stream

    def ask(self, action, round, sent, expected):
        yield from self.stream


def exchange(*stream, min_replies=0.25, max_update_norm=0.0, max_update_factor=0.0):
    communication, done = [], []
    made = Exchange(
        Replies(*stream),
        4,
        min_replies=min_replies,
        max_update_norm=max_update_norm,
        max_update_factor=max_update_factor,
        record=communication.append,
        progress=done.append,
    )
    return made, communication, done


def mean(answers):
    total = StreamingMean()
    for some in answers:
        total.add(some.update.weights, some.update.num_examples)
    return total.result()


def test_every_client_ends_as_exactly_one_outcome():
    made, communication, done = exchange(
        good([10, 11, 12], corrupt_reply=[11]),
        failed(13),
        failed(14, "late", "no answer after 60 s"),
        good([15, 16]),
        failed(17, "rejected", "manifest: another one"),
    )
    usable = list(made.ask("train", sent(MODEL, CLIENTS), MODEL))
    assert [some.clients for some in usable] == [(10, 12), (15, 16)]
    assert sorted(e.client for e in communication) == list(CLIENTS)
    outcomes = {e.client: e.outcome for e in communication}
    assert Counter(outcomes.values()) == {
        "accepted": 4, "rejected": 2, "error": 1, "late": 1, "lost": 2
    }  # fmt: skip
    assert (outcomes[11], outcomes[18], outcomes[19]) == ("rejected", "lost", "lost")
    assert all((e.reason == "") == (e.outcome == "accepted") for e in communication)
    assert all(e.round == 4 and e.action == "train" for e in communication)
    assert sum(done) == 8


def test_bytes_are_counted_message_by_message():
    made, communication, _ = exchange(good([10, 11], corrupt_reply=[11]), failed(12))
    list(made.ask("train", sent(MODEL, CLIENTS[:4]), MODEL))
    assert {e.bytes_down for e in communication} == {2 * 3 * 8 + 8}
    assert {e.client: e.bytes_up for e in communication} == {10: 100, 11: 100, 12: 7, 13: 0}
    assert {e.client: e.seconds for e in communication} == {10: 0.5, 11: 0.5, 12: 0.0, 13: 0.0}


@pytest.mark.parametrize("corrupted", [[10], [13], [19], [10, 19], list(range(10, 15))])
@pytest.mark.parametrize("size", [1, 5, 10])
def test_the_mean_is_that_of_the_others_bit_for_bit(corrupted, size):
    cohorts = [CLIENTS[i : i + size] for i in range(0, 10, size)]
    made, _, _ = exchange(*[good(list(c), corrupt_reply=set(corrupted) & set(c)) for c in cohorts])
    found = mean(made.ask("train", sent(MODEL, CLIENTS), MODEL))
    others = [d for d in CLIENTS if d not in corrupted]
    assert_same_bits(found, mean([good(others)]))


@pytest.mark.parametrize(
    ("num_good", "min_replies", "passes"),
    [
        (5, 0.5, True),
        (4, 0.5, False),
        (10, 1.0, True),
        (9, 1.0, False),
        (1, 0.01, True),
        (0, 0.01, False),
        (7, 0.7, True),
        (7, 0.71, False),
    ],
)
def test_the_quorum_is_a_share_of_those_asked_and_at_least_one(num_good, min_replies, passes):
    stream = [good([d]) for d in CLIENTS[:num_good]] + [failed(d) for d in CLIENTS[num_good:]]
    made, communication, _ = exchange(*stream, min_replies=min_replies)
    answers = made.ask("train", sent(MODEL, CLIENTS), MODEL)
    if passes:
        assert len(list(answers)) == num_good
    else:
        with pytest.raises(RoundFailedError, match=f"train: {num_good} of 10 clients"):
            list(answers)
    assert len(communication) == 10


@pytest.mark.parametrize("share", [0.07, 0.14, 0.28, 0.3, 0.55, 0.56, 0.7, 1.0])
def test_a_quorum_that_is_met_exactly_is_met(share):
    # 0.55 * 100 is a little more than 55 in floating point.
    made, _, _ = exchange(good(list(range(1, 1 + round(100 * share)))), min_replies=share)
    assert list(made.ask("train", sent(MODEL, range(1, 101)), MODEL))


def test_an_exchange_with_nobody_has_no_quorum_to_lose():
    made, communication, _ = exchange(min_replies=1.0)
    assert list(made.ask("query.install", Sent((), {}, {}), {})) == []
    assert communication == []


def test_a_rejected_answer_does_not_count_for_the_quorum():
    for stream in (
        [good([10, 11], corrupt_reply=[11])],
        [good([10]), good([11], corrupt_reply=[11])],
    ):
        made, _, _ = exchange(*stream, min_replies=1.0)
        with pytest.raises(RoundFailedError, match="train: 1 of 2 clients"):
            list(made.ask("train", sent(MODEL, (10, 11)), MODEL))


def test_a_mean_below_quorum_is_not_made():
    state = copied(MODEL)
    made, _, _ = exchange(good([10, 11]), failed(12), min_replies=0.5)
    with pytest.raises(RoundFailedError) as caught:
        state = mean(made.ask("train", sent(MODEL, CLIENTS), MODEL))
    assert_same_bits(state, MODEL)
    assert "train: 2 of 10 clients gave a usable answer, 5 needed; e.g. client 12" in str(
        caught.value
    )


def test_the_loss_is_that_of_accepted_examples_in_training():
    made, _, _ = exchange(
        good([10, 20], loss=2.0, corrupt_reply=[20]), good([30], loss=4.0), failed(11)
    )
    assert math.isnan(made.loss)
    list(made.ask("train", sent(MODEL, (10, 11, 20, 30)), MODEL))
    assert made.loss == pytest.approx((10 * 2.0 + 30 * 4.0) / 40)
    assert made.num_trained == 2
    list(made.ask("query.moments", sent(MODEL, (10, 11, 20, 30)), MODEL))
    assert made.num_trained == 2


def test_an_update_that_goes_too_far_is_rejected():
    made, communication, _ = exchange(
        good([10, 14]), good([18]), max_update_norm=14 / 7 * math.sqrt(6) + 1e-9
    )
    assert [s.clients for s in made.ask("train", sent(MODEL, (10, 14, 18)), MODEL)] == [(10, 14)]
    assert [e.outcome for e in communication] == ["accepted", "accepted", "rejected"]


def test_the_bound_is_about_what_each_client_was_sent():
    ask = sent(MODEL, (10, 14, 18))
    ask.weights["w"] = good([10, 14, 18]).update.weights["w"]
    made, communication, _ = exchange(good([10]), good([14, 18]), max_update_norm=1e-9)
    assert len(list(made.ask("train", ask, MODEL))) == 2
    assert {e.outcome for e in communication} == {"accepted"}


def longer(client, factor):
    """The answer of a client whose update is so many times as long as that of client 10."""
    answers = good([client])
    answers.update.weights["w"][:] = 10 * factor / 7
    return answers


@pytest.mark.parametrize(("factor", "rejected"), [(0.0, []), (3.0, [14]), (1000.0, [])])
def test_an_update_much_longer_than_the_usual_one_is_rejected(factor, rejected):
    """Wherever in the stream it comes; others are used as they are."""
    stream = [longer(14, 900.0), good([10, 11]), good([12]), longer(13, 2.0)]
    made, communication, _ = exchange(*stream, max_update_factor=factor)
    usable = list(made.ask("train", sent(MODEL, CLIENTS[:5]), MODEL))
    assert [e.client for e in communication if e.outcome == "rejected"] == rejected
    assert sorted(d for some in usable for d in some.clients) == sorted(
        {*CLIENTS[:5]} - {*rejected}
    )
    for some in usable:
        if some.clients == (10, 11):
            assert_same_bits(some.update.weights, good([10, 11]).update.weights)


def test_the_median_is_of_usable_updates_and_two_of_four_cannot_raise_it():
    stream = [longer(10, 500.0), good([11, 12], corrupt_reply=[]), longer(13, 500.0)]
    stream.append(good([14], corrupt_reply=[14]))
    made, communication, _ = exchange(*stream, max_update_factor=2.0)
    list(made.ask("train", sent(MODEL, CLIENTS[:5]), MODEL))
    outcomes = {e.client: e.outcome for e in communication}
    assert [outcomes[d] for d in CLIENTS[:5]] == [
        "rejected", "accepted", "accepted", "rejected", "rejected"
    ]  # fmt: skip


def test_two_updates_tell_nothing_of_what_is_usual_and_queries_are_no_updates():
    for action, stream in (("train", [longer(10, 1.0), longer(11, 900.0)]),
                           ("query.moments", [longer(10, 900.0), good([11, 12, 13])])):  # fmt: skip
        made, communication, _ = exchange(*stream, max_update_factor=2.0)
        list(made.ask(action, sent(MODEL, CLIENTS[: len(communication) or 4]), MODEL))
        assert not [e for e in communication if e.outcome == "rejected"]


def test_the_factor_tightens_the_bound_and_never_loosens_it():
    stream = [longer(d, 1.0) for d in (10, 11, 12)] + [longer(13, 3.0)]
    for norm in (40.0, 1e9):  # lengths are sqrt(6) 10 / 7 = 3.5, and three times that
        made, communication, _ = exchange(*stream, max_update_norm=norm / 10, max_update_factor=2.0)
        list(made.ask("train", sent(MODEL, CLIENTS[:4]), MODEL))
        assert [e.client for e in communication if e.outcome == "rejected"] == [13]
