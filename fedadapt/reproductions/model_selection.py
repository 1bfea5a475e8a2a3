"""Choose the round or epoch that counts: the last, or the best on validation or test images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedadapt.errors import InputError
from fedadapt.records import Evaluation

RULES = {  # "test" is optimistic; PFA's released code uses it
    "last": "last round",
    "validation": "best on validation",
    "test": "best on test",
}


@dataclass(frozen=True, eq=False)
class Curve:
    """Accuracies during a run; arrays [steps, clients], in [0, 1]."""

    steps: tuple[int, ...]  # rounds or epochs, ascending; the last is the end
    clients: tuple[int, ...]
    test: NDArray[np.float64]
    validation: NDArray[np.float64]

    def chosen(
        self, rule: str, units: Sequence[Sequence[int]] | None = None
    ) -> NDArray[np.float64]:
        """Return the test accuracies [clients] at the step that ``rule`` chooses.

        Args:
            units: Groups of client positions; each group chooses one step by its mean accuracy.
                None stands for one group of all clients.

        """
        values = np.full(len(self.clients), np.nan)
        for unit in units or [range(len(self.clients))]:
            members = list(unit)
            values[members] = self.test[self._step(rule, members), members]
        return values

    def _step(self, rule: str, members: list[int]) -> int:
        if rule == "last":
            return len(self.steps) - 1
        judged = self.validation if rule == "validation" else self.test
        return int(judged[:, members].mean(1).argmax())  # the first of equal ones


def curve(rows: Iterable[Evaluation], model: str, adaptation: str = "none") -> Curve:
    """Return a model's curve over rounds, or an adaptation's over epochs after the last round.

    Raises:
        InputError: The run has no such rows, or some are missing.

    """
    of_model = [
        r for r in rows if r.model == model and r.adaptation == adaptation and r.client >= 0
    ]
    last = max((r.round for r in of_model), default=0)
    if adaptation == "none":
        accuracy_at = {(r.split, r.round, r.client): r.accuracy for r in of_model if r.round > 0}
    else:
        at_end = [r for r in of_model if r.round == last]
        on_the_way = sorted({r.epoch for r in at_end} - {0})
        end = on_the_way[-1] + on_the_way[0] if on_the_way else 1  # stages are equally long
        accuracy_at = {(r.split, r.epoch or end, r.client): r.accuracy for r in at_end}
    steps = tuple(sorted({step for _, step, _ in accuracy_at}))
    clients = tuple(sorted({client for *_, client in accuracy_at}))
    try:
        if not steps:
            raise KeyError
        test, validation = (
            np.array([[accuracy_at[split, s, d] for d in clients] for s in steps])
            for split in ("test", "adapt")
        )
    except KeyError:
        raise InputError(
            f"evaluations: no curve of {model} with {adaptation}; the run must record curves"
        ) from None
    return Curve(steps, clients, test, validation)
