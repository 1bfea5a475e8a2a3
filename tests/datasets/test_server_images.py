"""Images that the server has: no client's, of every class and domain, changed as clients' are."""

import numpy as np
import pytest
import torch

from fedadapt.config import RunConfig
from fedadapt.datasets.load import load_benchmark
from fedadapt.errors import InputError
from fedadapt.simulations.check import check

FACTORY = """
import numpy as np

def rooms():
    '''240 images of their own number, three classes, two rooms; the second has no class 2.'''
    pixels = np.zeros((240, 4, 4), np.uint8)
    pixels[:, 0, 0] = np.arange(240)
    pixels[:, 1, 1] = 255
    rooms = np.arange(240) % 2
    labels = np.arange(240) // 2 % 3 * (1 - rooms) + np.arange(240) // 2 % 2 * rooms
    return pixels, labels, np.array(["east", "west"])[rooms]
"""


@pytest.fixture
def rooms(tmp_path, monkeypatch):
    (tmp_path / "my_rooms.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    return "my_rooms:rooms"


def load(benchmark, clients=6, **settings):
    return load_benchmark(RunConfig(benchmark=benchmark, clients=clients, **settings))


def numbers(inputs):
    """Which images these are: the largest pixel beside the white one, however they are turned."""
    return inputs.flatten(1).sort(1).values[:, -2].tolist()


@pytest.mark.parametrize("partition", ["by-domain", "iid"])
def test_the_server_has_its_share_and_clients_have_all_others(rooms, partition):
    benchmark = load(rooms, partition=partition, server_share=0.25)
    of_server = numbers(benchmark.server_images.examples.inputs)
    of_clients = [
        number for d in range(6) for part in benchmark.split(d) for number in numbers(part.inputs)
    ]
    assert len(of_server) == 60
    assert sorted(of_server + of_clients) == [*range(240)]


def test_of_digits_no_client_draws_an_image_of_the_server():
    benchmark = load("digits-classes", 40, server_share=0.3)
    whole = load_benchmark(RunConfig(benchmark="digits-classes", clients=40))
    assert len(benchmark.server_images.examples) == round(0.3 * 1797)
    drawn = np.concatenate([part for d in range(40) for part in benchmark.rows(d)])
    pixels, labels = whole._store.inputs, whole._store.labels
    left = np.setdiff1d(np.arange(1797), drawn)
    images = {(image.numpy().tobytes(), int(label)) for image, label in zip(
        pixels[left], labels[left], strict=True
    )}  # fmt: skip
    server = benchmark.server_images.examples
    assert all(
        (image.numpy().tobytes(), int(label)) in images
        for image, label in zip(server.inputs, server.labels, strict=True)
    )
    everywhere = benchmark.global_test
    assert not {i.numpy().tobytes() for i in everywhere.inputs} & {
        i.numpy().tobytes() for i in server.inputs
    }


def test_every_class_of_every_domain_is_in_proportion(rooms):
    images = load(rooms, partition="by-domain", server_share=0.25).server_images
    counts = torch.bincount(3 * images.domains + images.examples.labels, minlength=6)
    assert counts.tolist() == pytest.approx([10, 10, 10, 15, 15, 0], abs=1)
    assert len(set(numbers(images.examples.inputs))) == 60
    for number, domain in zip(
        numbers(images.examples.inputs), images.domains.tolist(), strict=True
    ):
        assert domain == number % 2


def test_shifts_are_spread_over_the_images_evenly_and_make_them_as_clients_see_theirs(rooms):
    settings = {"partition": "by-domain", "shift": "rotation"}
    benchmark = load(rooms, 8, server_share=0.4, **settings)
    assert benchmark.domains[:5] == (
        "east/upright", "east/rotated90", "east/rotated180", "east/rotated270", "west/upright"
    )  # fmt: skip
    assert [benchmark.domains[benchmark.domain(d)] for d in range(8)] == [
        kind for kind in benchmark.kinds
    ]
    images = benchmark.server_images
    counts = torch.bincount(images.domains, minlength=8)
    assert counts.tolist() == pytest.approx([12] * 8, abs=3)
    corners = {0: (1, 1), 1: (2, 1), 2: (2, 2), 3: (1, 2)}  # of the white pixel, anticlockwise
    for image, domain in zip(images.examples.inputs, images.domains.tolist(), strict=True):
        assert image[0][corners[domain % 4]] == 255
        assert numbers(image.unsqueeze(0))[0] % 2 == domain // 4


def test_where_clients_have_several_domains_there_is_none_to_tell(rooms):
    for settings in ({"partition": "iid"}, {"partition": "iid", "shift": "corruption:jpeg:1"}):
        benchmark = load(rooms, server_share=0.25, **settings)
        assert benchmark.domains == ()
        assert {benchmark.domain(d) for d in range(6)} == {0}
        assert benchmark.server_images.domains.unique().tolist() == [0]


def test_domains_by_shift_alone_are_those_of_the_clients():
    benchmark = load("digits-domains", 7, server_share=0.2)
    assert benchmark.domains == ("plain", "inverted", "rotated90", "blurred", "noisy")
    assert [benchmark.domain(d) for d in range(7)] == [0, 1, 2, 3, 4, 0, 1]


def test_the_server_s_images_are_the_same_every_time_and_others_for_another_seed(rooms):
    first, again, other = (
        load(rooms, partition="by-domain", server_share=0.25, seed=seed) for seed in (1, 1, 2)
    )
    one, two = first.server_images, first.server_images
    assert torch.equal(one.examples.inputs, two.examples.inputs)
    assert torch.equal(one.examples.inputs, again.server_images.examples.inputs)
    assert not torch.equal(one.examples.inputs, other.server_images.examples.inputs)


def test_the_manifest_tells_of_them_and_only_of_them(rooms):
    without, some, more = (
        load(rooms, partition="by-domain", server_share=share) for share in (0.0, 0.25, 0.26)
    )
    assert without.server_images is None
    assert not {"server-share", "server-images"} & without.manifest.metadata.keys()
    assert some.manifest.metadata["server-share"] == 0.25
    assert some.manifest.metadata["server-images"] == 60
    assert len({b.manifest.hash for b in (without, some, more)}) == 3


def test_a_share_of_less_than_an_image_is_refused(rooms):
    with pytest.raises(InputError, match=r"^server-share: 0.001 of 240 images is none"):
        load(rooms, partition="by-domain", server_share=0.001)


def test_who_does_not_use_them_refuses_the_setting_and_who_needs_them_says_so():
    with pytest.raises(InputError, match=r"^server-share: fedavg does not use it; leave it out$"):
        check(RunConfig(server_share=0.2))
    wanted = r"^server-share: taper-server trains on images that the server has; give it some"
    with pytest.raises(InputError, match=wanted):
        check(RunConfig(strategy="taper-server"))
    check(RunConfig(strategy="taper-server", server_share=0.2))
