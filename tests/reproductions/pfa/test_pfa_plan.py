"""Which runs PFA's experiments consist of."""

from dataclasses import replace
from pathlib import Path

import pytest

from fedadapt.client.adaptations import registry as adaptations
from fedadapt.errors import InputError
from fedadapt.reproductions.pfa.plan import EXPERIMENTS, Rounds, experiment


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


@pytest.mark.parametrize(
    ("model", "given", "told"),
    [("cnn", "", "layer=2 "), ("cnn", "layer=1 q=5", "layer=1 q=5 "), ("mlp", "", "")],
)
def test_pfa_is_told_what_suits_the_network_or_what_was_given(model, given, told):
    plan = EXPERIMENTS["pfa-cifar10"]
    plan = replace(plan, base=replace(plan.base, model=model, strategy_args=given))
    runs = dict(plan.runs(1, Path()))
    assert runs["pfa"].strategy_args == f"federated_rounds=0 {told}groups=5"
    assert runs["found"].strategy_args == f"federated_rounds=0 {told}".strip()
    assert runs["federated"].strategy_args == ""


@pytest.mark.parametrize("lr", [0.01, 0.003])
def test_local_baselines_train_as_fast_as_pfa(lr):
    """Their own default is the paper's, 0.01."""
    plan = EXPERIMENTS["pfa-cifar10"]
    plan = replace(plan, base=replace(plan.base, lr=lr))
    federated = dict(plan.runs(1, Path()))["federated"]
    assert {a.lr for a in adaptations.parse(federated) if a.name != "none"} == {lr}


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
