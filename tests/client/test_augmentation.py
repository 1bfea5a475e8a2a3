"""Augmentation: images moved and mirrored, a client's own draws, the same in every execution."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toys import cohort, conv, dense, initials, split

from fedadapt.client.augmentation import Augmentation
from fedadapt.client.cohort import Schedule
from fedadapt.client.fit import fit
from fedadapt.client.step_rules import Sgd
from fedadapt.errors import InputError

BOTH = Augmentation(crop=True, flip=True)
SIDES = (16, 24)  # an image moves by up to 2 and 3 pixels


def images(count, clients=1, sides=SIDES):
    generator = torch.Generator().manual_seed(count)
    return torch.rand((clients, count, 2, *sides), generator=generator, dtype=torch.float64)


def generators(*seeds):
    return [np.random.default_rng(seed) for seed in seeds]


def moved(image, down, right, mirrored):
    """With torch's own padding: the pixel at (y, x) is that of (y + down, x + right)."""
    image = image.flip(-1) if mirrored else image
    right = -right if mirrored else right
    height, width = image.shape[-2:]
    padded = F.pad(image, (3, 3, 2, 2), mode="reflect")
    return padded[:, 2 + down : 2 + down + height, 3 + right : 3 + right + width]


def test_every_view_is_the_image_moved_and_mirrored():
    batch = images(60)
    views = BOTH(batch, generators(3))[0]
    found = set()
    for image, view in zip(batch[0], views, strict=True):
        [which] = [
            (down, right, mirrored)
            for down in range(-2, 3) for right in range(-3, 4) for mirrored in (0, 1)
            if torch.equal(moved(image, down, right, mirrored), view)
        ]  # fmt: skip
        found.add(which)
    assert {down for down, _, _ in found} == {-2, -1, 0, 1, 2}
    assert {right for _, right, _ in found} == {-3, -2, -1, 0, 1, 2, 3}
    assert {mirrored for _, _, mirrored in found} == {0, 1}


@pytest.mark.parametrize("text", ["crop", "flip"])
def test_each_can_be_had_alone(text):
    batch = images(40)
    views = Augmentation.of(text)(batch, generators(1))[0]
    flipped = [torch.equal(v, i.flip(-1)) for v, i in zip(views, batch[0], strict=True)]
    same = [torch.equal(v, i) for v, i in zip(views, batch[0], strict=True)]
    if text == "flip":
        assert all(f != s for f, s in zip(flipped, same, strict=True))
        assert 10 < sum(flipped) < 30
    else:
        assert not any(flipped)
        assert sum(same) < 10


def test_none_is_none_and_small_images_do_not_move():
    assert Augmentation.of("none") is None
    batch = images(5, sides=(7, 7))
    assert torch.equal(Augmentation(crop=True)(batch, generators(1)), batch)


def test_a_client_s_views_do_not_depend_on_the_others():
    batch = images(6, clients=3)
    together = BOTH(batch, generators(1, 2, 3))
    for d, seed in enumerate((1, 2, 3)):
        assert torch.equal(BOTH(batch[d : d + 1], generators(seed))[0], together[d])


def test_inputs_that_are_no_images_are_refused():
    with pytest.raises(InputError, match=r"of images, \[C, H, W\]; inputs here are \[7\]"):
        BOTH(torch.zeros(1, 4, 7), generators(1))


SPLITS = [split(count, seed=d) for d, count in enumerate((5, 12, 10))]
AUGMENTED = Schedule(4, 2, augmentation=Augmentation(flip=True))


@pytest.mark.parametrize("make", [dense, conv])
@pytest.mark.parametrize("execution", ["per-client", "stacked-kernels", "vmap"])
def test_training_on_views_is_the_same_in_a_stack_as_one_by_one(make, execution):
    if make is conv and execution == "vmap":
        pytest.skip("vmap is for networks without convolutions")
    start = initials(make(), 3)

    def trained(how):
        return fit(cohort(make(), SPLITS, how), start, Sgd(0.1), AUGMENTED).weights

    alone, together = trained("sequential"), trained(execution)
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-9, atol=1e-11)


def test_views_differ_by_round_and_epoch_and_repeat_for_equal_ones():
    def seen(schedule=AUGMENTED, **settings):
        steps = cohort(dense(), SPLITS[1:2], **settings).steps(schedule)
        return torch.cat([batch.inputs[0] for groups in steps for _, batch in groups])

    assert torch.equal(seen(round=1), seen(round=1))
    plain = AUGMENTED._replace(augmentation=None)
    share = {
        number: (seen(round=number) == seen(plain, round=number)).flatten(1).all(1)
        for number in (1, 2)
    }
    assert 0 < share[1].sum() < len(share[1])
    assert not torch.equal(share[1], share[2])
    assert not torch.equal(share[1][:12], share[1][12:])  # of the two epochs


def test_other_clients_change_no_view():
    clients, start = cohort(dense(), SPLITS, "stacked-kernels"), initials(dense(), 3)
    together = fit(clients, start, Sgd(0.1), AUGMENTED)
    last = {n: t[2:] for n, t in start.items()}
    one = fit(clients.only(2), last, Sgd(0.1), AUGMENTED)
    torch.testing.assert_close(one.loss, together.loss[2:])
