"""Importances made smaller: how near they come back, and that nothing bad is hidden."""

import pytest
import torch

from fedadapt.client.compression import CODES, LEVELS, OCTAVES
from fedadapt.weights import num_bytes


def made(octaves: float = 30.0, devices: int = 3):
    generator = torch.Generator().manual_seed(0)
    levels = torch.rand((devices, 40, 5), generator=generator)
    values = torch.exp2(-octaves * levels)
    values[:, 3] = 0.0
    return {"w": values, "b": values[:, :, 0].clone()}


@pytest.mark.parametrize("octaves", [1.0, 10.0, 30.0])
def test_a_byte_of_logarithm_is_within_half_a_step(octaves):
    sent = made(octaves)
    back = CODES["log8"].decode(CODES["log8"].encode(sent))
    for n, t in sent.items():
        some = t > 0
        span = t[some].log2().max() - t[some].log2().min()
        worst = 2 ** (span / (2 * LEVELS)) - 1
        assert ((back[n] - t).abs()[some] <= (worst + 1e-6) * t[some]).all()
        assert (back[n][~some] == 0).all()  # zeros stay zeros, and nothing else becomes one
        assert (back[n][some] > 0).all()


def test_what_lies_below_the_span_is_small_and_not_zero():
    sent = {"w": torch.tensor([[1.0, 2.0**-60, 0.0]])}
    back = CODES["log8"].decode(CODES["log8"].encode(sent))["w"]
    assert 0 < back[0, 1] <= 2 ** -(OCTAVES - 1)
    assert back[0, 0] == pytest.approx(1.0)
    assert back[0, 2] == 0


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_half_precision_keeps_eleven_bits_at_any_scale(scale):
    sent = {n: t * scale for n, t in made(25.0).items()}
    back = CODES["fp16"].decode(CODES["fp16"].encode(sent))
    for n, t in sent.items():
        assert ((back[n] - t).abs() <= 2.0**-11 * t + 1e-45).all()


@pytest.mark.parametrize("code", ["fp32", "fp16", "log8"])
def test_a_device_is_coded_by_itself(code):
    sent = made()
    whole = CODES[code].decode(CODES[code].encode(sent))
    for d in range(3):
        alone = CODES[code].decode(CODES[code].encode({n: t[d : d + 1] for n, t in sent.items()}))
        for n in sent:
            assert torch.equal(alone[n][0], whole[n][d])


@pytest.mark.parametrize(("code", "bytes_each", "extra"), [("fp16", 2, 2), ("log8", 1, 16)])
def test_it_takes_the_bytes_it_says(code, bytes_each, extra):
    sent = {"w": torch.rand(1, 100)}
    assert num_bytes(CODES[code].encode(sent)) == 100 * bytes_each + extra


@pytest.mark.parametrize("code", ["fp32", "fp16", "log8"])
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_tensors_of_one_value_come_back(code, value):
    sent = {"w": torch.full((2, 6), value)}
    back = CODES[code].decode(CODES[code].encode(sent))["w"]
    torch.testing.assert_close(back, sent["w"], rtol=1e-3, atol=0)


@pytest.mark.parametrize("code", ["fp32", "fp16", "log8"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_what_is_no_importance_does_not_look_like_one(code, bad):
    sent = {"w": torch.tensor([[0.5, bad, 0.25]])}
    back = CODES[code].decode(CODES[code].encode(sent))["w"]
    assert not bool(((back >= 0) & back.isfinite()).all())
