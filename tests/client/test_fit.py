"""Local training: equal to plain torch, and equal to itself however clients are put together."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toys import (
    CLASSES,
    assert_close,
    assert_same_bits,
    cohort,
    conv,
    copied,
    dense,
    initial,
    initials,
    plain,
    split,
)

from fedadapt.client.cohort import Schedule
from fedadapt.client.fit import Sgd, fit
from fedadapt.models.mode import training, training_norms
from fedadapt.models.network import Network
from fedadapt.objectives import (
    Distillation,
    Ewc,
    L2Transfer,
    Mas,
    OneHead,
    Proximal,
    WithoutForgetting,
    cross_entropy,
)
from fedadapt.selectors import everything, head, norm_affine, norm_statistics
from fedadapt.weights import repeat, row

SIZES = (5, 12, 10)  # uneven; with batches of 4: one of 5, three whole ones, one of 2
SPLITS = [split(count, seed=d) for d, count in enumerate(SIZES)]
OBJECTIVES = {
    "cross-entropy": cross_entropy,
    "proximal": Proximal(0.7),
    "l2-transfer": L2Transfer(0.3),
    "ewc": Ewc(0.8),
    "mas": Mas(0.2),
    "distillation": Distillation(0.6, 3.0),
    "one head": OneHead(0, CLASSES),
    "without forgetting": WithoutForgetting(0.5, 2.0, ((0, 1), (1, CLASSES))),
}
EXECUTIONS = ("sequential", "per-client", "stacked-kernels", "vmap")
SELECTORS = {"all": everything, "norm-affine": norm_affine, "head": head}


def memory(model):
    """References that differ from the start, and from client to client."""
    importance = {n: t.double().abs() for n, t in initials(model, 3, seed=70).items()}
    return {
        "anchor": initials(model, 3, seed=50),
        "importance": importance,
        "teacher": initials(model, 3, seed=90),
    }


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_that_of_torch(momentum, weight_decay):
    generator = torch.Generator().manual_seed(0)
    ours = {
        n: torch.randn(s, generator=generator).double() for n, s in {"a": (3, 2), "b": ()}.items()
    }
    theirs = {n: t.clone().requires_grad_() for n, t in ours.items()}
    optimizer = Sgd(0.1, momentum, weight_decay)
    reference = torch.optim.SGD(
        theirs.values(), lr=0.1, momentum=momentum, weight_decay=weight_decay
    )
    velocity = optimizer.begin(ours)
    for _ in range(5):
        grads = {n: torch.randn(t.shape, generator=generator).double() for n, t in ours.items()}
        optimizer.update(ours, grads, velocity)
        for n, t in theirs.items():
            t.grad = grads[n].clone()
        reference.step()
    assert_close(ours, {n: t.detach() for n, t in theirs.items()})


@pytest.mark.parametrize("make", [dense, conv, plain])
def test_fit_is_the_plain_torch_loop(make):
    own, schedule = split(10, seed=4), Schedule(4, 3)
    start = initial(make())
    members = cohort(make(), [own])
    found = fit(members, repeat(start, 1), Sgd(0.1, 0.9, 0.05), schedule)

    model = make().double().train()
    model.load_state_dict(start)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05)
    losses = []
    for [(_, batch)] in members.steps(schedule):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch.inputs[0]), batch.labels[0])
        loss.backward()
        optimizer.step()
        losses += [loss.item()] * batch.labels.shape[1]

    assert_close(row(found.weights, 0), model.state_dict())
    assert list(found.weights) == list(model.state_dict())
    assert found.loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-12)
    if make is not plain:  # 3 steps an epoch: 4, 4 and 2 images
        counters = [t for n, t in found.weights.items() if n.endswith("num_batches_tracked")]
        assert [t.tolist() for t in counters] == [[3 + 9]] * len(counters)


@pytest.mark.parametrize("trainable", SELECTORS.values(), ids=SELECTORS)
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize(
    ("make", "mode"),
    [(dense, training), (conv, training), (conv, training_norms)],
    ids=["dense", "conv", "conv, norms only"],
)
def test_stacked_is_one_by_one(make, mode, objective, trainable):
    def trained(execution):
        members = cohort(make(), SPLITS, execution)
        return fit(
            members,
            initials(make(), 3),
            Sgd(0.1, 0.9, 0.01),
            Schedule(4),
            objective=objective,
            trainable=trainable,
            memory=memory(make()),
            mode=mode,
        )

    alone = trained("sequential")
    for execution in ("per-client", "stacked-kernels", "vmap"):
        together = trained(execution)
        assert_close(together.weights, alone.weights)
        torch.testing.assert_close(together.loss, alone.loss)
    moved = {n for n, t in initials(make(), 3).items() if not torch.equal(t, alone.weights[n])}
    parameters = {n for n, _ in make().named_parameters()}
    assert moved == (trainable(make()) & parameters) | norm_statistics(make())


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_nothing_given_is_modified(execution):
    start, references = initials(conv(), 3), memory(conv())
    before = copied(start), {name: copied(w) for name, w in references.items()}
    members = cohort(conv(), SPLITS, execution)
    modes = [m.training for m in members.model.modules()]
    fit(members, start, Sgd(0.1, 0.9), Schedule(4, 2), objective=Ewc(0.5), memory=references)
    assert_same_bits(start, before[0])
    for name, weights in references.items():
        assert_same_bits(weights, before[1][name])
    assert [m.training for m in members.model.modules()] == modes


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_one_model_for_all_is_expanded_memory_that_nobody_writes_to(execution):
    start = initial(dense())
    before = copied(start)
    found = fit(cohort(dense(), SPLITS, execution), repeat(start, 3), Sgd(0.1), Schedule(4, 2))
    assert_same_bits(start, before)
    for t in found.weights.values():
        assert t.stride(0) != 0  # and the result is each client's own


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_other_clients_in_the_cohort_do_not_change_a_clients_result(execution):
    def trained(*order):
        members = cohort(
            conv(),
            [SPLITS[d] for d in order],
            clients=tuple(10 + d for d in order),
            execution=execution,
        )
        start = {n: t[list(order)] for n, t in initials(conv(), 3).items()}
        found = fit(members, start, Sgd(0.1, 0.9), Schedule(4, 2))
        return {d: (row(found.weights, i), found.loss[i]) for i, d in enumerate(order)}

    everybody = trained(0, 1, 2)
    for order in [(2, 0, 1), (1,), (2, 1)]:
        for d, (weights, loss) in trained(*order).items():
            if execution != "sequential":
                assert_close(weights, everybody[d][0])
            else:
                assert_same_bits(weights, everybody[d][0])
            torch.testing.assert_close(loss, everybody[d][1])


@pytest.mark.parametrize("settings", [{"seed": 1}, {"round": 1}], ids=["seed", "round"])
def test_other_draws_give_other_weights(settings):
    def trained(**settings):
        members = cohort(plain(), SPLITS, **settings)
        return fit(members, initials(plain(), 3), Sgd(0.1), Schedule(4)).weights["head.bias"]

    assert torch.equal(trained(), trained())
    assert not torch.isclose(trained(), trained(**settings)).all()


@pytest.mark.parametrize("dropout", [nn.Dropout, nn.Dropout1d])
def test_dropout_is_the_clients_own_and_gives_the_global_generator_back(dropout):
    def make():
        body = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), dropout(0.5))
        return Network(body, 8, CLASSES)

    start = initial(make())

    def trained(members):
        return fit(members, repeat(start, len(members)), Sgd(0.1), Schedule(4)).weights

    members = cohort(make(), SPLITS)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    everybody = trained(members)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert_same_bits(trained(members.only(1)), {n: t[1:2] for n, t in everybody.items()})
    without = cohort(make(), SPLITS)
    for layer in without.model.modules():
        if isinstance(layer, dropout):
            layer.p = 0.0
    assert not torch.isclose(trained(without)["head.weight"], everybody["head.weight"]).all()
    another = trained(replace(members, round=1))
    assert not torch.isclose(another["head.weight"], everybody["head.weight"]).all()


def test_a_client_drops_out_the_same_in_a_stack_as_alone():
    def make():
        body = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.5), nn.ReLU())
        return Network(body, 8, CLASSES)

    def trained(execution):
        members = cohort(make(), SPLITS, execution)
        return fit(members, initials(make(), 3), Sgd(0.1), Schedule(4, 2)).weights

    assert_close(trained("stacked-kernels"), trained("sequential"))


def test_a_weight_the_caller_forgot_is_an_error_and_not_the_architectures_own():
    start = initials(plain(), 3)
    del start["body.1.bias"]
    with pytest.raises(RuntimeError, match="meta"):
        fit(cohort(plain(), SPLITS), start, Sgd(0.1), Schedule(4))


def test_bf16_is_the_arithmetic_and_not_the_weights():
    single = {n: t.float() if t.is_floating_point() else t for n, t in initials(dense(), 3).items()}
    float_splits = [
        split._replace(train=replace(split.train, inputs=split.train.inputs.float()))
        for split in SPLITS
    ]

    def trained(**settings):
        members = cohort(dense(), float_splits, **settings)
        teacher = {"teacher": single}
        how = {"objective": Distillation(0.5, 2.0), "memory": teacher}
        return fit(members, single, Sgd(0.1), Schedule(4), **how)

    exact, rough = trained(), trained(autocast=torch.bfloat16)
    assert {t.dtype for t in rough.weights.values()} == {torch.float32, torch.int64}
    torch.testing.assert_close(rough.loss, exact.loss, rtol=0.05, atol=0.05)
    assert not torch.equal(rough.loss, exact.loss)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("make", [dense, conv])
def test_training_goes_on_where_it_stopped_with_the_velocity_it_had(make, execution):
    members = cohort(make(), SPLITS, execution)
    first, then = Schedule(4, 2, purpose="first"), Schedule(4, 2, purpose="then")
    start = initials(make(), 3)
    half = fit(members, start, Sgd(0.1, 0.9), first)
    before = copied(half.weights), copied(half.state)
    found = fit(members, half.weights, Sgd(0.02, 0.9), then, state=half.state)
    assert_same_bits(half.weights, before[0])
    assert_same_bits(half.state, before[1])

    for d in range(3):
        model = make().double().train()
        model.load_state_dict(row(start, d))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for schedule, lr in ((first, 0.1), (then, 0.02)):
            optimizer.param_groups[0]["lr"] = lr
            for [(_, batch)] in members.only(d).steps(schedule):
                optimizer.zero_grad()
                F.cross_entropy(model(batch.inputs[0]), batch.labels[0]).backward()
                optimizer.step()
        assert_close(row(found.weights, d), model.state_dict())
        buffers = {n: optimizer.state[p]["momentum_buffer"] for n, p in model.named_parameters()}
        assert_close(row(found.state, d), buffers)


def test_going_on_without_the_velocity_differs_and_sgd_without_momentum_has_none():
    members, start = cohort(plain(), SPLITS), initials(plain(), 3)
    half = fit(members, start, Sgd(0.1, 0.9), Schedule(4))
    rest = {n: torch.zeros_like(t) for n, t in half.state.items()}

    def on(velocity):
        return fit(members, half.weights, Sgd(0.1, 0.9), Schedule(4), state=velocity).weights

    assert_same_bits(on(None), on(rest))
    assert not torch.isclose(on(None)["head.weight"], on(half.state)["head.weight"]).all()
    moved = fit(members, start, Sgd(0.1, 0.9), Schedule(4), trainable=head)
    assert set(moved.state) == {"head.weight", "head.bias"}
    assert fit(members, start, Sgd(0.1), Schedule(4)).state == {}
