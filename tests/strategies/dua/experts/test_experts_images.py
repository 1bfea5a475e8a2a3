"""In which order and in which views an expert sees its images, and which epoch is kept."""

import torch
from lessons import TASKS, experts, network, whole
from toys import as_they_are, assert_close, assert_same_bits

from fedadapt.client.evaluation import evaluate
from fedadapt.datasets.benchmark import Examples, Scaling
from fedadapt.datasets.task_incremental.benchmark import Task
from fedadapt.models.network import Network
from fedadapt.strategies.dua.experts.data import cohort_of
from fedadapt.strategies.dua.experts.training import (
    task_model,
    train_experts,
)
from fedadapt.weights import repeat


def accuracy(net, found, name, after=-1):
    [own] = [t for t in TASKS if t.name == name]
    cohort = cohort_of(net, own, 0, scaling=as_they_are, seed=0, compute="cpu")
    [score] = evaluate(cohort, repeat(task_model(found, name, after), 1), [own.validation])
    return score.accuracy


def test_the_best_epoch_is_kept_and_the_next_task_starts_from_it():
    told = []
    found = experts(whole(lr=0.4, epochs=12, stop_after=4), progress=told.append)
    for number, expert in enumerate(found, start=1):
        seen = [e for e in told if e.number == number]
        assert expert.accuracy == max(e.accuracy for e in seen)
        assert accuracy(network(), found, expert.name, number - 1) == expert.accuracy
        assert expert.epochs == len(seen)
    best = max(told[: found[0].epochs], key=lambda e: e.accuracy).epoch
    early = experts(whole(lr=0.4, epochs=best, stop_after=4), TASKS[:1])
    assert_same_bits(early[0].weights, found[0].weights)


def test_batch_norm_is_as_new_before_each_task_where_asked():
    # A step of no length leaves the start: statistics do follow the images, scale and shift do not.
    found = experts(whole("fine-tune", lr=1e-300, epochs=1, reset_norms=True))
    for expert in found:
        assert expert.body["body.2.weight"].eq(1).all()
        assert expert.body["body.2.bias"].abs().max() < 1e-200
        assert expert.body["body.2.num_batches_tracked"] == 1
    states = experts(whole("fine-tune", lr=1e-300, epochs=1))
    assert_close({"w": states[2].body["body.2.weight"]}, {"w": network().body[2].weight.detach()})


def test_training_views_are_cropped_and_flipped_but_validation_is_as_it_is():
    random = torch.Generator().manual_seed(0)

    def images(count):
        one = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=random)
        return Examples(one.repeat(count, 1, 1, 1), torch.arange(count) % 2)  # order does not show

    scenes = [Task("scenes", ("a", "b"), images(8), images(6))]
    net = Network(torch.nn.Flatten(), 3 * 32 * 32, 2)
    seen = []

    class Watching(Scaling):
        def __call__(self, inputs):
            seen.append(inputs.clone())
            return super().__call__(inputs)

    def learnt(**changes):
        seen.clear()
        return train_experts(net, scenes, whole(**{"epochs": 2} | changes), seed=1,
                             scaling=Watching((0.5,) * 3, (0.5,) * 3))  # fmt: skip

    state = torch.get_rng_state()
    one = learnt(augment_from=32)
    assert torch.equal(torch.get_rng_state(), state)
    given = {t.numpy().tobytes() for t in scenes[0].train.inputs}
    first, val, second, _ = seen
    assert first.dtype == torch.uint8
    assert first.shape == (1, 8, 3, 32, 32)
    assert not {t.numpy().tobytes() for t in first[0]} & given
    other = {t.numpy().tobytes() for t in second[0]}
    assert not {t.numpy().tobytes() for t in first[0]} & other
    assert torch.equal(val, scenes[0].validation.inputs)
    assert_same_bits(learnt(augment_from=32)[0].weights, one[0].weights)
    for off in (33, None):
        learnt(augment_from=off)
        assert {t.numpy().tobytes() for t in seen[0].view(-1, 3, 32, 32)} == given


def test_every_epoch_has_an_order_of_its_own():
    seen = []

    def watching(inputs):
        seen.append(inputs.clone())
        return inputs

    experts(whole("fine-tune", epochs=2), TASKS[:1], scaling=watching)
    first, _, second, _ = seen  # after each epoch comes the validation
    assert not torch.equal(first, second)
    assert torch.equal(first.sort(1).values, second.sort(1).values)
