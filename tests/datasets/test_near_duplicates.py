"""Near duplicates on two sides are found and counted; what is different is not."""

import numpy as np
import pytest
import torch

from fedadapt.datasets.benchmark import Examples, Split
from fedadapt.datasets.near_duplicates import find_leaks
from fedadapt.errors import InputError


def split_of(*sides):
    return Split(*(Examples(x, torch.zeros(len(x), dtype=torch.int64)) for x in sides))


def leaks(*splits, **settings):
    class Made:
        num_clients = len(splits)

        def split(self, client):
            return splits[client]

    return {(leak.side, leak.against): leak for leak in find_leaks(Made(), **settings)}


def counts(found):
    return {pair: (leak.number, leak.other_clients, leak.total) for pair, leak in found.items()}


def test_pictures_of_a_burst_are_found_through_noise_and_on_which_client():
    rng = np.random.default_rng(1)
    scenes = torch.from_numpy(rng.integers(0, 256, (8, 3, 20, 20), np.uint8))
    noisy = (scenes.float() + torch.randn(scenes.shape) * 4).clamp(0, 255).to(torch.uint8)
    one = split_of(scenes[:3], scenes[3:4], torch.cat([noisy[:2], noisy[4:5], noisy[6:7]]))
    two = split_of(scenes[4:5], scenes[5:6], noisy[7:])
    found = leaks(one, two)
    assert counts(found) == {
        ("test", "train"): (2, 1, 5),
        ("test", "adapt"): (0, 0, 5),
        ("adapt", "train"): (0, 0, 2),
    }
    assert found["test", "train"].share == pytest.approx(0.4)
    assert counts(leaks(one, two, alike=1e-4))["test", "train"] == (0, 0, 5)


def windows(signal, starts, length=32):
    return torch.stack([signal[:, start : start + length] for start in starts])


@pytest.mark.parametrize("overlap", [31, 16, 9, 8])
def test_windows_that_overlap_are_found_wherever_they_overlap(overlap):
    signal = torch.randn(2, 400, generator=torch.Generator().manual_seed(1))
    train, test = windows(signal, [100]), windows(signal, [100 + 32 - overlap, 300])
    found = counts(leaks(split_of(train, windows(signal, [200]), test)))
    assert found["test", "train"] == (1, 0, 2)
    swapped = counts(leaks(split_of(test, windows(signal, [200]), train)))
    assert swapped["test", "train"] == (1, 0, 1)


def test_windows_that_hardly_touch_or_are_silent_are_not_counted():
    signal = torch.randn(2, 400)
    train, test = windows(signal, [100]), windows(signal, [100 + 32 - 3, 132])
    assert counts(leaks(split_of(train, train[:0], test)))["test", "train"] == (0, 0, 2)
    silence = torch.zeros(3, 2, 32)
    assert counts(leaks(split_of(silence, silence, silence)))["test", "train"] == (0, 0, 3)


def test_tokens_that_share_a_stretch_are_found():
    text = torch.randint(0, 50, (300,), generator=torch.Generator().manual_seed(2))
    of = [text[start : start + 40] for start in range(200)]
    train, test = torch.stack(of[:20]), torch.stack([of[25], of[100]])
    assert counts(leaks(split_of(train, train[:0], test)))["test", "train"] == (1, 0, 2)


def test_a_threshold_out_of_range_is_refused():
    with pytest.raises(InputError, match=r"alike, shared: 0, 0\.25; both must"):
        leaks(alike=0.0)
