"""Experts: every method against its formula in plain torch, and what must hold for all of them."""

from dataclasses import replace

import pytest
import torch
from lessons import SEED, TASKS, experts, in_plain_torch, network, omega_of, task, whole
from torch.func import functional_call
from toys import as_they_are, assert_close, assert_same_bits, conv, dense, initial, linear, plain

from fedadapt.client.evaluation import evaluate
from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Examples, Scaling
from fedadapt.datasets.tasks import Task
from fedadapt.errors import DivergedError, InputError
from fedadapt.models.build import build_model
from fedadapt.models.network import Network
from fedadapt.objectives import Batch, View, cross_entropy
from fedadapt.server.expert_data import cohort_of
from fedadapt.server.expert_learning import fresh_head
from fedadapt.server.expert_methods import plan
from fedadapt.server.experts import (
    METHODS,
    ExpertTraining,
    TaskHead,
    expert_importances,
    head_for,
    slices,
    task_model,
    train_experts,
)
from fedadapt.weights import repeat

LAMBDAS = {"imm": "l2_lambda", "ewc": "ewc_lambda", "mas": "mas_lambda", "lwf": "lwf_lambda"}
STRENGTHS = {"imm": 0.3, "ewc": 2.0, "mas": 0.4, "lwf": 0.7, "fine-tune": 0.0}


def training(method, **changes):
    """Every method's strength is another number, so that the wrong one would show."""
    strengths = {field: STRENGTHS[name] for name, field in LAMBDAS.items()}
    return whole(method, **strengths, **changes)


def accuracy(net, found, name, after=-1):
    [own] = [t for t in TASKS if t.name == name]
    cohort = cohort_of(net, own, 0, scaling=as_they_are, seed=0, compute="cpu")
    [score] = evaluate(cohort, repeat(task_model(found, name, after), 1), [own.validation])
    return score.accuracy


@pytest.mark.parametrize("make", [dense, conv])
@pytest.mark.parametrize("method", STRENGTHS)
def test_each_method_is_its_formula_in_plain_torch(method, make):
    found = experts(training(method), make=make)
    wanted = in_plain_torch(method, STRENGTHS[method], make=make)
    for expert, state in zip(found, wanted, strict=True):
        assert_close(expert.weights, {n: state[n] for n in expert.weights}, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("method", LAMBDAS)
def test_strength_is_read_from_the_methods_own_field_and_counts_from_task_two(method):
    first, second = TASKS[:2]
    wanted = experts(training(method), [first, second])
    for name, field in LAMBDAS.items():
        other = experts(replace(training(method), **{field: 1.5}), [first, second])
        assert_same_bits(other[0].weights, wanted[0].weights)
        same = all(torch.equal(other[1].body[n], t) for n, t in wanted[1].body.items())
        assert same is (name != method)


@pytest.mark.parametrize(("method", "number"), [("imm", 2), ("imm", 3), ("ewc", 2), ("mas", 2)])
def test_a_penalty_pulls_the_trunk_by_2_lambda_omega_d_and_never_the_head(method, number):
    own = TASKS[number - 1]
    last = experts(training(method), TASKS[: number - 1])[-1]
    heads = (TaskHead(own.name, len(own.classes)),)
    fresh = fresh_head(network(), len(own.classes), SEED, number)
    wanted = plan(training(method), number, heads, fresh, last)
    model, body = network(), initial(dense(), seed=9)
    params = {n: body[n] for n, _ in model.named_parameters()} | {
        n: t + 1 for n, t in fresh.items()
    }

    def gradient(objective):
        def value(params):
            logits = functional_call(model.eval(), params, (own.train.inputs,))[None]
            batch = Batch(own.train.inputs[None], own.train.labels[None])
            stacked = {n: t[None] for n, t in params.items()}
            view = View(logits, stacked, batch, wanted.memory, lambda *_: logits)
            return objective(view).sum()

        return torch.func.grad(value)(params)

    pulled, free = gradient(wanted.objective), gradient(cross_entropy)
    pull = {n: pulled[n] - free[n] for n in params}
    for n, t in pull.items():
        if n in fresh:
            assert t.eq(0).all()
        else:
            omega = last.importance[n] if method != "imm" else 1.0
            right = 2 * STRENGTHS[method] * omega * (params[n] - last.body[n])
            assert right.abs().sum() > 0
            torch.testing.assert_close(t, right, rtol=1e-9, atol=1e-12)


def test_released_l2_transfer_begins_with_task_three_and_holds_the_fresh_head():
    late = {"l2_lambda": 5.0, "l2_from_task": 3, "l2_head": True, "epochs": 20, "momentum": 0.0}
    found, free = experts(whole(**late)), experts(whole("fine-tune", epochs=20, momentum=0.0))
    assert_same_bits(found[1].weights, free[1].weights)
    start = fresh_head(network(), 2, SEED, 3)["head.weight"]
    assert (found[2].head["head.weight"] - start).norm() < 0.5 * (
        free[2].head["head.weight"] - start
    ).norm()


@pytest.mark.parametrize("method", ["ewc", "mas"])
@pytest.mark.parametrize("make", [dense, conv])
def test_importances_are_positive_summed_over_tasks_and_move_no_statistics(method, make):
    found = experts(training(method), make=make)
    total = {}
    for expert, own in zip(found, TASKS, strict=True):
        model = network(make)
        model.head = torch.nn.Linear(model.head.in_features, len(own.classes)).double()
        model.load_state_dict(expert.weights)
        statistics = {n: t.clone() for n, t in model.named_buffers()}
        for n, t in omega_of(model.eval(), own, method).items():
            total[n] = total.get(n, 0) + t
        assert_close(expert.importance, total)
        assert all(t.sum() > 0 for t in expert.importance.values())
        assert_same_bits({n: expert.body[n] for n in statistics}, statistics)


def test_ewc_in_batches_squares_the_gradient_of_the_summed_loss():
    [expert] = experts(training("ewc", granularity="batch", batch_size=24), TASKS[:1])
    model = network()
    model.head = torch.nn.Linear(5, 2).double()
    model.load_state_dict(expert.weights)
    logits = model.eval()(TASKS[0].train.inputs)
    summed = torch.nn.functional.cross_entropy(logits, TASKS[0].train.labels, reduction="sum")
    names = list(expert.importance)
    grads = torch.autograd.grad(summed, [model.get_parameter(n) for n in names])
    assert_close(expert.importance, {n: g**2 / 24 for n, g in zip(names, grads, strict=True)},
                 rtol=1e-8)  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_two_tasks_are_learnt(method):
    gentle = {"l2_lambda": 0.01, "ewc_lambda": 1.0, "mas_lambda": 0.01}
    found = experts(whole(method, epochs=25, batch_size=6, **gentle), TASKS[:2], make=plain)
    for own in TASKS[:2]:
        after = -1 if method == "joint" else TASKS.index(own)
        assert accuracy(network(plain), found, own.name, after) >= 0.9


@pytest.mark.parametrize("method", [m for m in METHODS if m != "joint"])
def test_the_first_task_is_the_same_for_all_and_a_task_depends_on_none_after_it(method):
    found = experts(training(method, batch_size=5))
    assert_same_bits(found[0].weights, experts(training("imm", batch_size=5))[0].weights)
    some = experts(training(method, batch_size=5), TASKS[:2])
    grown = experts(training(method, batch_size=5), TASKS[2:], previous=some)
    assert grown[:2] == some
    assert_same_bits(grown[2].weights, found[2].weights)
    assert_same_bits(grown[2].importance, found[2].importance)
    assert grown[2].key == found[2].key


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


def test_heads_live_in_the_model_with_lwf_and_beside_it_otherwise():
    names = [t.name for t in TASKS]
    lwf, imm = experts(training("lwf")), experts(training("imm"))
    assert slices(lwf[2].heads) == {names[0]: (0, 2), names[1]: (2, 5), names[2]: (5, 7)}
    for own, (first, last) in slices(lwf[2].heads).items():
        assert torch.equal(
            head_for(lwf, own)["head.weight"], lwf[2].head["head.weight"][first:last]
        )
        assert_same_bits(head_for(imm, own), imm[names.index(own)].head)
    assert not torch.equal(head_for(lwf, names[0])["head.weight"], lwf[0].head["head.weight"])
    assert_same_bits(task_model(imm, names[0]), imm[2].body | imm[0].head)
    with pytest.raises(InputError, match="experts: task: unknown 'task 9'"):
        head_for(imm, "task 9")


def test_joint_training_has_one_softmax_and_is_asked_slice_by_slice():
    [expert] = experts(training("joint"))
    assert expert.head["head.bias"].shape == (7,)
    assert slices(expert.heads)["task 2"] == (2, 5)
    assert_same_bits(head_for([expert], "task 2"), {n: t[2:5] for n, t in expert.head.items()})
    one = Task("all", ("a",) * 7, *(
        Examples(torch.cat([getattr(t, part).inputs for t in TASKS]),
                 torch.cat([getattr(t, part).labels + s for t, s in zip(TASKS, (0, 2, 5),
                                                                        strict=True)]))
        for part in ("train", "validation")))  # fmt: skip
    assert_close(expert.weights, experts(training("fine-tune"), [one])[0].weights)


def test_fresh_heads_are_torchs_default_and_a_function_of_seed_and_task():
    net = Network(torch.nn.Flatten(), 400, 3).double()
    state = torch.get_rng_state()
    drawn = fresh_head(net, 5, 1, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert {n: tuple(t.shape) for n, t in drawn.items()} == {
        "head.weight": (5, 400), "head.bias": (5,)}  # fmt: skip
    bound = 1 / 400**0.5
    assert 0.98 * bound < drawn["head.weight"].abs().max() <= bound
    assert drawn["head.weight"].std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert_same_bits(fresh_head(net, 5, 1, 1), drawn)
    for other in (fresh_head(net, 5, 2, 1), fresh_head(net, 5, 1, 2)):
        assert not torch.isclose(other["head.weight"], drawn["head.weight"]).all()


def test_batch_norm_is_as_new_before_each_task_where_asked():
    # A step of no length leaves the start: statistics do follow the images, scale and shift do not.
    found = experts(whole("fine-tune", lr=1e-300, epochs=1, reset_norms=True))
    for expert in found:
        assert expert.body["body.2.weight"].eq(1).all()
        assert expert.body["body.2.bias"].abs().max() < 1e-200
        assert expert.body["body.2.num_batches_tracked"] == 1
    kept = experts(whole("fine-tune", lr=1e-300, epochs=1))
    assert_close({"w": kept[2].body["body.2.weight"]}, {"w": network().body[2].weight.detach()})


def test_nothing_given_is_modified_and_the_seed_decides():
    net = network()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    settings = training("imm", batch_size=5)
    one = train_experts(net, TASKS, settings, scaling=as_they_are, seed=1)
    assert_same_bits(net.state_dict(), before)
    assert net.training
    two = train_experts(net, TASKS, settings, scaling=as_they_are, seed=1)
    other = train_experts(net, TASKS, settings, scaling=as_they_are, seed=2)
    assert_same_bits(one[2].weights, two[2].weights)
    assert not torch.isclose(one[2].body["body.1.weight"], other[2].body["body.1.weight"]).all()


@pytest.mark.parametrize("kind", ["mas", "fisher"])
def test_server_importances_are_of_the_body_under_the_tasks_own_head(kind):
    found = experts(training("lwf"))
    expert, own = found[2], TASKS[2]
    model = network()
    model.head = torch.nn.Linear(5, 2).double()
    model.load_state_dict(task_model(found, own.name))
    model.eval()
    how = {"kind": kind, "scaling": as_they_are}

    def wanted(examples):
        return omega_of(model, own._replace(train=examples), "mas" if kind == "mas" else "ewc")

    val, train = wanted(own.validation), wanted(own.train)
    assert_close(expert_importances(network(), expert, own, **how), val)
    both = expert_importances(network(), expert, own, split="train+validation", **how)
    if kind == "mas":  # one mean over 24 + 12 images
        assert_close(both, {n: (2 * train[n] + t) / 3 for n, t in val.items()})
    else:  # the sum of two means
        assert_close(both, {n: train[n] + t for n, t in val.items()})
    with pytest.raises(InputError, match="experts: split: unknown 'test'"):
        expert_importances(network(), expert, own, split="test", **how)


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
        assert {t.numpy().tobytes() for t in seen[0][0]} == given


def test_both_presets_hold_what_was_published():
    paper, released = ExpertTraining.paper(), ExpertTraining.released()
    names = ("epochs", "stop_after", "l2_lambda", "l2_from_task", "l2_head", "reset_norms",
             "augment_from", "granularity")  # fmt: skip
    assert [getattr(paper, n) for n in names] == [30, 10, 0.001, 2, False, False, 128, "sample"]
    assert [getattr(released, n) for n in names] == [50, 11, 1.0, 3, True, True, None, "batch"]
    for preset in (paper, released):
        assert (preset.lr, preset.momentum, preset.batch_size) == (1e-3, 0.9, 30)
        assert (preset.ewc_lambda, preset.mas_lambda, preset.lwf_lambda) == (400.0, 1.0, 1.0)
        assert (preset.lwf_temperature, preset.decay_after, preset.decay) == (2.0, 5, 0.1)
    assert ExpertTraining.released("ewc", epochs=10).epochs == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "emc"}, "method: unknown 'emc'; did you mean 'ewc'"),
        ({"granularity": "image"}, "granularity: unknown 'image'"),
        ({"epochs": 0}, "epochs: 0 is out of range"),
        ({"lr": float("nan")}, "lr: nan is out of range"),
        ({"momentum": 1.0}, "momentum: 1.0 is out of range; it must be >= 0 and < 1"),
        ({"ewc_lambda": -1.0}, "ewc_lambda: -1.0 is out of range; it must be >= 0"),
    ],
)
def test_settings_that_make_no_sense_are_one_clear_line(changes, message):
    with pytest.raises(InputError, match=f"experts: {message}"):
        ExpertTraining.paper(**changes)


def test_tasks_that_cannot_be_learnt_are_refused():
    def learn(tasks, method="imm", **more):
        return experts(whole(method), tasks, **more)

    empty = Examples(torch.zeros(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(InputError, match="experts: 0 tasks"):
        learn([])
    with pytest.raises(InputError, match="two tasks are called 'task 1'"):
        learn([TASKS[0], TASKS[0]])
    with pytest.raises(InputError, match="task 'task 1': validation: 0 images"):
        learn([TASKS[0]._replace(validation=empty)])
    with pytest.raises(InputError, match="task 'task 2': train: labels 0 to 2; 2 classes have"):
        learn([TASKS[1]._replace(classes=("a", "b"))])
    with pytest.raises(InputError, match="joint training learns all tasks at once"):
        learn([TASKS[1]], "joint", previous=learn(TASKS[:1]))
    odd = Network(torch.nn.Flatten(), 16, 2).double()
    odd.head = torch.nn.Conv2d(1, 2, 1)
    with pytest.raises(InputError, match="head is a Conv2d"):
        train_experts(odd, TASKS, whole(), scaling=as_they_are, seed=0)


def test_a_model_that_diverges_is_named():
    with pytest.raises(DivergedError, match="task 'task 2': the model became non-finite in epoch"):
        experts(whole(l2_lambda=1e200, epochs=9), make=plain)


def test_every_epoch_has_an_order_of_its_own():
    seen = []

    def watching(inputs):
        seen.append(inputs.clone())
        return inputs

    experts(whole("fine-tune", epochs=2), TASKS[:1], scaling=watching)
    first, _, second, _ = seen  # after each epoch comes the validation
    assert not torch.equal(first, second)
    assert torch.equal(first.sort(1).values, second.sort(1).values)


def test_pairs_of_real_digits_are_learnt_and_penalties_forget_less(data_root):
    from torchvision.datasets import MNIST

    digits = MNIST(str(data_root), train=True)

    def pair(a, b):
        own = ((digits.targets == a) | (digits.targets == b)).nonzero()[:400, 0]
        images, labels = digits.data[own, None], (digits.targets[own] == b).long()
        parts = (Examples(images[:300], labels[:300]), Examples(images[300:], labels[300:]))
        return Task(f"{a}{b}", (str(a), str(b)), *parts)

    pairs = [pair(0, 1), pair(2, 3), pair(4, 5)]
    net = build_model(RunConfig(model="mlp"), (1, 28, 28), 2)
    scaling = Scaling((0.1307,), (0.3081,))

    def forgotten(method):
        settings = ExpertTraining.paper(method, epochs=8, batch_size=20, mas_lambda=10.0)
        found = train_experts(net, pairs, settings, scaling=scaling, seed=7)
        assert min(e.accuracy for e in found) > 0.9
        cohort = cohort_of(net, pairs[0], 0, scaling=scaling, seed=0, compute="cpu")
        [score] = evaluate(cohort, repeat(task_model(found, "01"), 1), [pairs[0].validation])
        return score.loss

    free = forgotten("fine-tune")
    assert all(forgotten(method) < free for method in ("ewc", "mas"))


def test_softmax_regression_without_a_body_is_an_expert_too():
    made = experts(whole("fine-tune"), [task(1)], make=lambda: linear(16))
    assert made[0].body == {}
    assert set(made[0].head) == {"head.weight", "head.bias"}
