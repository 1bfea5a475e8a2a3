"""One image for another moves a client's vector by sqrt(q) / N at most, through the whole path."""

import math
from dataclasses import replace

import pytest
import tiny
import torch
import toys
from torch import nn

import fedadapt.client
from fedadapt.client import differential_privacy
from fedadapt.client.statistics.sparsity import num_channels
from fedadapt.datasets import load
from fedadapt.datasets.benchmark import MeasuredScaling, Scaling
from fedadapt.datasets.sources import digits
from fedadapt.errors import InputError
from fedadapt.models.build import build_model
from fedadapt.simulations.assembly import assemble, run_of
from fedadapt.simulations.check import check
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.pfa.strategy import PFA, SPARSITY
from fedadapt.strategies.registry import select

pytest.importorskip("dp_accounting")

DP = "federated_rounds=1 q=12 dp_epsilon=1"


class Centred(nn.Module):
    """A network in which every image of a batch moves the activations of all others."""

    def __init__(self, image_shape, num_classes):
        super().__init__()
        self.hidden = nn.Linear(math.prod(image_shape), 12)
        self.head = nn.Linear(12, num_classes)

    def forward(self, images):
        x = self.hidden(images.flatten(1))
        return self.head(torch.relu(x - 0.5 * x.mean(0)))


def batch_normed(image_shape, num_classes):
    """Batch norm without running statistics."""
    return nn.Sequential(
        nn.Conv2d(image_shape[0], 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(4 * (image_shape[1] - 2) * (image_shape[2] - 2), num_classes),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _networks(monkeypatch):
    monkeypatch.setattr(toys, "Centred", Centred, raising=False)
    monkeypatch.setattr(toys, "batch_normed", batch_normed, raising=False)
    # Vectors leave as they are: the bound is on what the noise has to cover.
    monkeypatch.setattr(differential_privacy, "release", lambda vector, *_: vector.double())


def private(**changes):
    return tiny.config(strategy="pfa", strategy_args=DP, **{"normalization": "unit", **changes})


def vectors(config):
    """The benchmark, and what each of its clients answers to the query."""
    check(config)
    benchmark = load.load_benchmark(config)
    model = build_model(config, benchmark.image_shape, benchmark.num_classes)
    strategy = select(config).on_client(run_of(config, model, benchmark))
    worker = Worker(benchmark, model, strategy, (), seed=config.seed)
    clients = range(benchmark.num_clients)
    start = {n: t.detach() for n, t in model.state_dict().items()}
    sent = strategy.send(strategy.begin(start, clients), SPARSITY, 2, clients)
    answer = worker.answer(SPARSITY, 2, sent, [{} for _ in clients])
    return benchmark, answer.report["sparsity"].double()


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "cnn"},
        {"model": tiny.NORM_MLP, "normalization": "symmetric", "batch_norm": "reestimate"},
        {"model": "toys:Centred", "normalization": "imagenet"},
        {"model": "cnn", "benchmark": "digits-domains", "image_size": 12},
    ],
)
def test_another_image_moves_one_vector_by_the_sensitivity_at_most(settings, monkeypatch):
    config = private(**settings)
    benchmark, before = vectors(config)
    store = digits.read_digits()
    generator = torch.Generator().manual_seed(0)
    for client, fill in ((0, 0), (1, 255), (2, None)):
        row = int(benchmark.rows(client).train[0])
        pixels = store.inputs.clone()
        if fill is None:
            pixels[row] = torch.randint(256, pixels[row].shape, generator=generator).byte()
        else:
            pixels[row] = fill
        monkeypatch.setattr(digits, "read_digits", lambda p=pixels: replace(store, inputs=p))
        _, after = vectors(config)
        moved = (after - before).norm(dim=1)
        bound = math.sqrt(before.shape[1]) / benchmark.num_train_examples(client)
        assert 0 < moved[client] <= bound * (1 + 1e-6)
        assert moved[torch.arange(len(moved)) != client].eq(0).all()


@pytest.mark.parametrize("normalization", ["auto", "data"])
def test_a_scaling_by_everybodys_images_is_refused_on_every_entry(normalization):
    config = private(normalization=normalization)
    for entry in (check, assemble):
        with pytest.raises(InputError, match=f"normalization={normalization} .*=unit") as error:
            entry(config)
        assert "\n" not in str(error.value)
    for allowed in ("unit", "symmetric", "imagenet"):
        check(private(normalization=allowed))


def pfa(model=None, **how):
    given = {"training": toys.training(), "federated_rounds": 1, "q": 5, "groups": 2}
    return PFA(model=model or toys.dense(), image_shape=toys.SHAPE, **{**given, **how})


@pytest.mark.parametrize(("own", "asked"), [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_a_client_releases_nothing_under_such_a_scaling_whoever_asked_for_privacy(own, asked):
    """Also where the strategy was made by hand and no run configuration was checked."""
    splits = [toys.split(30, seed=d, make=toys.images) for d in range(2)]
    client, server = (pfa(dp_epsilon=epsilon) for epsilon in (own, asked))
    start = {n: t.float() if t.is_floating_point() else t for n, t in
             toys.initial(toys.dense()).items()}  # fmt: skip
    sent = server.send(server.begin(start, [10, 11]), SPARSITY, 2, [10, 11])
    for scaling, refused in ((MeasuredScaling, True), (Scaling, False)):
        cohort = toys.cohort(toys.dense(), splits, scaling=scaling((0.4,), (0.2,)))
        if refused:
            with pytest.raises(InputError, match="set normalization to unit"):
                client.answer(SPARSITY, cohort, sent)
        else:
            client.answer(SPARSITY, cohort, sent)


def test_batch_norm_without_running_statistics_is_refused_on_every_entry():
    model = batch_normed(toys.SHAPE, toys.CLASSES)
    images = torch.randn(6, *toys.SHAPE)
    entries = (
        lambda: num_channels(model, toys.SHAPE),
        lambda: pfa(model),
        lambda: pfa(model, dp_epsilon=1.0),
        lambda: fedadapt.client.sparsity(model, images),
        lambda: assemble(private(model="toys:batch_normed")),
        lambda: differential_privacy.check_independent(toys.cohort(model, [toys.split(5)])),
    )
    for entry in entries:
        with pytest.raises(InputError, match="batch norm '1' keeps no running statistics"):
            entry()
    pfa(model, random=True)  # random groups measure no vector


def test_measured_one_image_at_a_time_no_image_moves_the_zeros_of_another():
    model = Centred(toys.SHAPE, toys.CLASSES)
    images = torch.randn(9, *toys.SHAPE, generator=torch.Generator().manual_seed(0))
    alone = [fedadapt.client.sparsity(model, one[None]) for one in images]
    together = fedadapt.client.sparsity(model, images, batch_size=1)
    torch.testing.assert_close(together, torch.stack(alone).mean(0))
    assert not torch.equal(fedadapt.client.sparsity(model, images), together)
