"""Every number of DUA's tables 1 to 4 and figure 3 (De Lange et al. 2020).

Accuracy in percent after the last task, mean over tasks and users; forgetting in points, its sum
over tasks divided by all T of them. Table 2 is table 3's rows of IMM. Numbers are of MNIST and
SVHN.

Of table 4: its column AdaBN is of a released code that leaves the statistics as they were. Task
Experts' "forgetting" is what a task loses when it is answered by the next task's expert. The
text's "AdaBN-S gains 2.64 and 3.44 on average" follows from no choice of its rows.
"""

from typing import NamedTuple


class Score(NamedTuple):
    """Accuracy in percent, and forgetting in points over all T tasks; None: not applicable."""

    accuracy: float
    forgetting: float | None


Key = tuple[str, str]
"""The paper's name of a method, and the adaptation: ``none``, ``adabn`` or ``adabn-s``."""

ADAPTATIONS = ("none", "adabn", "adabn-s")

_TABLE_3 = {
    "MAS-RACL": "66.97 0.88  47.04 -0.27  77.32 0.77  53.59 -0.14  84.01 -0.22",
    "MAS-IMM": "67.39 0.73  46.51 -0.14  76.77 0.30  53.49 -0.17  84.36 -0.40",
    "FIM-RACL": "67.20 0.73  47.32 -0.51  76.53 0.68  53.73 -0.13  87.83 0.30",
    "FIM-IMM": "67.42 0.23  46.68 -0.35  76.29 0.43  53.14 0.07  87.68 0.07",
}
_COLUMNS_3 = (
    ("dua-catprior", "alexnet"), ("dua-transprior", "alexnet"), ("dua-catprior", "vgg11-fc"),
    ("dua-transprior", "vgg11-fc"), ("dua-numbers", "mlp"),
)  # fmt: skip
_TABLE_4 = {
    "MAS-RACL": "58.05 2.74  58.30 2.34  60.68 2.67  30.14 2.69  30.19 2.50  32.82 3.25",
    "FIM-RACL": "59.58 2.14  59.71 1.61  62.43 1.84  32.15 1.53  32.04 1.33  34.80 2.13",
    "MAS-IMM": "55.55 2.69  55.89 2.69  58.87 2.81  29.36 2.63  29.15 2.45  31.73 3.22",
    "FIM-IMM": "61.50 -0.03  61.35 -0.46  63.99 -0.16  32.08 1.32  31.86 1.21  34.48 2.05",
    "MAS": "65.58 3.96  64.15 4.04  67.10 4.66  37.32 2.64  35.64 2.88  40.51 2.69",
    "EWC": "66.20 2.88  64.03 3.43  67.54 3.90  37.16 2.85  35.44 3.12  40.05 3.18",
    "LwF": "70.76 0.73  70.37 0.43  72.73 1.03  40.22 0.43  39.51 0.12  43.07 0.52",
    "Joint": "75.75 -  72.13 -  76.39 -  46.53 -  41.18 -  48.50 -",
}
_TASK_EXPERTS = {"dua-catprior": Score(80.78, 5.61), "dua-transprior": Score(68.22, 11.35)}


def _scores(text: str) -> list[Score]:
    words = text.split()
    return [
        Score(float(accuracy), None if forgetting == "-" else float(forgetting))
        for accuracy, forgetting in zip(words[::2], words[1::2], strict=True)
    ]


def _tables() -> dict[tuple[str, str], dict[Key, Score]]:
    tables: dict[tuple[str, str], dict[Key, Score]] = {}
    for method, text in _TABLE_3.items():
        for column, score in zip(_COLUMNS_3, _scores(text), strict=True):
            tables.setdefault(column, {})[method, "none"] = score
    for number, experiment in enumerate(_TASK_EXPERTS):
        table = tables[experiment, "vgg11-bn-fc"] = {}
        for method, text in _TABLE_4.items():
            scores = _scores(text)[3 * number : 3 * number + 3]
            table |= {(method, how): s for how, s in zip(ADAPTATIONS, scores, strict=True)}
        table["Task Experts", "none"] = _TASK_EXPERTS[experiment]
    return tables


PUBLISHED: dict[tuple[str, str], dict[Key, Score]] = _tables()
"""Experiment and network -> results."""

TABLE_1: dict[str, str] = {
    "MAS-RACL": "psi; unsupervised; N trainings; gradients of F",
    "FIM-RACL": "psi; labels; N trainings; gradients of the loss",
    "Task Experts": "adaptive; labels; N L trainings; the images",
    "+ AdaBN": "phi; unsupervised",
    "+ AdaBN-S": "phi; labels",
}
"""What the paper says of those methods that adapt to a user; the others take N trainings."""

FIGURE_3 = {"M1": 0.82, "M2": 0.73, "D1": 0.55, "D2": 0.58}
"""Pearson's rho of two importances: of one model on other data, on one data set of other models."""
