"""Scores on adapt images that a model was not adapted to."""

import math
from dataclasses import dataclass

import pytest
import torch
from toys import cohort, dense, examples, initials, split

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.adaptations.fine_tune import FineTune
from fedadapt.client.adaptations.none import NoAdaptation
from fedadapt.client.cross_fitting import FOLDS, held_out_logits
from fedadapt.client.evaluation import Score, evaluate, scores
from fedadapt.weights import row


def held_out_scores(*arguments):
    """The scores of what a model says of held-out images; NaN over no image."""
    return [
        scores([z], [labels])[0] if len(labels) else Score(math.nan, math.nan, 0)
        for z, labels in held_out_logits(*arguments)
    ]


class Recorder:
    """Adapts nothing, and remembers the images that each client adapted to and was judged by."""

    def __init__(self, reads_adapt=True) -> None:
        self.adapted: dict[int, list] = {}

        @dataclass(frozen=True, kw_only=True)
        class Watching(Adaptation):
            def adapt(adaptation, members, weights, pooled=None):
                for client, part in zip(members.clients, members.part("adapt"), strict=True):
                    self.adapted.setdefault(client, []).append(part.inputs.flatten(1).sum(1))
                return weights

        self.adaptation = Watching(name="watching")


def clients(sizes, execution="sequential", **settings):
    splits = [split(8, adapt=n, seed=d) for d, n in enumerate(sizes)]
    return cohort(dense(), splits, execution, round=3, **settings)


def test_every_image_is_held_out_once_and_adapted_to_in_all_other_folds():
    members, recorder = clients([9, 4, 3, 8]), Recorder()
    weights = initials(dense(), 4)
    scores = held_out_scores(members, recorder.adaptation, weights, weights)
    assert [s.num_examples for s in scores] == [9, 4, 3, 8]
    for client, part in zip(members.clients, members.part("adapt"), strict=True):
        folds = recorder.adapted[client]
        assert len(folds) == min(FOLDS, len(part))
        every = part.inputs.flatten(1).sum(1)
        seen = torch.cat(folds)
        counts = [(seen == image).sum().item() for image in every]
        assert counts == [len(folds) - 1] * len(part)


def test_a_model_that_does_not_change_has_its_score_on_all_images():
    members, weights = clients([9, 6]), initials(dense(), 2)
    wanted = evaluate(members, weights, members.part("adapt"))
    for judged in (
        held_out_scores(members, Recorder().adaptation, weights, weights),
        held_out_scores(members, NoAdaptation(), weights, weights),
    ):
        for score, other in zip(judged, wanted, strict=True):
            assert score.accuracy == pytest.approx(other.accuracy, abs=1e-12)
            assert score.loss == pytest.approx(other.loss, abs=1e-9)


def test_an_adaptation_to_training_images_is_scored_as_it_is():
    members, received, adapted = clients([6, 6]), initials(dense(), 2), initials(dense(), 2, 7)
    scores = held_out_scores(members, FineTune(epochs=1), received, adapted)
    assert scores == evaluate(members, adapted, members.part("adapt"))


def test_a_model_that_knows_its_images_by_heart_is_not_praised_for_it():
    """Labels that are drawn by lot cannot be learnt: three folds say nothing of the fourth."""
    lots = split(8, adapt=24, seed=1)
    generator = torch.Generator().manual_seed(0)
    adapt = examples(24, 5)
    labels = torch.randint(0, 3, (24,), generator=generator)
    members = cohort(dense(), [lots._replace(adapt=type(adapt)(adapt.inputs, labels))])
    start = initials(dense(), 1)
    tuning = FineTune(part="adapt", epochs=300, lr=0.1)
    tuned = tuning.adapt(members, start)
    [by_heart] = evaluate(members, tuned, members.part("adapt"))
    [held_out] = held_out_scores(members, tuning, start, tuned)
    assert by_heart.accuracy > 0.9
    assert held_out.accuracy < 0.6


def test_a_client_with_two_images_has_no_score():
    """One is held out, and batch norm cannot adapt to the other."""
    members, weights = clients([1, 5, 2]), initials(dense(), 3)
    scores = held_out_scores(members, Recorder().adaptation, weights, weights)
    assert [score.num_examples for score in scores] == [0, 5, 0]


@pytest.mark.parametrize("execution", ["stacked-kernels", "vmap"])
def test_clients_together_score_as_each_does_alone(execution):
    sizes, weights = [9, 5, 4, 3], initials(dense(), 4)
    tuning = FineTune(part="adapt", epochs=2, batch_size=4)
    together = clients(sizes, execution)
    scores = held_out_scores(together, tuning, weights, tuning.adapt(together, weights))
    alone = clients(sizes)
    for d, score in enumerate(scores):
        own = {n: t.unsqueeze(0) for n, t in row(weights, d).items()}
        one = alone.only(d)
        [wanted] = held_out_scores(one, tuning, own, tuning.adapt(one, own))
        assert score.num_examples == wanted.num_examples
        assert score == pytest.approx(wanted, nan_ok=True, abs=1e-9)
