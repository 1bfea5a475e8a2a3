"""Class selection: the client's classes alone, by logits that stay as they were."""

import pytest
import torch
from torch.func import functional_call
from toys import CLASSES, assert_same_bits, cohort, conv, initial, initials, split

from fedadapt.client.adaptations.class_selection import ClassSelection
from fedadapt.datasets.benchmark import Examples
from fedadapt.weights import row

FEW = split(9, adapt=6, seed=3)
SPLITS = [
    split(12, seed=1),
    FEW._replace(
        train=Examples(FEW.train.inputs, FEW.train.labels % 2),
        adapt=Examples(FEW.adapt.inputs, FEW.adapt.labels.clamp(min=1)),
    ),
]


@pytest.mark.parametrize(("part", "left_out"), [("train", 2), ("adapt", 0)])
def test_other_classes_never_win_and_the_logits_of_its_own_are_as_they_were(part, left_out):
    start = initials(conv(), 2)
    start["head.bias"][1, left_out] = 9
    found = ClassSelection(part=part).adapt(cohort(conv(), SPLITS), start)
    inputs = SPLITS[1].test.inputs
    model = conv().eval()
    now, before = (functional_call(model, row(w, 1), (inputs,)) for w in (found, start))
    kept = [c for c in range(CLASSES) if c != left_out]
    assert torch.equal(now[:, kept], before[:, kept])
    assert before.argmax(1).tolist() == [left_out] * len(inputs)
    assert left_out not in now.argmax(1)


def test_a_client_with_all_classes_keeps_its_model_to_the_bit():
    start = initials(conv(), 2)
    found = ClassSelection().adapt(cohort(conv(), SPLITS), start)
    assert_same_bits(row(found, 0), row(start, 0))
    assert initial(conv()).keys() == found.keys()
