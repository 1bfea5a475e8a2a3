"""Every device asked is accounted for, and below quorum nothing happens."""

import math
from collections import Counter

import pytest
import torch
from toys import assert_same_bits, copied, sent

from fedadapt.messages import Answers, Failure, Update
from fedadapt.server.aggregation import StreamingMean
from fedadapt.server.exchange import Exchange, RoundFailedError

MODEL = {"w": torch.zeros(2, 3, dtype=torch.float64), "count": torch.tensor(3)}
DEVICES = tuple(range(10, 20))


def good(devices, *, loss=1.0, spoil=()):
    """Answers that differ from device to device; those to ``spoil`` hold a NaN."""
    w = torch.stack([torch.full((2, 3), float(d) / 7, dtype=torch.float64) for d in devices])
    for d in spoil:
        w[devices.index(d), 1, 2] = math.nan
    update = Update(
        {"w": w, "count": torch.full((len(devices),), 4)},
        torch.tensor([float(d) for d in devices], dtype=torch.float64),
        {"loss": torch.full((len(devices),), loss, dtype=torch.float64)},
    )
    return Answers(
        tuple(devices), update, {}, dict.fromkeys(devices, 100), dict.fromkeys(devices, 0.5)
    )


def failed(device, outcome="error", reason="crash:ValueError incident=0123456789ab"):
    return Answers((), None, {device: Failure(outcome, reason)}, {device: 7})


class Replies:
    """A fleet whose answers are known beforehand."""

    def __init__(self, *stream):
        self.stream = stream

    def ask(self, action, round, sent, expected):
        yield from self.stream


def exchange(*stream, min_replies=0.25, max_update_norm=0.0):
    ledger, done = [], []
    made = Exchange(
        Replies(*stream),
        4,
        min_replies=min_replies,
        max_update_norm=max_update_norm,
        record=ledger.append,
        progress=done.append,
    )
    return made, ledger, done


def mean(answers):
    total = StreamingMean()
    for some in answers:
        total.add(some.update.weights, some.update.num_examples)
    return total.result()


def test_every_device_ends_as_exactly_one_outcome():
    made, ledger, done = exchange(
        good([10, 11, 12], spoil=[11]),
        failed(13),
        failed(14, "late", "no answer after 60 s"),
        good([15, 16]),
        failed(17, "rejected", "manifest: another one"),
    )
    usable = list(made.ask("train", sent(MODEL, DEVICES), MODEL))
    assert [some.devices for some in usable] == [(10, 12), (15, 16)]
    assert sorted(e.device for e in ledger) == list(DEVICES)
    outcomes = {e.device: e.outcome for e in ledger}
    assert Counter(outcomes.values()) == {
        "accepted": 4, "rejected": 2, "error": 1, "late": 1, "lost": 2
    }  # fmt: skip
    assert (outcomes[11], outcomes[18], outcomes[19]) == ("rejected", "lost", "lost")
    assert all((e.reason == "") == (e.outcome == "accepted") for e in ledger)
    assert all(e.round == 4 and e.action == "train" for e in ledger)
    assert sum(done) == 8


def test_bytes_are_counted_message_by_message():
    made, ledger, _ = exchange(good([10, 11], spoil=[11]), failed(12))
    list(made.ask("train", sent(MODEL, DEVICES[:4]), MODEL))
    assert {e.bytes_down for e in ledger} == {2 * 3 * 8 + 8}
    assert {e.device: e.bytes_up for e in ledger} == {10: 100, 11: 100, 12: 7, 13: 0}
    assert {e.device: e.seconds for e in ledger} == {10: 0.5, 11: 0.5, 12: 0.0, 13: 0.0}


@pytest.mark.parametrize("spoilt", [[10], [13], [19], [10, 19], list(range(10, 15))])
@pytest.mark.parametrize("size", [1, 5, 10])
def test_the_mean_is_that_of_the_others_bit_for_bit(spoilt, size):
    cohorts = [DEVICES[i : i + size] for i in range(0, 10, size)]
    made, _, _ = exchange(*[good(list(c), spoil=set(spoilt) & set(c)) for c in cohorts])
    found = mean(made.ask("train", sent(MODEL, DEVICES), MODEL))
    others = [d for d in DEVICES if d not in spoilt]
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
    stream = [good([d]) for d in DEVICES[:num_good]] + [failed(d) for d in DEVICES[num_good:]]
    made, ledger, _ = exchange(*stream, min_replies=min_replies)
    answers = made.ask("train", sent(MODEL, DEVICES), MODEL)
    if passes:
        assert len(list(answers)) == num_good
    else:
        with pytest.raises(RoundFailedError, match=f"train: {num_good} of 10 devices"):
            list(answers)
    assert len(ledger) == 10


@pytest.mark.parametrize("share", [0.07, 0.14, 0.28, 0.3, 0.55, 0.56, 0.7, 1.0])
def test_a_quorum_that_is_met_exactly_is_met(share):
    # 0.55 * 100 is a little more than 55 in floating point.
    made, _, _ = exchange(good(list(range(1, 1 + round(100 * share)))), min_replies=share)
    assert list(made.ask("train", sent(MODEL, range(1, 101)), MODEL))


def test_a_rejected_answer_does_not_count_for_the_quorum():
    for stream in ([good([10, 11], spoil=[11])], [good([10]), good([11], spoil=[11])]):
        made, _, _ = exchange(*stream, min_replies=1.0)
        with pytest.raises(RoundFailedError, match="train: 1 of 2 devices"):
            list(made.ask("train", sent(MODEL, (10, 11)), MODEL))


def test_whoever_folds_below_quorum_gets_nothing():
    state = copied(MODEL)
    made, _, _ = exchange(good([10, 11]), failed(12), min_replies=0.5)
    with pytest.raises(RoundFailedError) as caught:
        state = mean(made.ask("train", sent(MODEL, DEVICES), MODEL))
    assert_same_bits(state, MODEL)
    assert "train: 2 of 10 devices gave a usable answer, 5 needed; e.g. device 12" in str(
        caught.value
    )


def test_the_loss_is_that_of_accepted_examples_in_training():
    made, _, _ = exchange(good([10, 20], loss=2.0, spoil=[20]), good([30], loss=4.0), failed(11))
    assert math.isnan(made.loss)
    list(made.ask("train", sent(MODEL, (10, 11, 20, 30)), MODEL))
    assert made.loss == pytest.approx((10 * 2.0 + 30 * 4.0) / 40)
    assert made.num_trained == 2
    list(made.ask("query.moments", sent(MODEL, (10, 11, 20, 30)), MODEL))
    assert made.num_trained == 2


def test_an_update_that_goes_too_far_is_rejected():
    made, ledger, _ = exchange(
        good([10, 14]), good([18]), max_update_norm=14 / 7 * math.sqrt(6) + 1e-9
    )
    assert [s.devices for s in made.ask("train", sent(MODEL, (10, 14, 18)), MODEL)] == [(10, 14)]
    assert [e.outcome for e in ledger] == ["accepted", "accepted", "rejected"]


def test_the_bound_is_about_what_each_device_was_sent():
    ask = sent(MODEL, (10, 14, 18))
    ask.weights["w"] = good([10, 14, 18]).update.weights["w"]
    made, ledger, _ = exchange(good([10]), good([14, 18]), max_update_norm=1e-9)
    assert len(list(made.ask("train", ask, MODEL))) == 2
    assert {e.outcome for e in ledger} == {"accepted"}
