"""The merge of experts by precisions: a weighted mean, element by element, and its edges."""

import sys

import pytest
import torch
from toys import CLASSES, assert_close, assert_same_bits, conv, copied, initial

from fedadapt.errors import InputError
from fedadapt.selectors import head
from fedadapt.server.mode_merge import mode_merge, mode_merges
from fedadapt.weights import row, stack

mode_merge_module = sys.modules[mode_merges.__module__]  # the package has a function of its name
PARAMETERS = [n for n, _ in conv().named_parameters()]
HEAD = head(conv())
MERGED = [n for n in PARAMETERS if n not in HEAD]


def experts(count=3):
    return [initial(conv(), seed) for seed in range(count)]


def importances(count=3, seed=0, names=MERGED):
    """Positive, from 1e-6 to 1e6, one expert unlike the other."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {n: t.shape for n, t in initial(conv()).items() if n in names}
    draw = {"generator": generator, "dtype": torch.float64}
    return [{n: 10 ** (6 * torch.randn(s, **draw).clamp(-1, 1)) for n, s in shapes.items()}
            for _ in range(count)]  # fmt: skip


def scalars(*values):
    """Experts, or precisions, of a single parameter."""
    return [{"w": torch.tensor([v], dtype=torch.float64)} for v in values]


def test_each_element_is_the_mean_weighted_by_mixing_and_importance():
    models, omegas, alphas = experts(), importances(), [0.5, 0.2, 0.3]
    found = mode_merge(models, omegas, mixing=alphas)
    for n in MERGED:
        weight = [a * o[n] for a, o in zip(alphas, omegas, strict=True)]
        wanted = sum(w * m[n] for w, m in zip(weight, models, strict=True)) / sum(weight)
        torch.testing.assert_close(found[n], wanted, rtol=1e-12, atol=1e-12)


def test_weights_lie_in_0_to_1_and_sum_to_1():
    """Merging experts that are 1 for one and 0 for the others shows the weights."""
    omegas, shape = importances(), initial(conv())
    total = {n: torch.zeros_like(shape[n]) for n in MERGED}
    for t in range(3):
        ones = [{n: torch.full_like(v, float(s == t)) for n, v in shape.items()} for s in range(3)]
        weight = mode_merge(ones, omegas, mixing=[0.1, 0.6, 0.3])
        assert all(((weight[n] >= 0) & (weight[n] <= 1)).all() for n in MERGED)
        total = {n: t + weight[n] for n, t in total.items()}
    assert_close(total, {n: torch.ones_like(t) for n, t in total.items()})


@pytest.mark.parametrize("zero_importance", ["mean", "zero"])
def test_equal_importances_give_the_mean(zero_importance):
    models = experts()
    found = mode_merge(models, importances(1) * 3, zero_importance=zero_importance)
    mean = {n: torch.stack([m[n] for m in models]).mean(0) for n in MERGED}
    assert_close({n: found[n] for n in MERGED}, mean)


def test_with_equal_importances_only_the_mixing_counts():
    found = mode_merge(scalars(1.0, 5.0), scalars(2.0, 2.0), mixing=[0.75, 0.25])
    assert found["w"].item() == 2.0


def test_an_expert_that_dominates_wins_where_it_does():
    models, omegas = experts(), importances()
    first = MERGED[0]
    omegas[1] = omegas[1] | {first: omegas[1][first] * 1e30}
    found = mode_merge(models, omegas)
    torch.testing.assert_close(found[first], models[1][first])
    assert not torch.isclose(found[MERGED[1]], models[1][MERGED[1]]).all()


@pytest.mark.parametrize("scale", [1e-290, 1e-3, 1e290])
def test_the_scale_of_importances_does_not_matter(scale):
    models, omegas = experts(), importances()
    scaled = [{n: t * scale for n, t in omega.items()} for omega in omegas]
    assert_close(mode_merge(models, scaled), mode_merge(models, omegas))


def test_the_order_of_experts_matters_only_for_what_is_not_merged():
    models, omegas, alphas = experts(), importances(), [0.5, 0.2, 0.3]
    found = mode_merge(models, omegas, mixing=alphas)
    order = [2, 0, 1]
    other = mode_merge(*([some[t] for t in order] for some in (models, omegas)),
                       mixing=[alphas[t] for t in order])  # fmt: skip
    assert_close({n: other[n] for n in MERGED}, {n: found[n] for n in MERGED})


@pytest.mark.parametrize("size", [1e-40, 1e-45, 3e38])
def test_importances_at_the_ends_of_float32_keep_their_ratio(size):
    """Products with weights, and sums, would vanish or overflow in float32."""
    omegas = [{"w": torch.full((1,), size)} for _ in range(2)]
    models = [{"w": torch.tensor([v])} for v in (1e-3, 3e-3)]
    found = mode_merge(models, omegas)["w"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([2e-3]))


def test_importances_at_the_ends_of_float64_keep_their_ratio():
    for size in (5e-324, 1.7e308):
        assert mode_merge(scalars(1.0, 3.0), scalars(size, size))["w"].item() == 2.0


def test_biases_and_batch_norm_are_merged_and_statistics_and_heads_are_the_last_ones():
    models, omegas = experts(), importances()
    models[0] = models[0] | {n: torch.zeros(CLASSES + 2, 3) for n in HEAD}  # another task's head
    found = mode_merge(models, omegas)
    assert list(found) == list(models[-1])
    changed = {n for n, t in found.items() if not torch.equal(t, models[-1][n])}
    assert changed == set(MERGED)
    assert {"body.1.weight", "body.1.bias", "body.3.bias"} < changed
    assert all(torch.equal(found[n], models[-1][n]) for n in HEAD)
    assert torch.equal(found["body.1.running_mean"], models[-1]["body.1.running_mean"])
    assert {n: t.dtype for n, t in found.items()} == {n: t.dtype for n, t in models[-1].items()}


def test_where_nothing_matters_it_is_the_mean_or_zero():
    models, omegas = scalars(1.0, 2.0, 6.0), scalars(0.0, 0.0, 0.0)
    assert mode_merge(models, omegas)["w"].item() == pytest.approx(3)
    weighted = mode_merge(models, omegas, mixing=[0.5, 0.5, 0.0])
    assert weighted["w"].item() == pytest.approx(1.5)
    assert mode_merge(models, omegas, zero_importance="zero")["w"].item() == 0.0
    some = mode_merge(models, scalars(0.0, 1.0, 0.0), zero_importance="zero")
    assert some["w"].item() == 2.0


def test_the_zero_rule_is_one_of_elements():
    models = [{"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 6.0])}]
    omegas = [{"w": torch.tensor([0.0, 1.0])}, {"w": torch.tensor([0.0, 0.0])}]
    assert mode_merge(models, omegas)["w"].tolist() == [2.0, 2.0]
    assert mode_merge(models, omegas, zero_importance="zero")["w"].tolist() == [0.0, 2.0]


@pytest.mark.parametrize("zero_importance", ["mean", "zero"])
def test_one_expert_alone_stays_as_it_is(zero_importance):
    [only], [omega] = experts(1), importances(1)
    omega[MERGED[0]].zero_()
    assert_same_bits(mode_merge([only], [omega], zero_importance=zero_importance), only)


def test_an_expert_that_is_mixed_in_with_0_has_no_say():
    """Not even where only its precision is not zero, or where it would hide the others'."""
    models = scalars(1.0, 2.0, 9.0)
    for precision in (1.0, 1e308):
        found = mode_merge(models, scalars(1.0, 1e-200, precision), mixing=[0.0, 1.0, 0.0])
        assert found["w"].item() == 2.0
    found = mode_merge(models, scalars(0.0, 0.0, 1.0), mixing=[0.5, 0.5, 0.0])
    assert found["w"].item() == 1.5


def test_it_is_the_mode_of_the_product_of_gaussians():
    """It minimises sum_t alpha_t / 2 sum_i Omega_ti (theta_i - theta_ti)^2."""
    models, omegas, alphas = experts(), importances(), [0.5, 0.2, 0.3]
    found = mode_merge(models, omegas, mixing=alphas)
    theta = {n: found[n].clone().requires_grad_() for n in MERGED}
    energy = sum(
        alpha / 2 * (omega[n] * (theta[n] - model[n]) ** 2).sum()
        for model, omega, alpha in zip(models, omegas, alphas, strict=True)
        for n in MERGED
    )
    energy.backward()
    for n in MERGED:
        curvature = sum(alpha * omega[n] for omega, alpha in zip(omegas, alphas, strict=True))
        assert (theta[n].grad.abs() <= 1e-12 * curvature).all()


@pytest.mark.parametrize("numbers", [1, 100, mode_merge_module.AT_ONCE])
def test_a_cohort_is_merged_as_each_of_its_clients(numbers, monkeypatch):
    monkeypatch.setattr(mode_merge_module, "AT_ONCE", numbers)
    models = experts()
    users = [importances(seed=seed) for seed in range(4)]
    together = mode_merges(models, [stack([user[t] for user in users]) for t in range(3)])
    assert list(together) == list(models[-1])
    for d, user in enumerate(users):
        assert_same_bits(row(together, d), mode_merge(models, user))


def test_arguments_stay_as_they_were_and_nothing_is_shared_with_them():
    models, omegas = experts(), importances()
    before = [copied(w) for w in (*models, *omegas)]
    found = mode_merge(models, omegas)
    for tensor in found.values():
        tensor.add_(1)
    for now, then in zip((*models, *omegas), before, strict=True):
        assert_same_bits(now, then)


def test_parameters_of_modules_are_merged_without_a_graph():
    models = [dict(conv().double().named_parameters()) for _ in range(2)]
    found = mode_merge(models, importances(2))
    assert not any(t.requires_grad for t in found.values())


def corrupted(value):
    omegas = importances()
    omegas[1]["body.3.bias"][2] = value
    return omegas


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e-30, -float("inf")])
def test_a_negative_or_infinite_importance_is_refused_by_name(value):
    with pytest.raises(InputError) as error:
        mode_merge(experts(), corrupted(value))
    assert str(error.value) == (
        f"mode_merge: importances of expert 2: 'body.3.bias': 1 values such as {value:g}; "
        "expected finite and >= 0"
    )


def test_in_a_cohort_the_client_is_named():
    users = [importances(seed=1), corrupted(float("nan")), importances(seed=2)]
    stacked = [stack([user[t] for user in users]) for t in range(3)]
    with pytest.raises(InputError, match=r"expert 2: 'body.3.bias': .* nan \(client 1 of 3\)"):
        mode_merges(experts(), stacked)


def without(omegas, name):
    return [omegas[0], {n: t for n, t in omegas[1].items() if n != name}, omegas[2]]


@pytest.mark.parametrize(
    ("models", "omegas", "given", "line"),
    [
        ([], [], {}, "0 experts; it needs at least one"),
        (experts(), importances(2), {}, "2 importances for 3 experts; one an expert"),
        (experts(), [{}] * 3, {}, "importances of no parameter"),
        (experts(), without(importances(), MERGED[0]), {},
         "importances of expert 2: missing 'body.0.weight'"),
        (without(experts(), "head.bias"), importances(), {}, "expert 2: missing 'head.bias'"),
        (experts(), [o | {"x": torch.ones(2)} for o in importances()], {},
         "expert 1: 'x', which no expert has"),
        (experts(), [o | {"body.3.bias": torch.ones(1)} for o in importances()], {},
         "expert 1: 'body.3.bias': shape (1,); expected (4,), as the parameter"),
        ([e | {"body.3.bias": torch.ones(4 + i)} for i, e in enumerate(experts())],
         importances(), {}, "expert 2: 'body.3.bias': the expert's shape is (5,), the first"),
        (experts(), importances(), {"mixing": [0.5, 0.5]}, "2 mixing weights for 3 experts"),
        (experts(), importances(), {"mixing": [0.5, 0.5, 0.5]}, "0.5, 0.5, 0.5; they must be >= 0"),
        (experts(), importances(), {"mixing": [1.5, -0.5, 0.0]}, "they must be >= 0 and sum to 1"),
        (experts(), importances(), {"mixing": [float("nan"), 0.5, 0.5]}, "must be >= 0 and sum"),
        (experts(), importances(), {"zero_importance": "median"}, "unknown 'median'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(models, omegas, given, line):
    with pytest.raises(InputError) as error:
        mode_merge(models, omegas, **given)
    assert str(error.value).startswith("mode_merge: ")
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cohort_has_as_many_clients_everywhere():
    omegas = [stack([o] * count) for o, count in zip(importances(), (3, 3, 2), strict=True)]
    with pytest.raises(InputError, match="2 clients; the first has 3"):
        mode_merges(experts(), omegas)
