"""The merge of DUA and IMM: what a mode of a product of Gaussians must be."""

import pytest
import torch

from fedadapt.errors import InputError
from fedadapt.server import mode_merge
from fedadapt.server.modes import mode_merges

SHAPES = {"body.weight": (3, 4), "body.bias": (3,), "body.norm.weight": (3,)}


def draw(seed: int, low: float = 0.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        n: low + torch.rand(shape, generator=generator, dtype=torch.float64)
        for n, shape in SHAPES.items()
    }


def experts(count: int = 3):
    rest = {"head.weight": 2, "body.norm.running_mean": 3}
    return [
        {n: t - 0.5 for n, t in draw(seed).items()}
        | {n: torch.full((size,), float(seed), dtype=torch.float64) for n, size in rest.items()}
        for seed in range(count)
    ]


def omegas(count: int = 3):
    return [draw(100 + seed, low=0.01) for seed in range(count)]


def close(found, wanted, **how):
    for n, t in wanted.items():
        torch.testing.assert_close(found[n], t, **how)


def test_it_minimises_the_weighted_squared_distances():
    alphas = [0.5, 0.3, 0.2]
    models, precisions = experts(), omegas()
    merged = mode_merge(models, precisions, mixing=alphas)
    for n in SHAPES:
        at = merged[n].clone().requires_grad_()
        loss = sum(
            (0.5 * a * p[n] * (at - m[n]) ** 2).sum()
            for a, p, m in zip(alphas, precisions, models, strict=True)
        )
        loss.backward()
        assert at.grad.abs().max() < 1e-15


def test_weights_of_the_mixture_are_shares_that_sum_to_one():
    precisions = omegas()
    shares = []
    for which in range(3):
        ones = [
            {n: torch.full(s, float(t == which), dtype=torch.float64) for n, s in SHAPES.items()}
            for t in range(3)
        ]
        shares.append(mode_merge(ones, precisions))
    for n in SHAPES:
        stack = torch.stack([share[n] for share in shares])
        assert ((stack >= 0) & (stack <= 1)).all()
        torch.testing.assert_close(stack.sum(0), torch.ones(SHAPES[n], dtype=torch.float64))


def test_equal_precisions_give_the_mean_and_a_dominating_one_its_expert():
    models, same = experts(), [draw(7, low=0.1)] * 3
    close(
        {n: t for n, t in mode_merge(models, same).items() if n in SHAPES},
        {n: sum(m[n] for m in models) / 3 for n in SHAPES},
    )
    huge = [same[0], {n: t * 1e12 for n, t in same[0].items()}, same[0]]
    close(mode_merge(models, huge), {n: models[1][n] for n in SHAPES}, rtol=1e-9, atol=1e-9)


def test_neither_a_common_scale_nor_the_order_matters():
    models, precisions = experts(), omegas()
    wanted = {n: mode_merge(models, precisions)[n] for n in SHAPES}
    scaled = [{n: t * 1e-30 for n, t in p.items()} for p in precisions]
    close(mode_merge(models, scaled), wanted)
    close(mode_merge(models[::-1], precisions[::-1]), wanted)


def test_precisions_near_the_end_of_float32_do_not_underflow():
    models = [{n: t.float() for n, t in m.items()} for m in experts(2)]
    tiny = [{n: torch.full(s, x) for n, s in SHAPES.items()} for x in (3e-40, 1e-40)]
    merged = mode_merge(models, tiny)
    for n in SHAPES:
        wanted = 0.75 * models[0][n] + 0.25 * models[1][n]
        torch.testing.assert_close(merged[n], wanted, rtol=1e-3, atol=1e-4)
        assert merged[n].dtype == torch.float32


def test_what_has_no_precision_is_the_last_experts():
    merged = mode_merge(experts(), omegas())
    for name in ("head.weight", "body.norm.running_mean"):
        assert torch.equal(merged[name], experts()[-1][name])


def test_where_nothing_matters_it_is_the_mean_or_zero_as_released():
    models, precisions = experts(2), omegas(2)
    for p in precisions:
        p["body.bias"][1] = 0.0
    merged = mode_merge(models, precisions, mixing=[0.25, 0.75])
    wanted = 0.25 * models[0]["body.bias"][1] + 0.75 * models[1]["body.bias"][1]
    assert merged["body.bias"][1] == pytest.approx(wanted.item())
    released = mode_merge(models, precisions, zero_precision="zero")
    assert released["body.bias"][1] == 0
    assert released["body.bias"][0] != 0
    alone = mode_merge(models[:1], [{n: t * 0 for n, t in draw(0).items()}], zero_precision="zero")
    assert torch.equal(alone["body.bias"], models[0]["body.bias"])


def test_a_cohort_is_merged_device_by_device():
    models = experts()
    by_device = [[draw(100 + 10 * d + t, low=0.01) for t in range(3)] for d in range(4)]
    stacked = [
        {n: torch.stack([by_device[d][t][n] for d in range(4)]) for n in SHAPES} for t in range(3)
    ]
    found = mode_merges(models, stacked)
    for d in range(4):
        close({n: t[d] for n, t in found.items()}, mode_merge(models, by_device[d]))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda m, p: p[1].update({"body.bias": torch.tensor([1.0, -1.0, 1.0])}), "expert 2"),
        (lambda m, p: p[0].update({"body.bias": torch.full((3,), float("nan"))}), "expert 1"),
        (lambda m, p: p[2].update({"body.bias": torch.full((3,), float("inf"))}), "expert 3"),
        (lambda m, p: p[1].update({"body.bias": torch.ones(4)}), r"shape \(4,\); expected \(3,\)"),
        (lambda m, p: p[1].pop("body.bias"), "missing 'body.bias'"),
        (lambda m, p: [q.update({"strange": torch.ones(2)}) for q in p], "which no expert has"),
        (lambda m, p: p.pop(), "2 precisions for 3 experts"),
        (lambda m, p: m[1].pop("body.weight"), "expert 2"),
        (lambda m, p: (m.clear(), p.clear()), "0 experts"),
    ],
)
def test_what_is_no_precision_is_refused_in_one_line(spoil, said):
    models, precisions = experts(), omegas()
    spoil(models, precisions)
    with pytest.raises(InputError, match=said) as caught:
        mode_merge(models, precisions)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mixing", [[0.5, 0.5], [1.0, 1.0, -1.0], [0.2, 0.2, 0.2]])
def test_mixing_weights_must_be_shares(mixing):
    with pytest.raises(InputError, match="mixing weights"):
        mode_merge(experts(), omegas(), mixing=mixing)
