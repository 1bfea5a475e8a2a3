"""Local adaptations stage by stage: what curves are made of."""

from dataclasses import replace

import pytest
from toys import assert_same_bits, cohort, conv, initials, plain, split

from fedadapt.client.adaptations.ewc import Ewc
from fedadapt.client.adaptations.fine_tune import FineTune
from fedadapt.client.adaptations.in_stages import in_stages
from fedadapt.client.adaptations.kd import Kd
from fedadapt.client.adaptations.shot_im import ShotIm
from fedadapt.client.adaptations.tent import Tent

SPLITS = [split(count, adapt=9, test=7, seed=count) for count in (5, 12, 10)]
METHODS = [
    FineTune(epochs=5, lr=0.1),
    Kd(epochs=5, lr=0.1),
    Ewc(epochs=5, lr=0.01, lam=10.0),
    Tent(epochs=5, lr=0.1, batch_size=4),
    ShotIm(epochs=5, lr=0.1, batch_size=4),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_without_stages_there_is_one_and_it_is_the_adaptation(method):
    weights = initials(conv(), len(SPLITS))
    [(epochs, found)] = method.stages(cohort(conv(), SPLITS), weights)
    assert epochs == 0  # as the adapted model is numbered in clients.parquet
    assert_same_bits(found, method.adapt(cohort(conv(), SPLITS), weights))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_the_last_stage_is_the_adaptation_and_the_first_a_shorter_one(method):
    weights = initials(conv(), len(SPLITS))
    staged = replace(method, stage=2)
    found = list(staged.stages(cohort(conv(), SPLITS), weights))
    assert [epochs for epochs, _ in found] == [2, 4, 0]
    assert_same_bits(found[-1][1], staged.adapt(cohort(conv(), SPLITS), weights))
    first = replace(method, epochs=2).adapt(cohort(conv(), SPLITS), weights)
    assert_same_bits(found[0][1], first)


@pytest.mark.parametrize(
    ("epochs", "stage", "asked", "ended"),
    [
        (5, 0, [(5, "a")], [0]),
        (5, 2, [(2, "a"), (2, "a/2"), (1, "a/4")], [2, 4, 0]),
        (4, 2, [(2, "a"), (2, "a/2")], [2, 0]),
        (3, 7, [(3, "a")], [0]),
    ],
)
def test_stages_add_up_to_all_epochs_each_with_a_random_stream_of_its_own(
    epochs, stage, asked, ended
):
    calls = []

    def train(weights, count, stream):
        calls.append((count, stream))
        return {"w": weights["w"] + count}

    found = list(in_stages(train, {"w": 0}, epochs, stage, "a"))
    assert calls == asked
    assert [number for number, _ in found] == ended
    assert found[-1][1] == {"w": epochs}


def test_a_later_stage_starts_from_the_one_before_and_remembers_the_model_received():
    weights = initials(plain(), len(SPLITS))
    method = Kd(epochs=2, stage=1, lr=0.1, share=1.0)
    (_, once), (_, twice) = method.stages(cohort(plain(), SPLITS), weights)
    # A student that is its teacher has nothing to learn: it stays, stage after stage.
    for n in weights:
        assert (once[n] - weights[n]).abs().max() < 1e-12
        assert (twice[n] - weights[n]).abs().max() < 1e-12
