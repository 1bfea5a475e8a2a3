"""Balanced accuracy, F1 and AUC are those of scikit-learn, client by client."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from fedadapt.client import class_metrics as module
from fedadapt.client.class_metrics import class_metrics
from fedadapt.client.evaluation import scores


def softmax(logits):
    """Rounded as ours: else some of the images that tie would not."""
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def drawn(sizes, num_classes, seed=0, ties=False):
    random = np.random.default_rng(seed)
    labels = random.integers(0, num_classes, sum(sizes))
    logits = random.normal(size=(sum(sizes), num_classes)) + 0.8 * np.eye(num_classes)[labels]
    return (np.round(logits) if ties else logits), labels


def theirs(logits, labels):
    """One client's three numbers; scikit-learn's AUC wants every class, so it is asked for each."""
    areas = [
        roc_auc_score(labels == c, softmax(logits)[:, c])
        for c in range(logits.shape[1])
        if 0 < (labels == c).sum() < len(labels)
    ]
    predicted = logits.argmax(1)
    return (
        balanced_accuracy_score(labels, predicted),
        f1_score(labels, predicted, average="macro"),
        np.mean(areas) if areas else math.nan,
    )


@pytest.mark.filterwarnings("ignore:y_pred contains classes", "ignore:A single label")
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_they_are_those_of_scikit_learn_for_every_client(num_classes, ties):
    sizes = [1, 2, 5, 17, 40, 9]
    logits, labels = drawn(sizes, num_classes, num_classes, ties)
    found = np.stack(class_metrics(logits, labels, sizes), axis=1)
    ends = np.cumsum(sizes)
    wanted = [
        theirs(logits[e - n : e], labels[e - n : e]) for n, e in zip(sizes, ends, strict=True)
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_by_hand():
    """Class 0 is found twice of three times, class 1 once of one; class 2 is not there."""
    logits = np.array([[3.0, 0, 0], [2, 0, 0], [0, 2, 1], [0, 1, 0]])
    labels = np.array([0, 0, 0, 1])
    [balanced], [f1], [auc] = class_metrics(logits, labels, [4])
    assert balanced == pytest.approx((2 / 3 + 1) / 2)
    assert f1 == pytest.approx((4 / 5 + 2 / 3) / 2)
    # Of class 1 against 0 the last image has more than the first two, and less than the third.
    assert auc == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_order_decides_the_auc_and_a_constant_is_worth_a_half():
    labels = np.array([0, 0, 1, 1, 1])
    rising = np.stack([np.zeros(5), np.arange(5.0)], axis=1)
    assert class_metrics(rising, labels, [5]).auc.tolist() == [1.0]
    assert class_metrics(rising[::-1], labels, [5]).auc.tolist() == [0.0]
    assert class_metrics(np.zeros((5, 2)), labels, [5]).auc.tolist() == [0.5]


def test_one_class_alone_has_no_auc_and_a_broken_model_has_none():
    logits, labels = drawn([6, 6], 3)
    labels[:6] = 1
    logits[7, 0] = math.nan
    found = class_metrics(logits, labels, [6, 6])
    assert np.isnan(found.auc).tolist() == [True, True]
    assert np.isfinite(found.f1).all()


def test_classes_sorted_some_at_a_time_are_the_same(monkeypatch):
    sizes = [4, 8]
    logits, labels = drawn(sizes, 5)
    whole = class_metrics(logits, labels, sizes)
    monkeypatch.setattr(module, "NUMBERS_AT_ONCE", 1)
    np.testing.assert_array_equal(class_metrics(logits, labels, sizes).auc, whole.auc)


def test_clients_of_very_different_sizes_together_are_each_as_alone():
    """Short rows are filled up behind longer ones; what fills them counts for nobody."""
    sizes = [2, 3, 3, 4, 64, 65, 130]
    for ties in (False, True):
        logits, labels = drawn(sizes, 4, seed=5, ties=ties)
        together = np.stack(class_metrics(logits, labels, sizes), axis=1)
        for n, end, found in zip(sizes, np.cumsum(sizes), together, strict=True):
            alone = class_metrics(logits[end - n : end], labels[end - n : end], [n])
            np.testing.assert_array_equal(found, np.stack(alone, axis=1)[0])


def test_one_tie_among_many_that_differ_shares_its_rank():
    """The quick way for ranks without ties is not taken where a single pair ties."""
    values = np.array([[0.0, 1.0, 1.0, 3.0], [0.0, 1.0, 2.0, 3.0]])
    assert module._ranks(values).tolist() == [[1, 2.5, 2.5, 4], [1, 2, 3, 4]]
    labels = np.array([0, 1, 0, 1])
    logits = np.stack([np.zeros(4), values[0]], axis=1)
    assert class_metrics(logits, labels, [4]).auc.tolist() == [(1 + 0.5 + 2) / 4]


def test_a_single_broken_image_makes_the_client_s_auc_unknown_and_no_other_s():
    logits, labels = drawn([6, 6, 6], 3)
    logits[8] = math.inf
    assert np.isnan(class_metrics(logits, labels, [6, 6, 6]).auc).tolist() == [False, True, False]


def test_a_score_has_them_beside_accuracy():
    logits, labels = drawn([5, 9], 3)
    parts = [torch.from_numpy(x) for x in (logits[:5], logits[5:])]
    own = [torch.from_numpy(x) for x in (labels[:5], labels[5:])]
    found = scores(parts, own)
    wanted = class_metrics(logits, labels, [5, 9])
    assert [score.num_examples for score in found] == [5, 9]
    for d, score in enumerate(found):
        numbers = (score.balanced_accuracy, score.f1, score.auc)
        assert numbers == tuple(column[d] for column in wanted)
