"""Importances uploaded where they differ from shared ones: what comes back, at which price."""

import math

import pytest
import torch
from toys import assert_close, assert_same_bits, copied

from fedadapt.strategies.dua.compression import RANGE
from fedadapt.strategies.dua.sparse_upload import PLACES, SCALES, SHARED, VALUES, Difference
from fedadapt.weights import num_bytes, row

SHAPES = {"body.weight": (40, 25), "body.bias": (40,), "scale": ()}
ENTRIES = 1041
SHARES = [0.3, 0.02]  # a bit an entry is shorter; the entries' numbers are


def shared(seed: int = 0):
    """Log-uniform over 30 octaves."""
    random = torch.Generator().manual_seed(seed)
    return {
        n: torch.exp2(-30 * torch.rand(shape, generator=random, dtype=torch.float64))
        for n, shape in SHAPES.items()
    }


def of_users(count: int = 3):
    """The shared ones, each entry times something between 1/2 and 2."""
    random = torch.Generator().manual_seed(7)
    return {
        n: t * torch.exp2(2 * torch.rand((count, *t.shape), generator=random) - 1)
        for n, t in shared().items()
    }


def flat(importances):
    """[D, entries], in the order in which they are numbered."""
    return torch.cat(
        [importances[n].double().unsqueeze(1).flatten(1) for n in sorted(importances)], 1
    )


@pytest.mark.parametrize("share", SHARES)
def test_where_only_the_entries_that_travel_differ_nothing_is_lost_but_digits(share):
    """Some entries are larger by a lot; all others come back as the shared ones, to the bit."""
    count = round(share * ENTRIES)
    own = flat({n: t.unsqueeze(0) for n, t in shared().items()}).repeat(2, 1)
    at = torch.stack([torch.randperm(ENTRIES - 1)[:count] for _ in range(2)])  # the scale stays
    own.scatter_(1, at, 1000 * torch.rand(2, count, dtype=torch.float64) + 1000)
    parts = own.split([math.prod(SHAPES[n]) for n in sorted(SHAPES)], dim=1)
    users = {n: p.reshape(2, *SHAPES[n]) for n, p in zip(sorted(SHAPES), parts, strict=True)}
    code = Difference(shared(), share)
    found = flat(code.decode(code.encode(users)))
    told = torch.zeros_like(own).scatter(1, at, 1).bool()
    assert ((found[told] / own[told] - 1).abs() < 0.002).all()  # an octave in 254 steps
    torch.testing.assert_close(found[~told], own[~told], rtol=1e-6, atol=0)


def test_a_scaled_importance_tensor_is_reconstructed_from_the_shared_one():
    """In proportion, tensor by tensor: nothing differs, however little travels."""
    factors = {"body.weight": 7.0, "body.bias": 0.01, "scale": 1e6}
    users = {n: factors[n] * t.unsqueeze(0) for n, t in shared().items()}
    code = Difference(shared(), 1e-9)
    found = code.decode(code.encode(users))
    assert_close(found, {n: t.float() for n, t in users.items()}, rtol=1e-6, atol=0)


def test_with_a_share_of_one_all_travel_as_logarithms():
    code, users = Difference(shared(), 1.0), of_users()
    found = code.decode(code.encode(users))
    assert all((found[n] / t - 1).abs().max() < 0.0561 for n, t in users.items())


def test_those_travel_that_differ_most_from_the_shared_ones_in_the_usual_proportion():
    code, users, count = Difference(shared(), 0.02), of_users(), round(0.02 * ENTRIES)
    at = code.encode(users)[PLACES].long()
    gaps = flat({n: (users[n] - median(users[n] / t) * t).abs() for n, t in shared().items()})
    assert at.shape == (3, count)
    for d in range(3):
        travels = torch.zeros(ENTRIES).scatter(0, at[d], 1).bool()
        assert gaps[d, travels].min() >= gaps[d, ~travels].max()


def median(t):
    """Of each row, with its axes."""
    return t.unsqueeze(1).flatten(1).median(1).values.reshape(-1, *[1] * (t.dim() - 1))


@pytest.mark.parametrize(("share", "bytes_of_places"), [(0.3, 131), (0.02, 4 * 21), (1.0, 131)])
def test_an_upload_is_a_byte_an_entry_that_travels_and_where_it_is(share, bytes_of_places):
    coded = Difference(shared(), share).encode(of_users())
    wanted = round(share * ENTRIES) + 16 + bytes_of_places + 8 * len(SHAPES)
    assert num_bytes(row(coded, 0)) == wanted


def test_what_the_server_sends_is_what_both_sides_reckon_with():
    sent = Difference.sent_down(shared())
    assert num_bytes(sent) == ENTRIES + 16 * len(SHAPES)
    code = Difference.received({"body.weight": torch.zeros(2), **sent}, 0.1)
    assert code.shared.keys() == SHAPES.keys()
    assert all(n.startswith(SHARED) for n in sent)
    assert all((code.shared[n] / t - 1).abs().max() < 0.0561 for n, t in shared().items())


def test_importances_of_zero_have_no_scale():
    nothing = {n: torch.zeros_like(t) for n, t in shared().items()}
    users = of_users(1)
    for common, own in ((nothing, users), (shared(), {n: 0 * t for n, t in users.items()})):
        code = Difference(common, 0.5)
        coded = code.encode(own)
        assert code.validation_errors(coded) == {}
        assert all(t.isfinite().all() for t in code.decode(coded).values())
    # A layer that is idle for the server is not what differs most: it is idle for the user too.
    idle = shared() | {"body.weight": nothing["body.weight"]}
    own = {n: t * (n != "body.weight") for n, t in users.items()}
    code = Difference(idle, 0.02)
    at = code.encode(own)[PLACES][0].long()
    assert (flat({n: t.unsqueeze(0) for n, t in idle.items()})[0, at] > 0).all()


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("where", range(0, 1000, 199))
def test_what_is_no_importance_is_refused_wherever_it_is(bad, share, where):
    users = of_users()
    users["body.weight"][1].view(-1)[where] = bad
    code = Difference(shared(), share)
    validation_errors = code.validation_errors(code.encode(users))
    assert list(validation_errors) == [1]
    assert "importances must be finite and >= 0" in validation_errors[1]


def corrupt_reply(coded, name, value):
    coded = copied(coded)
    coded[name][1].view(-1)[0] = value
    return coded


@pytest.mark.parametrize(
    ("share", "name", "value", "said"),
    [
        (0.02, PLACES, -1, "must name 21 of 1041 entries"),
        (0.02, PLACES, ENTRIES, "must name 21 of 1041 entries"),
        (0.3, PLACES, None, "must name 312 of 1041 entries"),
        (0.3, SCALES, -1.0, "importances must be finite"),
        (0.3, SCALES, 1e300, "importances must be finite"),
        (0.3, VALUES + RANGE, math.nan, "importances must be finite"),
        (0.3, VALUES + RANGE, 1e300, "importances must be finite"),
    ],
)
def test_an_upload_that_was_made_up_is_refused_by_number(share, name, value, said):
    code = Difference(shared(), share)
    coded = code.encode(of_users())
    other = coded[name][1].view(-1)[0].item() ^ 1 if value is None else value
    validation_errors = code.validation_errors(corrupt_reply(coded, name, other))
    assert list(validation_errors) == [1]
    assert said in validation_errors[1]
    assert "\n" not in validation_errors[1]
    assert code.validation_errors(coded) == {}


@pytest.mark.parametrize("share", SHARES)
def test_whatever_bytes_come_they_are_refused_or_are_importances(share):
    code = Difference(shared(), share)
    good = code.encode(of_users(50))
    random = torch.Generator().manual_seed(0)
    for name, tensor in good.items():
        noise = torch.randint(0, 256, (50, tensor[0].numel() * tensor.element_size()),
                              generator=random, dtype=torch.uint8)  # fmt: skip
        made_up = good | {name: noise.view(tensor.dtype).view(tensor.shape)}
        validation_errors = code.validation_errors(made_up)
        fine = [d for d in range(50) if d not in validation_errors]
        found = code.decode({n: t[fine] for n, t in made_up.items()})
        assert all(((t >= 0) & t.isfinite()).all() for t in found.values())
        assert fine or name != VALUES


def test_arguments_stay_and_a_client_is_coded_as_if_alone():
    users, common = of_users(), shared()
    before = copied(users)
    code = Difference(common, 0.1)
    coded = code.encode(users)
    assert_same_bits(users, before)
    alone = code.encode({n: t[1:2] for n, t in users.items()})
    assert_same_bits(alone, {n: t[1:2] for n, t in coded.items()})
