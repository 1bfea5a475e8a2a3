"""Which runs PFA's experiments consist of."""

from dataclasses import replace
from pathlib import Path

import pytest

from fedadapt.errors import InputError
from fedadapt.reproductions.pfa_plan import EXPERIMENTS, Rounds, experiment


@pytest.mark.parametrize(
    ("weights", "given", "meant"),
    [("", "auto", "data"), ("imagenet", "auto", "imagenet"), ("", "symmetric", "symmetric")],
)
def test_all_runs_scale_images_as_the_federated_model_had_them(weights, given, meant):
    """``auto`` is ImageNet's with weights, which the runs in groups always have."""
    plan = EXPERIMENTS["pfa-cifar10"]
    plan = replace(plan, base=replace(plan.base, weights=weights, normalization=given))
    (_, federated), *grouped = plan.runs(1, Path())
    assert federated.normalization == given
    assert {config.normalization for _, config in grouped} == {meant}


@pytest.mark.parametrize("text", ["50", "0+3", "5+0", "a+b", "1+2+3", "-1+3"])
def test_rounds_that_are_none_are_refused_in_one_line(text):
    with pytest.raises(InputError, match="each at least 1") as error:
        Rounds.parse(text)
    assert "\n" not in str(error.value)


def test_a_table_that_the_paper_has_not_is_refused_in_one_line():
    with pytest.raises(InputError, match="leave it away"):
        experiment("pfa-cifar10", "3")
    with pytest.raises(InputError, match="3, 4, 5, 6, 8"):
        experiment("pfa-office-home", "7")
