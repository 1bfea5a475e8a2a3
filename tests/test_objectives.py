"""What is minimised, against the papers' formulas written out."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from toys import (
    Quadratic,
    assert_close,
    cohort,
    dense,
    initials,
    plain,
    quadratic_split,
    split,
    view_of,
)

from fedadapt.client.cohort import Schedule
from fedadapt.client.fit import Sgd, fit
from fedadapt.objectives import (
    Batch,
    Distillation,
    Ewc,
    L2Transfer,
    Mas,
    OneHead,
    Proximal,
    WithoutForgetting,
    cross_entropy,
)

SPLITS = [split(count, seed=d) for d, count in enumerate((5, 12, 10))]
generator = torch.Generator().manual_seed(0)


def draw(*shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


W, A, X = draw(4, 3), draw(4, 3), draw(5, 4)
LABELS = torch.tensor([0, 2, 1, 1, 0])
IMPORTANCE = draw(4, 3).abs()
TEACHER = draw(4, 3)


def view(w=W, teacher=TEACHER, anchor=A):
    memory = {
        "anchor": {"w": anchor[None]},
        "importance": {"w": IMPORTANCE[None]},
        "teacher": {"w": teacher[None]},
    }
    batch = Batch(X[None], LABELS[None])
    return view_of(X @ w[None], {"w": w[None]}, batch, memory, forward=lambda v, x: x @ v["w"])


def value_of(objective, seen):
    """That of the only client."""
    [found] = objective(seen)
    return found


def gradient(objective, w=W, **given):
    w = w.clone().requires_grad_()
    [found] = torch.autograd.grad(value_of(objective, view(w, **given)), w)
    return found


TASK = F.cross_entropy(X @ W, LABELS)
SQUARE = (W - A) ** 2


@pytest.mark.parametrize(
    ("objective", "value"),
    [
        (cross_entropy, TASK),
        (Proximal(0.7), TASK + 0.35 * SQUARE.sum()),
        (L2Transfer(0.7), TASK + 0.7 * SQUARE.sum()),
        (Ewc(0.7), TASK + 0.35 * (IMPORTANCE * SQUARE).sum()),
        (Mas(0.7), TASK + 0.7 * (IMPORTANCE * SQUARE).sum()),
    ],
)
def test_values(objective, value):
    torch.testing.assert_close(value_of(objective, view()), value)


@pytest.mark.parametrize(
    ("objective", "pull"),
    [
        (Proximal(0.7), 0.7 * (W - A)),
        (L2Transfer(0.7), 1.4 * (W - A)),
        (Ewc(0.7), 0.7 * IMPORTANCE * (W - A)),
        (Mas(0.7), 1.4 * IMPORTANCE * (W - A)),
    ],
)
def test_gradients(objective, pull):
    torch.testing.assert_close(gradient(objective), gradient(cross_entropy) + pull)


@pytest.mark.parametrize("objective", [Proximal(9.0), L2Transfer(9.0), Ewc(9.0), Mas(9.0)])
def test_on_the_anchor_there_is_only_the_task(objective):
    torch.testing.assert_close(value_of(objective, view(anchor=W)), TASK)
    torch.testing.assert_close(gradient(objective, anchor=W), gradient(cross_entropy))


def test_a_student_like_its_teacher_learns_a_twentieth_of_cross_entropy():
    objective = Distillation(0.95, 6.0)
    torch.testing.assert_close(value_of(objective, view(teacher=W)), 0.05 * TASK)
    torch.testing.assert_close(gradient(objective, teacher=W), 0.05 * gradient(cross_entropy))


@pytest.mark.parametrize("temperature", [1.0, 6.0])
def test_distillation_divides_by_batch_and_classes(temperature):
    student = F.log_softmax(X @ W / temperature, dim=1)
    teacher = F.log_softmax(X @ TEACHER / temperature, dim=1)
    divergence = 0.0
    for i in range(5):
        for c in range(3):
            divergence += teacher[i, c].exp() * (teacher[i, c] - student[i, c])
    value = 0.25 * TASK + 0.75 * temperature**2 * divergence / (5 * 3)
    torch.testing.assert_close(value_of(Distillation(0.75, temperature), view()), value)


def test_the_teacher_is_not_taught():
    w, teacher = W.clone().requires_grad_(), TEACHER.clone()
    taught = value_of(Distillation(1.0, 2.0), view(w, teacher=teacher))
    [found] = torch.autograd.grad(taught, w)
    p = F.softmax(X @ W / 2, dim=1) - F.softmax(X @ TEACHER / 2, dim=1)
    torch.testing.assert_close(found, 4 * X.T @ p / 2 / (5 * 3))


def test_objectives_compose():
    both = Proximal(0.7, Distillation(0.75, 6.0))
    torch.testing.assert_close(both(view()), Distillation(0.75, 6.0)(view()) + 0.35 * SQUARE.sum())


@pytest.mark.parametrize("objective", [Proximal(9.0), Ewc(9.0)])
def test_only_what_is_trained_and_has_a_reference_is_pulled(objective):
    given = view()
    nothing = {**given.memory, "anchor": {"other": A[None]}}
    torch.testing.assert_close(value_of(objective, replace(given, memory=nothing)), TASK)
    untrained = replace(given, params={})
    torch.testing.assert_close(value_of(objective, untrained), TASK)


@pytest.mark.parametrize("mu", [0.0, 0.5, 400.0])
@pytest.mark.parametrize(
    ("objective", "strength", "importance"),
    [
        (Proximal, 1.0, None),
        (L2Transfer, 2.0, None),
        (Ewc, 1.0, 3.0),
        (Mas, 2.0, 3.0),
    ],
    ids=["proximal", "l2-transfer", "ewc", "mas"],
)
def test_a_pull_ends_between_the_images_and_the_anchor(objective, strength, importance, mu):
    # min h/2 (w - t)^2 + s mu F/2 (w - a)^2, where s is 2 for a penalty written without a half.
    h, t, anchor = 2.0, 1.5, -0.5
    pull = strength * mu * (importance or 1.0)
    found = fit(
        cohort(Quadratic(), [quadratic_split(h, t)]),
        {"w": torch.zeros(1, dtype=torch.float64)},
        Sgd(0.5 / (h + pull)),
        Schedule(1, 60),
        objective=objective(mu),
        memory={
            "anchor": {"w": torch.tensor([anchor], dtype=torch.float64)},
            "importance": {"w": torch.tensor([importance or 0.0], dtype=torch.float64)},
        },
    )
    assert found.weights["w"].item() == pytest.approx(
        (h * t + pull * anchor) / (h + pull), rel=1e-9
    )


@pytest.mark.parametrize(
    "objective", [Proximal(0), L2Transfer(0), Ewc(0), Mas(0), Distillation(0, 6)]
)
def test_no_strength_is_cross_entropy(objective):
    references = {
        "anchor": initials(dense(), 3, seed=50),
        "importance": initials(dense(), 3, seed=70),
        "teacher": initials(dense(), 3, seed=90),
    }

    def trained(objective):
        members = cohort(dense(), SPLITS)
        return fit(
            members,
            initials(dense(), 3),
            Sgd(0.1),
            Schedule(4),
            objective=objective,
            memory=references,
        ).weights

    assert_close(trained(objective), trained(cross_entropy))


def test_the_anchor_of_each_client_is_its_own():
    # Huge strength, and a step that goes all the way to the row of the anchor that is theirs.
    anchor = initials(plain(), 3, seed=50)
    found = fit(
        cohort(plain(), SPLITS, "stacked-kernels"),
        initials(plain(), 3),
        Sgd(2e-6),
        Schedule(4, 3),
        objective=Proximal(5e5),
        memory={"anchor": anchor},
    )
    assert_close(found.weights, anchor, rtol=0, atol=1e-4)


def test_names_without_an_anchor_are_free():
    anchor = {n: t for n, t in initials(plain(), 3).items() if not n.startswith("head")}
    found = fit(
        cohort(plain(), SPLITS),
        initials(plain(), 3),
        Sgd(1e-3),
        Schedule(4, 30),
        objective=L2Transfer(400.0),
        memory={"anchor": anchor},
    ).weights
    change = {n: (t - found[n]).abs().max().item() for n, t in initials(plain(), 3).items()}
    assert change["head.weight"] > 20 * max(change["body.1.weight"], change["body.1.bias"]) > 0


def test_one_head_sees_its_own_logits_and_no_other_ones():
    labels = torch.tensor([0, 1, 1, 0, 0])
    given = replace(view(), batch=Batch(X[None], labels[None]))
    torch.testing.assert_close(
        value_of(OneHead(1, 3), given), F.cross_entropy((X @ W)[:, 1:3], labels)
    )
    w = W.clone().requires_grad_()
    [found] = torch.autograd.grad(value_of(OneHead(1, 3), given.with_logits(X @ w[None])), w)
    assert found[:, 0].eq(0).all()
    assert found[:, 1:].ne(0).any()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_without_forgetting_is_a_mean_over_the_batch_and_a_sum_over_heads(temperature):
    heads, value = ((0, 1), (1, 3)), TASK
    for i in range(5):
        for first, last in heads:
            q = F.softmax((X @ TEACHER)[i, first:last] / temperature, dim=0)
            p = F.softmax((X @ W)[i, first:last] / temperature, dim=0)
            value = value - 0.3 * (q * p.log()).sum() / 5
    torch.testing.assert_close(value_of(WithoutForgetting(0.3, temperature, heads), view()), value)


def test_what_is_not_to_be_forgotten_pulls_by_the_gap_over_t_without_t_squared():
    objective = WithoutForgetting(0.3, 2.0, ((0, 2),))
    gap = (F.softmax((X @ W)[:, :2] / 2, dim=1) - F.softmax((X @ TEACHER)[:, :2] / 2, dim=1)) / 2
    pull = torch.cat([0.3 * X.T @ gap / 5, torch.zeros(4, 1, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(gradient(objective), gradient(cross_entropy) + pull)
    torch.testing.assert_close(gradient(objective, teacher=W), gradient(cross_entropy))
