"""What PFA's tables say of themselves."""

from dataclasses import replace

import numpy as np
import pytest

from fedadapt.reproductions.model_selection import RULES
from fedadapt.reproductions.pfa.plan import EXPERIMENTS
from fedadapt.reproductions.pfa.results import Results
from fedadapt.reproductions.pfa.tables import grids


def notes(seeds: tuple[int, ...], model: str) -> str:
    values = {rule: np.full((len(seeds), 4), 0.5) for rule in RULES}
    groups = [{"pfa": {}, "found": {}} for _ in seeds]
    results = Results(seeds, ("a", "a", "b", "b"), {"PFA": values}, {}, groups)
    plan = EXPERIMENTS["pfa-cifar10"]
    plan = replace(plan, base=replace(plan.base, model=model))
    return " ".join(next(iter(grids(plan, results))).notes)


@pytest.mark.parametrize(("seeds", "said"), [((1,), "Seed 1."), ((1, 2), "over seeds 1, 2.")])
def test_the_note_on_deviations_is_there_only_with_several_seeds(seeds, said):
    assert said in notes(seeds, "mlp")
    assert ("±" in notes(seeds, "mlp")) is (len(seeds) > 1)


def test_what_pfa_is_told_beyond_the_papers_settings_is_said():
    assert "5 groups" in notes((1,), "mlp")
    assert "arguments" not in notes((1,), "mlp")
    assert "its other arguments: layer=2" in notes((1,), "cnn")
