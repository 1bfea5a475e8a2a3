"""Training more than the network: extras beside it, and maps from them to its tensors."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call
from toys import (
    Quadratic,
    assert_close,
    assert_same_bits,
    cohort,
    conv,
    copied,
    dense,
    initials,
    quadratic_split,
    split,
)

from fedadapt.client.cohort import Schedule
from fedadapt.client.fit import Sgd, fit
from fedadapt.errors import InputError
from fedadapt.selectors import head, norm_affine, nothing
from fedadapt.weights import row

SPLITS = [split(count, seed=d) for d, count in enumerate((5, 12, 10))]
EXECUTIONS = ("sequential", "per-client", "stacked-kernels", "vmap")


def parameters(make):
    return [n for n, _ in make().named_parameters()]


def under_other_names(trained, held, memory):
    return {n[2:]: t for n, t in trained.items() if n.startswith("x/")}


@pytest.mark.usefixtures("by_autograd")
@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("make", [dense, conv])
def test_the_network_trained_under_other_names_is_the_network_trained(make, execution):
    """To the last bit, its running statistics and velocities too."""
    start, schedule = initials(make(), 3), Schedule(4, 2)
    wanted = fit(cohort(make(), SPLITS, execution), start, Sgd(0.1, 0.9, 0.01), schedule)
    extra = {f"x/{n}": start[n] for n in parameters(make)}
    unlike = start | {n: torch.full_like(start[n], 7.0) for n in parameters(make)}
    before = copied(extra)
    found = fit(
        cohort(make(), SPLITS, execution), unlike, Sgd(0.1, 0.9, 0.01), schedule,
        trainable=nothing, extra=extra, through=under_other_names,
    )  # fmt: skip
    assert_same_bits(extra, before)
    assert_same_bits(found.extra, {f"x/{n}": wanted.weights[n] for n in parameters(make)})
    assert_same_bits(found.state, {f"x/{n}": t for n, t in wanted.state.items()})
    assert torch.equal(found.loss, wanted.loss)
    for n, t in found.weights.items():
        assert torch.equal(t, wanted.weights[n] if n not in parameters(make) else unlike[n])


def low_rank(trained, held, memory):
    """The head is W0 + B A, where W0 is held: LoRA."""
    change = trained["lora.b"] @ trained["lora.a"]
    return {"head.weight": held["head.weight"] + memory["scale"]["s"][:, None, None] * change}


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_low_rank_change_with_other_layers_beside_it_is_the_plain_torch_loop(execution):
    start, schedule = initials(conv(), 3), Schedule(4, 2)
    generator = torch.Generator().manual_seed(5)
    extra = {
        "lora.a": torch.randn(3, 2, 16, generator=generator).double(),
        "lora.b": torch.randn(3, 3, 2, generator=generator).double(),
    }
    scale = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    found = fit(
        cohort(conv(), SPLITS, execution), start, Sgd(0.1, 0.9), schedule, trainable=norm_affine,
        extra=extra, through=low_rank, memory={"scale": {"s": scale}},
    )  # fmt: skip
    members = cohort(conv(), SPLITS)
    for d in range(3):
        model, state = conv().double().train(), row(start, d)
        moving = {n: state[n].clone().requires_grad_() for n in norm_affine(conv())}
        a, b = (row(extra, d)[n].clone().requires_grad_() for n in ("lora.a", "lora.b"))
        optimizer = torch.optim.SGD([*moving.values(), a, b], lr=0.1, momentum=0.9)
        for [(_, batch)] in members.only(d).steps(schedule):
            optimizer.zero_grad()
            made = {"head.weight": state["head.weight"] + scale[d] * b @ a}
            logits = functional_call(model, state | moving | made, (batch.inputs[0],))
            F.cross_entropy(logits, batch.labels[0]).backward()
            optimizer.step()
        wanted = state | {n: t.detach() for n, t in moving.items()}
        assert_close(row(found.weights, d), wanted)
        assert_close(row(found.extra, d), {"lora.a": a.detach(), "lora.b": b.detach()})


def test_gradients_go_through_the_map_by_hand():
    """W = old + (new - old) a: the gradient by a is that by w, times new - old."""
    members = cohort(Quadratic(), [quadratic_split(1.0, 0.0)])
    one = {n: torch.tensor([v], dtype=torch.float64) for n, v in (("old", 2.0), ("new", 6.0))}

    def through(trained, held, memory):
        assert list(trained) == ["a"]
        assert list(held) == ["w"]
        old, new = memory["both"]["old"], memory["both"]["new"]
        return {"w": old + (new - old) * trained["a"]}

    found = fit(
        members, {"w": torch.zeros(1).double()}, Sgd(0.025), Schedule(1), trainable=nothing,
        extra={"a": torch.ones(1).double()}, through=through, memory={"both": one},
    )  # fmt: skip
    assert found.extra["a"].item() == pytest.approx(0.4)  # 1 - 0.025 * 6 * 4
    assert found.weights["w"].item() == 0


def test_extras_that_the_network_never_sees_are_for_the_objective():
    def objective(view):
        return ((view.params["m"] - view.memory["goal"]["m"]) ** 2).sum(1) / 2

    members, start = cohort(dense(), SPLITS), initials(dense(), 3)
    goal = torch.arange(6, dtype=torch.float64).view(3, 2)
    found = fit(
        members, start, Sgd(1.0), Schedule(100), objective=objective, trainable=nothing,
        extra={"m": torch.zeros(3, 2).double()}, memory={"goal": {"m": goal}},
    )  # fmt: skip
    assert torch.equal(found.extra["m"], goal)
    assert_same_bits(found.weights, start)
    assert fit(members, start, Sgd(0.1), Schedule(4)).extra == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"extra": {"head.bias": torch.zeros(3, 3)}},
            "extra 'head.bias' is a tensor",
        ),
        ({"through": lambda *_: {"hed.bias": torch.zeros(3, 3)}}, "through makes 'hed.bias'"),
    ],
    ids=["extra", "through"],
)
def test_names_that_cannot_be_meant_are_errors(settings, message):
    with pytest.raises(InputError, match=message):
        fit(cohort(dense(), SPLITS), initials(dense(), 3), Sgd(0.1), Schedule(4), **settings)


@pytest.mark.usefixtures("by_autograd")
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_velocities_of_extras_can_be_given_again(execution):
    members, start = cohort(dense(), SPLITS, execution), initials(dense(), 3)
    extra = {f"x/{n}": start[n] for n in head(dense())}
    how = {"trainable": nothing, "through": under_other_names}
    half = fit(members, start, Sgd(0.1, 0.9), Schedule(4), extra=extra, **how)
    given = {"state": half.state, "extra": half.extra, **how}
    found = fit(members, half.weights, Sgd(0.1, 0.9), Schedule(4, purpose="then"), **given)
    by_name = {"trainable": head}
    wanted = fit(members, start, Sgd(0.1, 0.9), Schedule(4), **by_name)
    wanted = fit(
        members, wanted.weights, Sgd(0.1, 0.9), Schedule(4, purpose="then"), state=wanted.state,
        **by_name,
    )  # fmt: skip
    assert_same_bits(found.extra, {f"x/{n}": wanted.weights[n] for n in head(dense())})
