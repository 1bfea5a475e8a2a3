"""What is minimised, against the papers' formulas written out."""

import pytest
import torch
import torch.nn.functional as F

from fedadapt.objectives import (
    Batch,
    Distillation,
    Ewc,
    L2Transfer,
    Mas,
    Proximal,
    View,
    cross_entropy,
)

generator = torch.Generator().manual_seed(0)


def draw(*shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


W, A, X = draw(4, 3), draw(4, 3), draw(5, 4)
LABELS = torch.tensor([0, 2, 1, 1, 0])
IMPORTANCE = draw(4, 3).abs()
TEACHER = draw(4, 3)


def view(w=W, teacher=TEACHER, anchor=A):
    memory = {
        "anchor": {"w": anchor},
        "importance": {"w": IMPORTANCE},
        "teacher": {"w": teacher},
    }
    return View(X @ w, {"w": w}, Batch(X, LABELS), memory, lambda weights, x: x @ weights["w"])


def gradient(objective, w=W, **given):
    w = w.clone().requires_grad_()
    [found] = torch.autograd.grad(objective(view(w, **given)), w)
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
    torch.testing.assert_close(objective(view()), value)


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
    torch.testing.assert_close(objective(view(anchor=W)), TASK)
    torch.testing.assert_close(gradient(objective, anchor=W), gradient(cross_entropy))


def test_a_student_like_its_teacher_learns_a_twentieth_of_cross_entropy():
    objective = Distillation(0.95, 6.0)
    torch.testing.assert_close(objective(view(teacher=W)), 0.05 * TASK)
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
    torch.testing.assert_close(Distillation(0.75, temperature)(view()), value)


def test_the_teacher_is_not_taught():
    w, teacher = W.clone().requires_grad_(), TEACHER.clone()
    taught = Distillation(1.0, 2.0)(view(w, teacher=teacher))
    [found] = torch.autograd.grad(taught, w)
    p = F.softmax(X @ W / 2, dim=1) - F.softmax(X @ TEACHER / 2, dim=1)
    torch.testing.assert_close(found, 4 * X.T @ p / 2 / (5 * 3))


def test_objectives_compose():
    both = Proximal(0.7, Distillation(0.75, 6.0))
    torch.testing.assert_close(
        both(view()), Distillation(0.75, 6.0)(view()) + 0.35 * SQUARE.sum()
    )


@pytest.mark.parametrize("objective", [Proximal(9.0), Ewc(9.0)])
def test_only_what_is_trained_and_has_a_reference_is_pulled(objective):
    given = view()
    nothing = {**given.memory, "anchor": {"other": A}}
    torch.testing.assert_close(objective(given._replace(memory=nothing)), TASK)
    untrained = given._replace(params={})
    torch.testing.assert_close(objective(untrained), TASK)
