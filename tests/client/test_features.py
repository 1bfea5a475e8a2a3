"""What an objective may see and compute: features, logits, and second passes of the network."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from toys import (
    CLASSES,
    Quadratic,
    assert_close,
    assert_same_bits,
    cohort,
    conv,
    copied,
    dense,
    initial,
    initials,
    plain,
    quadratic_split,
    split,
)

from fedadapt.client.cohort import Schedule
from fedadapt.client.fit import Sgd, fit
from fedadapt.client.stacking import StackedNetwork
from fedadapt.errors import InputError
from fedadapt.models.mode import evaluating, training
from fedadapt.models.network import Network
from fedadapt.objectives import Batch, cross_entropy
from fedadapt.selectors import head_of
from fedadapt.weights import repeat, row

SPLITS = [split(count, seed=d) for d, count in enumerate((5, 12, 10))]
EXECUTIONS = ("sequential", "per-client", "stacked-kernels", "vmap")


class Foreign(nn.Module):
    """A network as people write them: the last linear layer is the head."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.fc1 = nn.Linear(12, 6)
        self.fc2 = nn.Linear(6, CLASSES)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)))
        return self.fc2(F.relu(self.fc1(torch.flatten(x, 1)))) / 2


class PooledHead(nn.Module):
    """The head is several layers, the first ones such as the kernels fold into what is before."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3))
        self.head = nn.Sequential(
            nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, CLASSES)
        )

    def forward(self, x):
        return self.head(self.body(x))


class ReluBeforePool(nn.Module):
    """The kernels change the order of the ReLU and the pooling layer in front of the head."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(12, CLASSES))

    def forward(self, x):
        return self.head(self.body(x))


NETWORKS = {
    "dense": dense,
    "conv": conv,
    "foreign": Foreign,
    "a head of several layers": PooledHead,
    "a pool before the head": ReluBeforePool,
    "nothing but a head": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES)),
}


def entering(model, weights, inputs):
    """By the plainest way: what a network in the mode it is in calls its head with."""
    caught = []
    hook = head_of(model).register_forward_pre_hook(
        lambda layer, given: caught.append(given[0].clone())
    )
    logits = functional_call(model, copied(weights), (inputs,))
    hook.remove()
    return logits, caught[-1]


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_features_are_what_enters_the_head(make, execution):
    weights = initials(make(), 3)
    images = torch.stack([s.train.inputs[:5] for s in SPLITS])
    for mode in (training, evaluating):
        members = cohort(make(), SPLITS, execution)
        given = copied(weights)
        with mode(members.model):
            logits, features = (t.clone() for t in members.outputs(given, images))
        for d in range(3):
            model = make().double()
            with mode(model):
                wanted, entered = entering(model, row(weights, d), images[d])
            torch.testing.assert_close(logits[d], wanted, rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(features[d], entered, rtol=1e-9, atol=1e-11)
    before = copied(weights)
    found = cohort(make(), SPLITS, execution).features(weights, images)
    torch.testing.assert_close(found, features, rtol=1e-9, atol=1e-11)  # in evaluation mode
    assert_same_bits(weights, before)
    assert not found.requires_grad


def features_pulled(view):
    return cross_entropy(view) + 0.1 * (view.features.flatten(1) ** 2).mean(1)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_training_on_features_is_the_plain_torch_loop(make, execution):
    members = cohort(make(), SPLITS, execution)
    start = initials(make(), 3)
    found = fit(members, start, Sgd(0.1, 0.9), Schedule(4), objective=features_pulled)
    for d in range(3):
        model = make().double().train()
        model.load_state_dict(row(start, d))
        caught = []
        head_of(model).register_forward_pre_hook(
            lambda layer, given, caught=caught: caught.append(given[0].clone())
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for [(_, batch)] in members.only(d).steps(Schedule(4)):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(batch.inputs[0]), batch.labels[0])
            (loss + 0.1 * (caught[-1] ** 2).mean()).backward()
            optimizer.step()
        assert_close(row(found.weights, d), model.state_dict())


# How often the network is computed: batch norm counts its batches in training mode


def passes(objective, execution, make=dense, mode=training):
    """Forward passes in one step of each client, and how far the running means moved."""
    start = {n: torch.zeros_like(t) if "num_" in n else t for n, t in initials(make(), 3).items()}
    members = cohort(make(), SPLITS, execution)
    fitted = fit(
        members, start, Sgd(0.0), Schedule(100, steps=1), objective=objective, mode=mode
    ).weights
    [counted] = {tuple(t.tolist()) for n, t in fitted.items() if n.endswith("num_batches_tracked")}
    return counted, {n: t for n, t in fitted.items() if "running" in n}


def in_both_orders(view):
    return view.features.flatten(1).sum(1) + cross_entropy(view) + view.features.flatten(1).sum(1)


def logits_first(view):
    return cross_entropy(view) + view.features.flatten(1).sum(1) + cross_entropy(view)


def parameters_only(view):
    return sum((t.flatten(1) ** 2).sum(1) for t in view.params.values())


def twice(view):
    return cross_entropy(view) + view.apply(view.params).sum((1, 2))


def with_a_look(mode):
    """A probe before the network's own pass: neither may spoil what the other needs."""

    def objective(view):
        return view.apply(view.params, mode).sum((1, 2)) + cross_entropy(view)

    return objective


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize(
    ("objective", "number"),
    [
        (in_both_orders, 1),
        (logits_first, 1),
        (parameters_only, 0),
        (twice, 2),
        (with_a_look(evaluating), 1),
        (with_a_look(training), 1),
    ],
    ids=["features first", "logits first", "neither", "twice", "evaluating", "training"],
)
def test_the_network_is_computed_once_and_a_look_moves_nothing(objective, number, execution):
    counted, means = passes(objective, execution)
    assert counted == (number,) * 3
    wanted = passes([parameters_only, cross_entropy, twice][number], "sequential")[1]
    assert_close(means, wanted)


def mixed(view):
    """The logits of the mean of two models, through which both learn, in each mode."""
    other = view.memory["other"]
    between = {n: (t + other[n]) / 2 for n, t in view.params.items()}
    with_evaluation = view.with_logits(view.apply(between, evaluating))
    return cross_entropy(with_evaluation) + cross_entropy(view.with_logits(view.apply(between)))


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_second_pass_is_differentiable(execution):
    members = cohort(conv(), SPLITS, execution)
    start, other = initials(conv(), 3), initials(conv(), 3, seed=40)
    step = Schedule(100, steps=1)
    found = fit(members, start, Sgd(0.1), step, objective=mixed, memory={"other": other})
    parameters = {n for n, _ in conv().named_parameters()}
    for d in range(3):
        [[(_, batch)]] = members.only(d).steps(step)
        x, y = batch.inputs[0], batch.labels[0]
        model, state = conv().double(), row(start, d)
        moving = {n: state[n].clone().requires_grad_() for n in parameters}
        between = {n: (t + other[n][d]) / 2 for n, t in moving.items()}
        loss = F.cross_entropy(functional_call(model.train(), copied(state) | between, (x,)), y)
        loss = loss + F.cross_entropy(functional_call(model.eval(), state | between, (x,)), y)
        loss.backward()
        assert_close(
            {n: found.weights[n][d] for n in parameters},
            {n: (t - 0.1 * t.grad).detach() for n, t in moving.items()},
        )


def test_dropout_in_a_second_pass_is_the_same_in_a_stack_as_alone():
    def make():
        body = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.5), nn.ReLU())
        return Network(body, 8, CLASSES)

    def trained(execution):
        members, how = cohort(make(), SPLITS, execution), {"objective": twice}
        return fit(members, initials(make(), 3), Sgd(0.1), Schedule(4), **how).weights

    assert_close(trained("stacked-kernels"), trained("sequential"))


@pytest.mark.parametrize("execution", ["sequential", "vmap"])
def test_a_network_without_a_head_trains_and_has_no_features(execution):
    members = cohort(Quadratic(), [quadratic_split(1.0, c) for c in (0.0, 4.0)], execution)
    start = {"w": torch.tensor([10.0, 10.0], dtype=torch.float64)}
    assert fit(members, start, Sgd(0.5), Schedule(1)).weights["w"].tolist() == [5, 7]
    with pytest.raises(InputError, match=r"features: .* head"):
        fit(members, start, Sgd(0.5), Schedule(1), objective=features_pulled)


@pytest.mark.parametrize("execution", ["sequential", "stacked-kernels", "vmap"])
def test_features_have_the_type_of_the_logits_in_every_arithmetic(execution):
    single = {n: t.float() if t.is_floating_point() else t for n, t in initials(dense(), 3).items()}
    images = torch.stack([s.train.inputs[:5].float() for s in SPLITS])
    members = cohort(dense(), SPLITS, execution)
    rough = replace(members, autocast=torch.bfloat16).features(single, images)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, members.features(single, images), rtol=0.05, atol=0.05)


def test_kernels_still_take_a_network_whose_head_writes_over_its_input():
    assert StackedNetwork(PooledHead().to("meta")) is not None


def test_a_tensor_the_network_does_not_have_is_an_error_in_a_second_pass():
    members = cohort(plain(), SPLITS)

    def objective(view):
        return view.apply({"v/head.weight": view.params["head.weight"]}).sum((1, 2))

    with pytest.raises(InputError, match=r"apply makes 'v/head\.weight'"):
        fit(members, initials(plain(), 3), Sgd(0.1), Schedule(4), objective=objective)


@pytest.mark.parametrize(
    ("images", "parts", "sizes"),
    [(9, 2, [5, 4]), (9, 3, [3, 3, 3]), (3, 2, [3, 3]), (5, 3, [3, 2, 3]), (1, 2, [1, 1])],
)
def test_a_batch_is_cut_into_parts_of_two_images_at_least_which_repeat_where_it_is_short(
    images, parts, sizes
):
    numbers = torch.arange(images)[None]
    found = Batch(numbers.double(), numbers).cut(parts)
    assert [part.labels.shape[1] for part in found] == sizes
    for part in found:
        assert torch.equal(part.inputs.long(), part.labels)
    different = torch.cat([part.labels for part in found], 1).unique()
    assert torch.equal(different, numbers[0])


def test_features_of_one_model_for_all_are_those_of_each_one():
    members, one = cohort(conv(), SPLITS, "stacked-kernels"), initial(conv())
    images = torch.stack([s.train.inputs[:5] for s in SPLITS])
    copies = {n: t.clone() for n, t in repeat(one, 3).items()}
    torch.testing.assert_close(
        members.features(repeat(one, 3), images), members.features(copies, images)
    )
