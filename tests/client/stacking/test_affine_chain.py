"""Linear layers in a row: their derivative by hand is autograd's, whatever trains them."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from toys import (
    CLASSES,
    assert_close,
    cohort,
    conv,
    dense,
    initials,
    plain,
    split,
)

from fedadapt.client.fit import fit
from fedadapt.client.schedule import Schedule
from fedadapt.client.stacking import StackedNetwork
from fedadapt.client.stacking.affine_chain import AffineChain
from fedadapt.client.stacking.sink import Sink
from fedadapt.client.statistics.importance import importances
from fedadapt.client.step_rules import Adam, Sgd, add_gradient
from fedadapt.models.network import Network
from fedadapt.objectives import (
    CrossEntropy,
    Ewc,
    L2Transfer,
    Mas,
    OneHead,
    Proximal,
    cross_entropy,
    derivative_of,
    entropy,
)
from fedadapt.selectors import everything, head

SIZES = (5, 12, 10)  # with batches of 4: one of 5, three whole ones, one of 2
SPLITS = [split(count, seed=d) for d, count in enumerate(SIZES)]
RULES = {
    "plain": Sgd(0.1),
    "momentum": Sgd(0.1, 0.9),
    "decay": Sgd(0.1, 0.0, 0.2),
    "momentum and decay": Sgd(0.1, 0.9, 0.2),
    "undecayed": Sgd(0.1, 0.0, 0.2, undecayed=frozenset({"head.weight"})),
    "rates": Sgd(0.1, 0.5, rates={"head.weight": 0.3}),
    "clamp": Sgd(0.1, clamp={"head.bias": (-0.01, 0.01)}),
    "adam": Adam(0.01),
}
OBJECTIVES = {
    "cross-entropy": cross_entropy,
    "proximal": Proximal(0.7),
    "l2-transfer": L2Transfer(0.3),
    "ewc": Ewc(0.8),
    "mas": Mas(0.2),
    "two pulls": Proximal(0.7, Mas(0.2)),
}


def chained() -> Network:
    """Three linear layers, one of them without bias, with two kinds of clamp between."""
    body = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 5, bias=False), nn.ReLU6()
    )
    return Network(body, 5, CLASSES)


def body(model) -> frozenset[str]:
    return frozenset({"body.3.weight"})


def memory(model):
    importance = {n: t.double().abs() for n, t in initials(model, 3, seed=70).items()}
    return {"anchor": initials(model, 3, seed=50), "importance": importance}


def tailed() -> Network:
    """Convolutions with batch norm and dropout, then three linear layers."""
    body = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 6),
        nn.ReLU(),
        nn.Linear(6, 5, bias=False),
        nn.ReLU6(),
    )
    return Network(body, 5, CLASSES)


class Deep(nn.Module):
    """Large layers below the tail: a convolution on one pixel, one layer called twice, others."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 45, 4)
        self.pixel = nn.Conv2d(45, 6, 3, padding=1)
        self.norm = nn.BatchNorm1d(6)
        self.twice = nn.Linear(6, 6)
        self.middle, self.bare = nn.Linear(6, 5), nn.Linear(5, 5, bias=False)
        self.lower, self.head = nn.Linear(5, 5), nn.Linear(5, CLASSES)

    def forward(self, x):
        x = torch.relu(self.norm(self.pixel(torch.tanh(self.first(x))).flatten(1)))
        x = torch.tanh(self.twice(torch.tanh(self.twice(x))))
        x = torch.tanh(self.bare(torch.tanh(self.middle(x))))
        return self.head(torch.relu(self.lower(x)))


def trained(rule, objective, selector, by_hand: bool, stacked=True, make=chained, **more):
    model = make()
    clients = cohort(model, SPLITS, "stacked-kernels" if stacked else "per-client")
    assert len(clients.network.tail.layers) == (2 if make is Deep else 3)
    if not by_hand:
        clients = replace(clients, network=Unchained(clients.network))
    return fit(
        clients,
        initials(model, 3, seed=20),
        rule,
        Schedule(4, 2),
        objective=objective,
        trainable=selector,
        memory=memory(model),
        **more,
    )


class Unchained:
    """A network whose derivative autograd has to find."""

    chain = tail = None

    def __init__(self, network: StackedNetwork) -> None:
        self.outputs = network.outputs


@pytest.mark.parametrize("make", [chained, tailed, Deep])
@pytest.mark.parametrize("stacked", [True, False], ids=["stacked", "one by one"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_rule_moves_as_with_autograd(rule, stacked, make):
    """Whatever is below: its statistics move once a step, and its dropout draws as ever."""
    ours, wanted = (
        trained(rule, cross_entropy, everything, hand, stacked, make) for hand in (True, False)
    )
    assert_close(ours.weights, wanted.weights)
    assert_close(ours.state, wanted.state)
    torch.testing.assert_close(ours.loss, wanted.loss)


class Halves:
    """A step rule that moves some of the tensors by the gradient, and others not at all."""

    def begin(self, params):
        return {}

    def step(self, oracle, params, batch, state):
        moving = {n: w for n, w in params.items() if n.endswith("weight")}
        return add_gradient(oracle, params, batch, moving, scale=-0.1)


@pytest.mark.parametrize("make", [chained, tailed, Deep])
def test_what_the_gradient_is_not_added_to_stays(make):
    ours, wanted = (
        trained(Halves(), cross_entropy, everything, hand, make=make) for hand in (True, False)
    )
    assert_close(ours.weights, wanted.weights)
    assert torch.equal(ours.weights["head.bias"], initials(make(), 3, seed=20)["head.bias"])


class Ahead:
    """A step rule that asks for the gradient where nobody is yet, as Nesterov's does."""

    def begin(self, params):
        return {}

    def step(self, oracle, params, batch, state):
        ahead = {n: w + 0.1 for n, w in params.items()}
        return add_gradient(oracle, ahead, batch, params, keep=0.9, scale=-0.1)


@pytest.mark.parametrize("objective", [cross_entropy, Proximal(0.7)], ids=["task", "pulled"])
def test_the_gradient_is_that_where_it_is_asked_for(objective):
    ours, wanted = (trained(Ahead(), objective, everything, hand) for hand in (True, False))
    assert_close(ours.weights, wanted.weights)


@pytest.mark.parametrize("selector", [everything, head, body], ids=["all", "head", "middle"])
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_every_objective_that_has_a_derivative_moves_as_with_autograd(objective, selector):
    rule = Sgd(0.05, 0.9)
    ours, wanted = (trained(rule, objective, selector, by_hand) for by_hand in (True, False))
    assert_close(ours.weights, wanted.weights)
    torch.testing.assert_close(ours.loss, wanted.loss)


SUNK = ("pixel.weight", "middle.weight", "bare.weight")


@pytest.mark.parametrize("rule", [RULES["plain"], RULES["momentum"]], ids=["plain", "momentum"])
def test_gradients_by_weights_below_the_tail_go_where_they_are_added(rule, monkeypatch):
    """A layer that is called twice still reads its weights when the first gradient is there."""
    filled, add = [], Sink.add

    def spying(sink, dy, x):
        assert not sink.filled
        filled.append(tuple(sink.into.shape[1:]))
        add(sink, dy, x)

    monkeypatch.setattr(Sink, "add", spying)
    clients = cohort(Deep(), [split(8, seed=d) for d in range(3)], "stacked-kernels")
    fit(clients, initials(Deep(), 3), rule, Schedule(8))
    shapes = dict(Deep().named_parameters())
    assert sorted(filled) == sorted(tuple(shapes[n].shape) for n in SUNK)
    filled.clear()
    only = frozenset({"pixel.bias", "middle.weight"})
    fit(clients, initials(Deep(), 3), rule, Schedule(8), trainable=lambda model: only)
    assert filled == [tuple(shapes["middle.weight"].shape)]


def lowest(model) -> frozenset[str]:
    return frozenset({"body.0.weight", "body.1.bias"})


def both(model) -> frozenset[str]:
    return frozenset({"body.0.bias", "body.6.weight"})


@pytest.mark.parametrize("selector", [everything, head, lowest, both])
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_layers_below_and_in_the_tail_move_as_with_autograd(objective, selector):
    rule = Sgd(0.05, 0.9)
    ours, wanted = (
        trained(rule, objective, selector, by_hand, make=tailed) for by_hand in (True, False)
    )
    assert_close(ours.weights, wanted.weights)
    torch.testing.assert_close(ours.loss, wanted.loss)


def test_what_the_network_never_computes_with_is_decayed_alone():
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Parameter(torch.ones(2))
            self.head = nn.Linear(16, CLASSES)

        def forward(self, x):
            return self.head(x.flatten(1))

    clients = cohort(Idle(), SPLITS, "stacked-kernels")
    start, decay = initials(Idle(), 3, seed=20), Sgd(0.1, 0.0, 0.2)
    for selector in (everything, lambda model: frozenset({"idle"})):
        found = fit(clients, start, decay, Schedule(20), trainable=selector)
        assert_close({"idle": found.weights["idle"]}, {"idle": 0.98 * start["idle"]})


def test_the_layers_below_are_computed_once_a_step():
    """And without a record for a gradient, where none of them moves."""
    calls = []
    clients = cohort(tailed(), SPLITS, "stacked-kernels")
    below = clients.network.below_tail

    def spying(*args):
        calls.append(below(*args).requires_grad)
        return below(*args)

    clients.network.below_tail = spying
    clients.network.outputs = None  # nobody calls it
    for selector, expected in ((everything, True), (head, False), (lowest, True)):
        calls.clear()
        fit(clients, initials(tailed(), 3), Sgd(0.1), Schedule(20), trainable=selector)
        assert calls == [expected] * 3  # a step of each size


def doubled(trained, held, memory):
    return {"body.1.weight": 2 * trained["body.1.weight"] * trained["share"].view(-1, 1, 1)}


@pytest.mark.parametrize("through", [None, doubled], ids=["beside", "through a map"])
def test_what_is_trained_beside_the_network_is_left_to_autograd(through):
    """The decay reaches what has no gradient."""
    extra = {"share": torch.tensor([0.5, 1.0, 1.5]).double()}
    ours, wanted = (
        trained(Sgd(0.1, 0.0, 0.2), cross_entropy, everything, hand, extra=extra, through=through)
        for hand in (True, False)
    )
    assert_close(ours.weights, wanted.weights)
    assert_close(ours.extra, wanted.extra)
    assert (ours.extra["share"] != extra["share"]).all()


def double(trained, held, memory):
    return {"body.1.weight": 2 * trained["body.1.weight"]}


def test_a_map_to_the_network_s_weights_is_left_to_autograd():
    ours, wanted = (
        trained(Sgd(0.1), cross_entropy, everything, hand, through=double) for hand in (True, False)
    )
    assert_close(ours.weights, wanted.weights)


def test_the_derivative_by_hand_is_what_is_used(monkeypatch):
    """An objective that cannot be called is trained all the same."""
    silent = SimpleNamespace(derivative=CrossEntropy().derivative)
    ours = trained(Sgd(0.1), silent, everything, True)
    assert_close(ours.weights, trained(Sgd(0.1), cross_entropy, everything, False).weights)


def test_what_reads_more_than_logits_and_weights_has_no_derivative():
    assert derivative_of(entropy) is None
    assert derivative_of(OneHead(0, 2)) is None
    assert derivative_of(Proximal(0.1, OneHead(0, 2))) is None


def test_layers_below_what_is_trained_have_no_backward_pass():
    """Weights that are not finite there would show in whatever is multiplied by them."""
    model = chained()
    chain = StackedNetwork(model).chain
    weights = initials(model, 2, seed=20)
    seen = []

    class Spying(dict):
        def __getitem__(self, name):
            seen.append(name)
            return super().__getitem__(name)

    into = {"head.weight": torch.zeros_like(weights["head.weight"])}
    inputs = torch.ones(2, 4, 1, 4, 4).double()
    labels = torch.zeros(2, 4, dtype=torch.int64)
    of_logits = CrossEntropy().derivative.of_logits
    chain.add_gradient(Spying(weights), inputs, labels, of_logits, into)
    assert sorted(seen) == sorted(chain.names)  # each once, in the forward pass


@pytest.mark.parametrize("exclude", [(), ("head",), ("body.1",)], ids=["all", "body", "top"])
@pytest.mark.parametrize("kind", ["mas", "fisher", "true-fisher"])
def test_importances_of_all_clients_at_once_are_those_that_autograd_finds_one_by_one(kind, exclude):
    model = chained()
    clients = cohort(model, SPLITS, "stacked-kernels")
    weights = initials(model, 3, seed=20)
    ways = {"sample": {}, "batch": {"batch_size": 4, "batches": "by-size"}}
    for granularity, more in ways.items():
        how = {"kind": kind, "granularity": granularity, "part": "train", "exclude": exclude}
        ours = importances(clients, weights, **how, **more)
        for d in range(3):
            alone = replace(clients.only(d), stacked=False, network=None)
            assert alone.chain is None
            wanted = importances(
                alone, {n: t[d : d + 1] for n, t in weights.items()}, **how, **more
            )
            assert_close({n: t[d : d + 1] for n, t in ours.items()}, wanted)


@pytest.mark.parametrize(("kind", "times"), [("mas", 1), ("fisher", 4)])
def test_a_summed_batch_of_b_images_counts_b_times_in_squares(kind, times):
    """With batches of equal size b, summed is b times by-size for a square, once for |.|."""
    model = chained()
    clients = cohort(model, [split(12, seed=1), split(8, seed=2)], "stacked-kernels")
    how = {"kind": kind, "granularity": "batch", "batch_size": 4, "part": "train"}
    weights = initials(model, 2, seed=20)
    summed = importances(clients, weights, batches="summed", **how)
    by_size = importances(clients, weights, batches="by-size", **how)
    assert_close(summed, {n: times * t for n, t in by_size.items()})


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.head(x))


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.body(x) + x)


class Positive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.relu = nn.Linear(4, 3), nn.ReLU()

    def forward(self, x):
        return self.relu(self.head(x))


OTHERS = {
    "convolution": conv(),
    "batch norm": dense(),
    "tanh": plain(),
    "dropout": Network(nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5)), 5, CLASSES),
    "a layer twice": Twice(),
    "a sum": Around(),
    "a clamp at the end": Positive(),
}


@pytest.mark.parametrize("model", OTHERS.values(), ids=OTHERS)
def test_other_networks_are_not_linear_layers_alone(model):
    assert StackedNetwork(model).chain is None


class Read(nn.Module):
    """The head's weights are read beside it too."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.body(x) * self.head.bias)


class Shared(nn.Module):
    """What enters the last layer is used once more."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.middle, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.body(x)
        return self.head(self.middle(x) + x)


TAILS = {
    "convolution": (conv(), ["head.weight"]),
    "batch norm": (dense(), ["head.weight"]),
    "tanh": (plain(), ["head.weight"]),
    "dropout": (OTHERS["dropout"], ["head.weight"]),
    "a layer twice": (Twice(), []),
    "a sum": (Around(), ["head.weight"]),
    "a clamp at the end": (Positive(), []),
    "a weight that is read twice": (Read(), []),
    "a value that is used twice": (Shared(), ["head.weight"]),
    "several": (tailed(), ["body.6.weight", "body.8.weight", "head.weight"]),
}


@pytest.mark.parametrize(("model", "wanted"), TAILS.values(), ids=TAILS)
def test_a_tail_is_the_linear_layers_that_nothing_else_depends_on(model, wanted):
    tail = StackedNetwork(model).tail
    assert ([layer.weight for layer in tail.layers] if tail else []) == wanted


def test_a_network_without_a_tail_has_nothing_below_it():
    with pytest.raises(ValueError, match="does not end with a linear layer"):
        StackedNetwork(Positive()).below_tail({}, torch.zeros(1, 2, 4))


def test_clients_in_other_arithmetic_or_one_by_one_have_no_chain():
    clients = cohort(chained(), SPLITS, "stacked-kernels")
    assert clients.chain is not None
    assert replace(clients, autocast=torch.bfloat16).chain is None
    assert replace(clients, stacked=False).chain is None
    assert replace(clients, network=None).chain is None
    assert replace(clients, autocast=torch.bfloat16).tail is None  # it would be all of the network
    assert replace(clients, stacked=False).tail is None
    assert replace(clients, network=None).tail is None


def test_the_tail_computes_as_the_weights_are_where_what_is_below_does_not(monkeypatch):
    seen = []

    def spying(kind, function):
        def spy(*args):
            result = function(*args)
            made = result if kind == "below" else result[0]
            seen.append((kind, made.dtype, torch.is_autocast_enabled("cpu")))
            return result

        return spy

    clients = cohort(tailed(), SPLITS, "stacked-kernels", autocast=torch.bfloat16)
    start = {
        n: t.float() if t.dtype.is_floating_point else t for n, t in initials(tailed(), 3).items()
    }
    clients = replace(clients, scaling=lambda inputs: inputs.float())
    wanted = fit(replace(clients, network=Unchained(clients.network)), start, Sgd(0.1), Schedule(4))
    below, forward = clients.network.below_tail, AffineChain.forward
    monkeypatch.setattr(clients.network, "below_tail", spying("below", below))
    monkeypatch.setattr(AffineChain, "forward", spying("tail", forward))
    found = fit(clients, start, Sgd(0.1), Schedule(4))
    assert set(seen) == {("below", torch.bfloat16, True), ("tail", torch.float32, False)}
    assert_close(found.weights, wanted.weights, rtol=0, atol=0.01)


def test_rows_of_rows_are_not_flattened():
    """A linear layer without a flattening before it computes each row of [D, B, T, F] by itself."""
    chain = StackedNetwork(Network(nn.Linear(4, 5), 5, CLASSES)).chain
    assert chain.takes(torch.zeros(2, 3, 4))
    assert not chain.takes(torch.zeros(2, 3, 7, 4))
    later = StackedNetwork(Network(nn.Sequential(nn.Linear(4, 5), nn.Flatten()), 35, CLASSES)).tail
    assert later.takes(torch.zeros(2, 3, 7, 5))
    assert StackedNetwork(chained()).chain.takes(torch.zeros(2, 3, 1, 4, 4))
