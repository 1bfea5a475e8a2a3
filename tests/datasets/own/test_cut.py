"""Which side a picture is on: decided once, by content, with what belongs together."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedadapt.datasets.own.cut import SIDES, Known, Shares, cut
from fedadapt.datasets.own.looks import BITS, Look
from fedadapt.datasets.own.remembered import FILE, cut_digest, read_cut, write_cut
from fedadapt.errors import InputError


def look(number: int, **given) -> Look:
    """A picture that looks like no other."""
    return Look(f"{random.Random(number).getrandbits(128):032x}", b"", **given)


def alike(number: int, flipped: int) -> Look:
    """Pictures of one number differ in as many of their 256 bits as these numbers differ."""
    bits = random.Random(number).getrandbits(BITS) ^ ((1 << flipped) - 1)
    digest = f"{random.Random(f'{number} {flipped}').getrandbits(128):032x}"
    return Look(digest, bits.to_bytes(BITS // 8, "big"))


def sides(looks, labels=None, known=(), **given):
    return cut(looks, labels or ["a"] * len(looks), dict(known), **given)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=12, max_size=80), st.integers(0, 99))
def test_every_class_is_cut_by_the_shares_and_the_order_of_files_does_not_matter(labels, seed):
    looks = [look(1000 * seed + n) for n in range(len(labels))]
    found = sides(looks, labels)
    total = Counter(found.sides)
    for side, share in (("train", 0.6), ("adapt", 0.2), ("test", 0.2)):
        assert abs(total[side] - share * len(labels)) <= 2.5
        for label in set(labels):
            of_class = [s for s, own in zip(found.sides, labels, strict=True) if own == label]
            assert abs(of_class.count(side) - share * len(of_class)) <= 2.5
    shuffled = random.Random(seed).sample(range(len(labels)), len(labels))
    again = sides([looks[n] for n in shuffled], [labels[n] for n in shuffled])
    assert [again.sides[shuffled.index(n)] for n in range(len(labels))] == list(found.sides)


def test_three_pictures_are_one_of_each_side_and_a_class_of_one_is_trained_on_first():
    assert sorted(sides([look(n) for n in range(3)]).sides) == sorted(SIDES)
    assert sides([look(0)]).sides == ("train",)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 400), min_size=3, max_size=60, unique=True), st.data())
def test_new_pictures_join_without_moving_old_ones(numbers, data):
    first = data.draw(st.integers(1, len(numbers) - 1))
    looks = [look(n) for n in numbers]
    labels = ["ab"[n % 2] for n in numbers]
    before = cut(looks[:first], labels[:first], {})
    after = cut(looks, labels, before.known)
    assert after.sides[:first] == before.sides
    assert None not in after.sides
    assert cut(looks, labels, after.known) == after  # and once more changes nothing


def test_a_picture_that_is_gone_comes_back_to_its_side_whatever_its_folder_is_called():
    looks = [look(n) for n in range(10)]
    before = sides(looks)
    without = sides(looks[1:], known=before.known)
    assert without.sides == before.sides[1:]
    assert sides(looks, ["b"] * 10, without.known).sides == before.sides


@pytest.mark.parametrize(("flipped", "together"), [(1, True), (16, True), (17, False)])
def test_pictures_that_look_alike_stay_together_up_to_sixteen_bits_of_256(flipped, together):
    """Thirty pairs: by chance alone not all would be on one side."""
    found = sides([alike(n, f) for n in range(30) for f in (0, flipped)]).sides
    pairs = list(zip(found[::2], found[1::2], strict=True))
    assert all(one == other for one, other in pairs) == together


def test_bursts_and_scenes_stay_together_and_a_chain_is_one_group():
    burst = [look(n, taken=100.0 + n) for n in range(6)]  # a second apart each
    apart = [look(10 + n, taken=200.0 + 1.1 * n) for n in range(12)]
    scene = [look(30 + n, scene="patient 7") for n in range(6)]
    found = sides([*burst, *apart, *scene]).sides
    assert len(set(found[:6])) == 1
    assert len(set(found[-6:])) == 1
    assert len(set(found[6:18])) > 1


def test_a_new_picture_of_a_known_scene_goes_where_the_scene_is():
    first = [alike(n, 0) for n in range(20)]
    before = sides(first)
    found = sides([*first, *(alike(n, 5) for n in range(20))], known=before.known)
    assert found.sides == before.sides * 2


def test_what_would_be_on_two_sides_is_left_out():
    """One scene between a picture that trains and one that tests; one picture in two classes."""
    one, other = alike(1, 0), alike(1, 28)
    known = {one.digest: Known(one, "train"), other.digest: Known(other, "test")}
    between = alike(1, 14)
    found = sides([one, other, between], known=known)
    assert found.sides == ("train", "test", None)
    assert between.digest not in found.known
    assert found.left_out == 1
    twice = sides([look(1), look(1), look(2)], ["a", "b", "a"])
    assert twice.sides[:2] == (None, None)
    assert twice.sides[2] is not None


def test_what_is_decided_is_remembered_to_the_letter(tmp_path):
    looks = [alike(1, 0), look(2, taken=3.5), look(3, scene="x"), look(4)]
    found = sides(looks, shares=Shares(0.3, 0.1))
    write_cut(tmp_path, found.known, Shares(0.3, 0.1))
    known, shares = read_cut(tmp_path, Shares())
    assert (known, shares) == (found.known, Shares(0.3, 0.1))  # the first shares stay
    assert cut_digest(known, shares) in (tmp_path / FILE).read_text()
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0
    assert read_cut(tmp_path / "elsewhere", Shares(0.3, 0.3)) == ({}, Shares(0.3, 0.3))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"train"', '"test"', 1),
        lambda text: text[:-20],
        lambda text: "[]",
        lambda text: text.replace('"format": 1', '"format": 2'),
    ],
)
def test_a_changed_memory_is_refused_in_one_line(tmp_path, change):
    write_cut(tmp_path, sides([look(n) for n in range(5)]).known, Shares())
    path = tmp_path / FILE
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=r"cut\.json: damaged") as refused:
        read_cut(tmp_path, Shares())
    assert "\n" not in str(refused.value)
