"""Importances made smaller: how far they come back, how few bytes they take."""

import pytest
import torch
from toys import assert_same_bits, copied

from fedadapt.server.mode_merge import mode_merges
from fedadapt.strategies.dua.compression import CODES, EXPONENT, OCTAVES, RANGE
from fedadapt.weights import num_bytes

SMALL = ["fp16", "log8"]


def importances(octaves: float = 30.0, dtype: torch.dtype = torch.float64):
    """Of three clients, log-uniform over so many octaves below different largest values."""
    generator = torch.Generator().manual_seed(0)
    largest = torch.tensor([1e-20, 1.0, 1e9], dtype=torch.float64)
    shapes = {"body.weight": (3, 40, 25), "body.bias": (3, 40), "scale": (3,)}
    found = {}
    for n, shape in shapes.items():
        logs = -octaves * torch.rand(shape, generator=generator, dtype=torch.float64)
        found[n] = (torch.exp2(logs) * largest.reshape(3, *[1] * (len(shape) - 1))).to(dtype)
    return found


def sent(code: str, omega):
    """What comes back, in float64 for comparisons."""
    return {n: t.double() for n, t in CODES[code].decode(CODES[code].encode(omega)).items()}


def spans(t):
    """Octaves between a client's smallest and largest value that is not zero: [D, 1]."""
    logs = t.reshape(len(t), -1).log2()
    smallest = logs.masked_fill(logs.isinf(), torch.inf).amin(1)
    return (logs.amax(1) - smallest).unsqueeze(1)


def error(found, wanted):
    """|found - wanted| / wanted, [D, n]."""
    return ((found - wanted).abs() / wanted).reshape(len(wanted), -1)


@pytest.mark.parametrize("octaves", [0.0, 1.0, 10.0, 39.0])
def test_a_logarithmic_code_errs_by_half_a_step_at_most(octaves):
    omega = importances(octaves)
    found = sent("log8", omega)
    for n, t in omega.items():
        bound = torch.exp2(spans(t) / 508) - 1
        assert (error(found[n], t) <= bound + 1e-6).all()  # the result is float32
        if octaves and t.dim() > 1:
            assert (error(found[n], t).amax(1, keepdim=True) > 0.8 * bound).all()  # it is tight


def test_a_logarithmic_code_never_errs_by_more_than_5_6_percent_within_40_octaves():
    assert 2 ** (OCTAVES / 508) - 1 < 0.0561
    omega = importances(39.9)
    found = sent("log8", omega)
    assert all((error(found[n], t) < 0.0561).all() for n, t in omega.items())


def test_what_is_smaller_than_the_code_reaches_counts_as_its_lower_end():
    tiny = torch.tensor([[1.0, 2.0**-50, 2.0**-100, 0.0]], dtype=torch.float64)
    found = sent("log8", {"w": tiny})["w"]
    assert found.tolist() == [[1.0, 2.0**-40, 2.0**-40, 0.0]]


def test_half_precision_errs_by_2_to_the_minus_11_down_to_28_octaves():
    omega = importances(27.9)
    found = sent("fp16", omega)
    assert all((error(found[n], t) <= 2**-11).all() for n, t in omega.items())


def test_half_precision_errs_by_2_to_the_minus_39_of_the_largest_below():
    omega = importances(60.0)
    found = sent("fp16", omega)
    for n, t in omega.items():
        largest = t.reshape(3, -1).amax(1, keepdim=True)
        bound = torch.maximum(2.0**-11 * t.reshape(3, -1), 2.0**-39 * largest)
        assert ((found[n] - t).abs().reshape(3, -1) <= bound).all()


@pytest.mark.parametrize("code", CODES)
def test_zeros_come_back_as_zeros_and_others_never_as_negative(code):
    omega = importances()
    for t in omega.values():
        t[torch.rand(t.shape, generator=torch.Generator().manual_seed(1)) < 0.3] = 0
    omega["dead"] = torch.zeros(3, 4, dtype=torch.float64)
    found = sent(code, omega)
    for n, t in omega.items():
        assert (found[n][t == 0] == 0).all()
        assert (found[n][t > 0] > 0).all()


@pytest.mark.parametrize("code", SMALL)
def test_coding_once_more_changes_nothing(code):
    once = sent(code, importances(dtype=torch.float32))
    again = sent(code, once)
    assert all(torch.allclose(again[n], t, rtol=1e-6, atol=0) for n, t in once.items())


@pytest.mark.parametrize("code", SMALL)
@pytest.mark.parametrize("size", [1e-40, 1e-45, 1e38])
def test_the_ends_of_float32_are_coded_like_all_others(code, size):
    omega = {"w": torch.tensor([[size, size, size / 2]], dtype=torch.float32)}
    found = CODES[code].decode(CODES[code].encode(omega))["w"]
    torch.testing.assert_close(found, omega["w"], rtol=1e-3, atol=0)


@pytest.mark.parametrize("code", SMALL)
def test_each_client_is_coded_as_if_it_were_alone(code):
    omega = importances()
    coded = CODES[code].encode(omega)
    for d in range(3):
        alone = CODES[code].encode({n: t[d : d + 1] for n, t in omega.items()})
        assert_same_bits(alone, {n: t[d : d + 1] for n, t in coded.items()})


@pytest.mark.parametrize(
    ("code", "a_value", "a_tensor"), [("fp32", 4, 0), ("fp16", 2, 2), ("log8", 1, 16)]
)
def test_the_bytes_are_those_of_the_values_and_a_few_a_tensor(code, a_value, a_tensor):
    omega = importances(dtype=torch.float32)
    values = 40 * 25 + 40 + 1
    assert num_bytes(CODES[code].encode(omega)) == 3 * (values * a_value + 3 * a_tensor)


@pytest.mark.parametrize("code", CODES)
def test_names_shapes_and_arguments_stay(code):
    omega = importances(dtype=torch.float32)
    before = copied(omega)
    coded = CODES[code].encode(omega)
    assert {n for n in coded if not n.endswith((RANGE, EXPONENT))} == omega.keys()
    assert all(len(t) == 3 for t in coded.values())
    found = CODES[code].decode(coded)
    assert_same_bits(omega, before)
    assert {n: (t.shape, t.dtype) for n, t in found.items()} == {
        n: (t.shape, torch.float32) for n, t in omega.items()
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, -float("inf")])
@pytest.mark.parametrize("code", SMALL)
def test_what_is_no_importance_is_none_when_it_comes_back_and_only_there(code, value):
    """Whoever merges can refuse it."""
    omega = importances()
    omega["body.bias"][1, 7] = value
    found = sent(code, omega)
    fine = {n: ((t >= 0) & t.isfinite()).reshape(3, -1).all(1).tolist() for n, t in found.items()}
    whole = [True] * 3
    assert fine == {"body.weight": whole, "body.bias": [True, False, True], "scale": whole}


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("value", [-1e-20, -1e-44, -3e38])
def test_not_even_a_small_negative_value_is_taken_for_a_zero(code, value):
    found = sent(code, {"w": torch.tensor([[1.0, value, 0.0], [1.0, 0.5, 0.0]])})["w"]
    assert ((found >= 0) & found.isfinite()).all(1).tolist() == [False, True]


@pytest.mark.parametrize("code", SMALL)
def test_a_merge_is_off_by_less_than_the_code(code):
    """A weight w is off by 2 e w (1 - w) at most, where e is the error of a precision."""
    generator = torch.Generator().manual_seed(2)
    experts = [{"body.weight": torch.randn(40, 25, generator=generator)} for _ in range(2)]
    omegas = [{"body.weight": importances(o)["body.weight"].float()} for o in (20.0, 24.0)]
    exact = mode_merges(experts, omegas)["body.weight"]
    coded = mode_merges(experts, [CODES[code].decode(CODES[code].encode(o)) for o in omegas])
    apart = (experts[0]["body.weight"] - experts[1]["body.weight"]).abs()
    bound = {"fp16": 2**-11, "log8": 2 ** (24 / 508) - 1}[code]
    assert ((coded["body.weight"] - exact).abs() <= 0.55 * bound * apart + 1e-6).all()
    assert (coded["body.weight"] - exact).abs().max() > 0
