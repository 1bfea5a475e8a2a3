"""Step rules alone, without any network, and how ``fit`` asks them."""

import pytest
import torch
from toys import assert_close, assert_same_bits, cohort, conv, copied, dense, initials, split

from fedadapt.client.cohort import Schedule
from fedadapt.client.fit import fit
from fedadapt.client.step_rules import Adam, Sgd
from fedadapt.objectives import Batch
from fedadapt.selectors import head
from fedadapt.strategies.shared.per_fedavg import Meta
from fedadapt.strategies.shared.pfedme import Envelope

SPLITS = [split(count, seed=d) for d, count in enumerate((5, 12, 10))]
EXECUTIONS = ("sequential", "per-client", "stacked-kernels", "vmap")
TARGETS = torch.tensor([0.0, 4.0], dtype=torch.float64)
BATCH = Batch(torch.zeros(2, 6), torch.zeros(2, 6, dtype=torch.int64))


def quadratic(params, batch):
    """(w - c)^2 / 2, of which all batches give the same gradient."""
    gap = params["w"] - TARGETS
    return {"w": gap}, gap**2 / 2


def stepped(rule, *values, steps=1):
    params = {"w": torch.tensor(values, dtype=torch.float64)}
    state = rule.begin(params)
    for _ in range(steps):
        loss = rule.step(quadratic, params, BATCH, state)
    return params["w"].tolist(), state, loss.tolist()


@pytest.mark.parametrize(
    ("rule", "after"),
    [
        (Sgd(0.5), (5, 7)),
        (Sgd(0.5, rates={"w": 0.25, "other": 3.0}), (7.5, 8.5)),
        (Sgd(0.5, clamp={"w": (6.0, 6.5), "other": (0.0, 0.0)}), (6, 6.5)),
        (Sgd(0.5, weight_decay=0.1), (4.5, 6.5)),
        (Sgd(0.5, weight_decay=0.1, undecayed=frozenset({"w", "other"})), (5, 7)),
        (Envelope(2, 1.0, 0.5, 0.5), (7.5, 8.5)),
        (Meta(0.5, 0.5), (7.5, 8.5)),
        (Meta(0.5, 0.5, 1e-3), (8.75, 9.25)),
    ],
    ids=["sgd", "rates", "clamp", "weight decay", "undecayed", "pfedme", "first order", "hessian"],
)
def test_one_step_by_hand(rule, after):
    assert stepped(rule, 10.0, 10.0)[0] == pytest.approx(after, rel=1e-9)


def test_the_prox_of_pfedme_is_its_state_and_goes_on_from_there():
    rule = Envelope(2, 1.0, 0.5, 0.5)
    _, theta, loss = stepped(rule, 10.0, 10.0)
    assert theta["w"].tolist() == [5, 7]
    assert loss == [12.5, 4.5]  # at the point that was asked last
    again, theta, _ = stepped(rule, 10.0, 10.0, steps=2)
    # From theta = 5: 5 - (5 + 5 - 7.5) / 2 = 3.75, and once more the same.
    assert theta["w"].tolist() == [3.75, 6.25]
    assert again == [5.625, 7.375]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rates_are_the_parameter_groups_of_torch_and_rate_0_holds(momentum):
    generator = torch.Generator().manual_seed(0)

    def draw():
        return torch.randn(3, 2, generator=generator).double()

    ours = {n: draw() for n in "abc"}
    before = copied(ours)
    theirs = {n: t.clone().requires_grad_() for n, t in ours.items()}
    rates = {"a": 0.02, "c": 0.0}
    groups = [{"params": [t], "lr": rates.get(n, 0.1)} for n, t in theirs.items()]
    reference = torch.optim.SGD(groups, momentum=momentum, weight_decay=0.01)
    rule = Sgd(0.1, momentum, 0.01, rates=rates)
    velocity = rule.begin(ours)
    for _ in range(5):
        grads = {n: draw() for n in ours}
        rule.update(ours, grads, velocity)
        for n, t in theirs.items():
            t.grad = grads[n].clone()
        reference.step()
    assert_close(ours, {n: t.detach() for n, t in theirs.items()})
    assert torch.equal(ours["c"], before["c"])


def test_equal_rates_are_the_one_rate_and_wide_bounds_are_none():
    members, start = cohort(dense(), SPLITS), initials(dense(), 3)
    wanted = fit(members, start, Sgd(0.1, 0.9), Schedule(4)).weights
    names = [n for n, _ in dense().named_parameters()]
    rates, clamp = dict.fromkeys(names, 0.1), dict.fromkeys(names, (-1e9, 1e9))
    found = fit(members, start, Sgd(7.0, 0.9, rates=rates, clamp=clamp), Schedule(4)).weights
    assert_same_bits(found, wanted)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_rates_and_bounds_in_training(execution):
    def trained(execution):
        rates, clamp = {"head.bias": 0.0, "head.weight": 0.02}, {"head.weight": (-0.3, 0.3)}
        rule, members = Sgd(0.1, 0.5, rates=rates, clamp=clamp), cohort(conv(), SPLITS, execution)
        return fit(members, initials(conv(), 3), rule, Schedule(4, 2)).weights

    start, found = initials(conv(), 3), trained(execution)
    assert torch.equal(found["head.bias"], start["head.bias"])
    assert found["head.weight"].abs().max() == 0.3
    assert_close(found, trained("sequential"))


def test_a_rule_can_be_hashed_whatever_rates_it_has():
    assert len({Sgd(0.1), Sgd(0.1), Sgd(0.1, rates={"a": 1.0})}) == 2


class Repeated:
    """Asks ``times`` a batch, at points of its own, and moves nothing but a counter."""

    def __init__(self, times):
        self.times = times

    def begin(self, params):
        return {"asked": torch.zeros(len(next(iter(params.values()))), dtype=torch.int64)}

    def step(self, oracle, params, batch, state):
        for i in range(self.times):
            point = {n: t + i for n, t in params.items()}
            grads, loss = oracle(point, batch)
            assert grads.keys() == params.keys()
            assert not any(t.requires_grad for t in [loss, *grads.values(), *params.values()])
            state["asked"] += 1
        return loss


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_rule_may_ask_as_often_as_it_likes_at_any_point(execution):
    """Batch norm counts the passes; the rule's state is each client's own."""
    start = initials(conv(), 3)
    members = cohort(conv(), SPLITS, execution)
    found = fit(members, start, Repeated(3), Schedule(4))
    steps = [1, 3, 3]  # of 5, 12 and 10 images
    assert found.state["asked"].tolist() == [3 * n for n in steps]
    for n, t in found.weights.items():
        if n.endswith("num_batches_tracked"):
            assert t.tolist() == [3 + 3 * count for count in steps]
        elif "running" not in n:
            assert torch.equal(t, start[n])
    again = fit(members, found.weights, Repeated(2), Schedule(4), state=found.state)
    assert again.state["asked"].tolist() == [5 * n for n in steps]


def test_a_gradient_can_be_asked_of_some_names_alone():
    """Those that are left out are held where they are."""

    class HeadFirst:
        def begin(self, params):
            return {}

        def step(self, oracle, params, batch, state):
            chosen = {n: params[n] for n in sorted(head(dense()))}
            grads, loss = oracle(chosen, batch)
            for n, g in grads.items():
                params[n] -= 0.1 * g
            return loss

    members, start = cohort(dense(), SPLITS), initials(dense(), 3)
    wanted = fit(members, start, Sgd(0.1), Schedule(4), trainable=head)
    assert_close(fit(members, start, HeadFirst(), Schedule(4)).weights, wanted.weights)


def test_adam_is_that_of_pytorch_and_each_row_counts_its_own_steps():
    random = torch.Generator().manual_seed(1)
    start, *gradients = torch.randn(6, 3, 2, generator=random, dtype=torch.float64)
    rule = Adam(0.1)
    params = {"w": start.clone()}
    state = rule.begin(params)
    rows = [torch.nn.Parameter(w.clone()) for w in start]
    theirs = [torch.optim.Adam([w], 0.1) for w in rows]
    for number, gradient in enumerate(gradients):
        members = [d for d in range(3) if (number + d) % 3]  # a row sits out in turn
        w = {"w": params["w"][members]}
        memory = {n: t[members] for n, t in state.items()}
        rule.update(w, {"w": gradient[members]}, memory)
        params["w"][members] = w["w"]
        for n, t in memory.items():
            state[n][members] = t
        for d in members:
            rows[d].grad = gradient[d]
            theirs[d].step()
    torch.testing.assert_close(params["w"], torch.stack([w.detach() for w in rows]))


def test_adam_s_weight_decay_rates_and_bounds_are_those_of_pytorch_s_groups():
    held = frozenset({"v"})
    rule = Adam(0.1, weight_decay=0.3, rates={"v": 0.02}, clamp={"u": (0.5, 1.0)}, undecayed=held)
    start = torch.tensor([0.3, -0.7], dtype=torch.float64)
    params = {name: start.clone() for name in ("w", "v", "u")}
    state = rule.begin(params)
    theirs = {name: start.clone().requires_grad_() for name in ("w", "v")}
    adam = torch.optim.Adam(
        [
            {"params": [theirs["w"]], "lr": 0.1, "weight_decay": 0.3},
            {"params": [theirs["v"]], "lr": 0.02, "weight_decay": 0.0},
        ]
    )

    def oracle(point, batch):
        return {n: w - TARGETS for n, w in point.items()}, torch.zeros(2)

    for _ in range(12):
        rule.step(oracle, params, BATCH, state)
        for w in theirs.values():
            w.grad = w.detach() - TARGETS
        adam.step()
    for name, w in theirs.items():
        torch.testing.assert_close(params[name], w.detach(), rtol=1e-12, atol=1e-14)
    assert params["u"].tolist() == [0.5, 1.0]
