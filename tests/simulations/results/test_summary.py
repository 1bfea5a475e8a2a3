import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import communication, evaluation, evaluations, losses

from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.records import CommunicationEntry, EvaluationFailure, RoundLoss
from fedadapt.simulations.results.accuracies import last_accuracies, order_labels
from fedadapt.simulations.results.summary import (
    describe,
    per_kind,
    read_summary,
    summarise,
    write_summary,
)

CONFIG = RunConfig(clients=4, rounds=5, adapt="none,fine-tune,adabn")


def summary_of(rows, entries=(), means=(), config=CONFIG, seconds=1.5, failures=()):
    return summarise(config, "abc", rows, entries, means, seconds, failures)


def test_the_numbers_of_four_clients_are_those_computed_by_hand():
    before, after = [0.4, 0.6, 0.8, 1.0], [0.7, 0.5, 0.8, 1.0]
    rows = [evaluation(d, a) for d, a in enumerate(before)]
    rows += [evaluation(d, a, "local") for d, a in enumerate((0.8, 0.8, 0.9, 0.9))]
    rows += [evaluation(d, a, "base+fine-tune") for d, a in enumerate(after)]
    assert summary_of(rows)["accuracy"] == {
        "base": {
            "mean": 0.7,
            "std": round(math.sqrt((0.09 + 0.01 + 0.01 + 0.09) / 4), 6),
            "worst10": 0.4,
            "min": 0.4,
            "gain": 0.0,
            "share_worse": 0.0,
            "over_local": -0.15,
            "share_below_local": 0.75,
            "num_clients": 4,
        },
        "base+fine-tune": {
            "mean": 0.75,
            "std": round(math.sqrt((0.0025 + 0.0625 + 0.0025 + 0.0625) / 4), 6),
            "worst10": 0.5,
            "min": 0.5,
            "gain": 0.05,
            "share_worse": 0.25,
            "over_local": -0.1,
            "share_below_local": 0.75,
            "num_clients": 4,
        },
        "local": {
            "mean": 0.85,
            "std": 0.05,
            "worst10": 0.8,
            "min": 0.8,
            "gain": 0.15,
            "share_worse": 0.25,
            "over_local": 0.0,
            "share_below_local": 0.0,
            "num_clients": 4,
        },
    }


def test_training_alone_is_the_first_row_and_never_the_one_that_pictures_show():
    rows = [evaluation(0, a, label) for a, label in ((0.5, "base"), (0.9, "local"))]
    assert list(summary_of(rows)["accuracy"]) == ["local", "base"]
    assert last_accuracies(rows).final is None
    tuned = [*rows, evaluation(0, 0.7, "base+kd")]
    assert last_accuracies(tuned).final == "base+kd"


def test_what_failed_on_all_clients_is_a_row_over_no_client():
    rows = [evaluation(d, 0.5) for d in range(3)] + [evaluation(0, 0.6, "base+kd")]
    failures = [EvaluationFailure(5, d, "base", "adabn", "crash:ValueError") for d in range(3)]
    failures += [EvaluationFailure(5, d, "base", "kd", "crash:ValueError") for d in (1, 2)]
    failures += [EvaluationFailure(2, 0, "base", "none", "crash:ValueError")]
    found = summary_of(rows, failures=failures)
    assert {n: f["num_clients"] for n, f in found["accuracy"].items()} == {
        "base": 3, "base+adabn": 0, "base+kd": 1,
    }  # fmt: skip
    assert found["accuracy"]["base+adabn"]["mean"] is None
    assert found["failed_evaluations"] == {"base+adabn": 3, "base+kd": 2}
    assert found["clients_evaluated"] == 3


@pytest.mark.parametrize(
    ("num_clients", "num_worst"), [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (30, 3), (31, 4)]
)
def test_the_worst_tenth_is_rounded_up_to_whole_clients(num_clients, num_worst):
    accuracy = np.linspace(0, 1, num_clients)
    found = describe(accuracy[::-1], np.zeros(num_clients))["worst10"]
    assert found == pytest.approx(accuracy[:num_worst].mean())


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_summaries_keep_their_order(right):
    accuracy = np.array(right) / 50
    found = describe(accuracy, accuracy - 0.5)
    assert found["min"] <= found["worst10"] + 1e-12
    assert found["worst10"] <= found["mean"] + 1e-12
    assert found["gain"] == pytest.approx(found["mean"] - 0.5)
    assert found["share_worse"] == np.mean([r < 25 for r in right])


def test_clients_count_once_however_many_images_they_have():
    rows = [evaluation(0, 0.0, num_examples=1), evaluation(1, 1.0, num_examples=1000)]
    assert summary_of(rows)["accuracy"]["base"]["mean"] == 0.5


def test_gain_is_taken_on_the_same_client_only():
    rows = [evaluation(0, 0.2), evaluation(1, 0.9), evaluation(1, 0.8, "base+fine-tune")]
    tuned = summary_of(rows)["accuracy"]["base+fine-tune"]
    assert tuned["gain"] == -0.1  # against client 1's own base, not the mean of both
    assert tuned["share_worse"] == 1.0
    assert tuned["num_clients"] == 1


def test_noise_of_arithmetic_makes_no_client_worse():
    rows = [evaluation(0, 0.7), evaluation(0, float(np.float32(0.7)) - 1e-8, "base+adabn")]
    assert summary_of(rows)["accuracy"]["base+adabn"]["share_worse"] == 0.0


def test_a_label_without_a_base_has_no_gain():
    found = summary_of([evaluation(0, 0.7, "personal")])["accuracy"]
    assert found["personal"]["gain"] is None
    assert found["personal"]["share_worse"] is None


def test_only_the_last_evaluated_round_counts():
    rows = [evaluation(0, 0.1, round=0), evaluation(0, 0.9), evaluation(0, 0.2, round=3)]
    found = summary_of(rows)
    assert found["evaluated_round"] == 5
    assert found["accuracy"]["base"]["mean"] == 0.9


def test_unseen_clients_are_kept_apart():
    rows = [evaluation(0, 0.9), evaluation(1, 0.1, seen=False)]
    found = summary_of(rows)
    assert found["accuracy"]["base"]["mean"] == 0.9
    assert found["accuracy_unseen"]["base"]["mean"] == 0.1
    assert "accuracy_unseen" not in summary_of(rows[:1])


def test_the_global_test_is_kept_apart_from_the_clients_own():
    rows = [evaluation(0, 0.9), evaluation(-1, 0.3, split="global")]
    found = summary_of(rows)
    assert found["accuracy"]["base"] == summary_of(rows[:1])["accuracy"]["base"]
    assert found["global_test"] == {"base": 0.3}
    personal = [evaluation(d, a, "personal", split="global") for d, a in enumerate((0.2, 0.6))]
    assert summary_of([*rows, *personal])["global_test"] == {"base": 0.3, "personal": 0.4}


def test_the_communication_log_is_counted_by_outcome_and_byte():
    entries = [
        CommunicationEntry(1, 0, "train", "accepted", "", 100, 90, 0.0),
        CommunicationEntry(1, 1, "train", "rejected", "not finite", 100, 80, 0.0),
        CommunicationEntry(1, 2, "train", "lost", "gone", 100, 0, 0.0),
        CommunicationEntry(2, 0, "train", "accepted", "", 100, 90, 0.0),
    ]
    found = summary_of([evaluation(0, 0.5)], entries, [RoundLoss(2, 0.5, 1), RoundLoss(1, 0.9, 1)])
    assert found["outcomes"] == {"accepted": 2, "rejected": 1, "error": 0, "late": 0, "lost": 1}
    assert (found["messages"], found["bytes_down"], found["bytes_up"]) == (4, 400, 260)
    assert found["train_loss"] == 0.5


def test_the_same_rows_in_any_order_write_the_same_bytes(tmp_path):
    rows, entries, means = evaluations(23), communication(23), losses()
    expected = write_summary(tmp_path, summary_of(rows, entries, means)).read_bytes()
    for seed in range(3):
        for part in (rows, entries, means):
            random.Random(seed).shuffle(part)
        found = summary_of(rows, entries, means)
        assert write_summary(tmp_path, found).read_bytes() == expected
    assert read_summary(tmp_path) == found
    assert "NaN" not in expected.decode()


def test_the_summary_describes_the_run():
    found = summary_of([evaluation(0, 0.5)])
    assert {k: found[k] for k in ("benchmark", "manifest", "strategy", "model", "seed")} == {
        "benchmark": "digits-classes",
        "manifest": "abc",
        "strategy": "fedavg",
        "model": "mlp",
        "seed": 1,
    }
    assert (found["clients"], found["rounds"], found["seconds"]) == (4, 5, 1.5)


def test_a_run_that_evaluated_nothing_has_a_summary(tmp_path):
    found = summary_of([])
    assert found["accuracy"] == {}
    assert found["train_loss"] is None
    assert json.loads(write_summary(tmp_path, found).read_text()) == found


def test_the_same_client_twice_is_refused():
    with pytest.raises(InputError, match="client 3 has 'base' twice in round 5"):
        summary_of([evaluation(3, 0.5), evaluation(3, 0.6)])


def test_labels_come_in_the_order_of_asking():
    labels = ["personal+kd", "base+adabn", "personal", "base+kd", "base+zzz", "base"]
    assert order_labels(labels, ("none", "kd", "adabn")) == [
        "base",
        "base+kd",
        "base+adabn",
        "base+zzz",
        "personal",
        "personal+kd",
    ]


def test_kinds_have_means_and_gains_of_their_own_clients():
    rows = [
        evaluation(0, 0.2, kind="b"),
        evaluation(0, 0.5, "base+kd", kind="b"),
        evaluation(1, 0.4, kind="b"),
        evaluation(2, 0.8, kind="a"),
        evaluation(3, 0.1, kind="a", seen=False),
    ]
    a, b, unseen = per_kind(last_accuracies(rows))
    assert (a.kind, a.seen, a.num_clients, a.accuracy) == ("a", True, 1, {"base": 0.8})
    assert b.accuracy == pytest.approx({"base": 0.3, "base+kd": 0.5})
    assert b.gain == pytest.approx({"base": 0.0, "base+kd": 0.3})
    assert (unseen.kind, unseen.seen, unseen.accuracy) == ("a", False, {"base": 0.1})


@pytest.mark.parametrize("content", [None, "{", "[]", "\x00"])
def test_a_missing_or_damaged_summary_is_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    with pytest.raises(InputError, match=r"summary\.json: "):
        read_summary(tmp_path)


def test_bytes_of_evaluation_are_counted_apart_from_those_of_training():
    entries = [
        CommunicationEntry(1, 0, "train", "accepted", "", 100, 90, 0.0),
        CommunicationEntry(1, 0, "evaluate", "accepted", "", 70, 8, 0.0, "evaluation"),
        CommunicationEntry(2, 0, "query.importance", "accepted", "", 30, 40, 0.0, "evaluation"),
    ]
    found = summary_of([evaluation(0, 0.5)], entries)
    assert (found["bytes_down"], found["bytes_up"]) == (100, 90)
    assert found["evaluation"] == {"bytes_down": 100, "bytes_up": 48}
