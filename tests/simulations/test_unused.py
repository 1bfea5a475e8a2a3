"""A setting that was given and that nothing of the run uses is an error in one line."""

import pytest

from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.simulations.check import check
from fedadapt.simulations.unused import refuse_unused
from fedadapt.strategies.registry import select

TASKS = {"benchmark": "digits-tasks", "strategy": "mas-racl", "clients": 5, "rounds": 5}
NORMS = {"strategy": "fedbn", "model": "mobilenetv2-0.25"}


@pytest.mark.parametrize(
    ("settings", "changes", "line"),
    [
        (TASKS, {"lr": 3.0}, "lr: mas-racl does not use it; leave it out"),
        (TASKS, {"fraction": 0.5}, "fraction: mas-racl does not use it; leave it out"),
        (TASKS, {"momentum": 0.1, "lr": 3.0}, "lr, momentum: mas-racl does not use them; leave"),
        (TASKS, {"batch_size": 7, "local_epochs": 2}, "batch-size, local-epochs: mas-racl"),
        (TASKS, {"max_update_norm": 1.0}, "max-update-norm: mas-racl does not use it"),
        (TASKS, {"global_test": "all"}, "global-test: digits-tasks does not use it"),
        (NORMS, {"batch_norm": "reestimate"}, "batch-norm: fedbn does not use it"),
        ({}, {"ray_address": "auto"}, "ray-address: engine=processes does not use it"),
        ({}, {"gpus_per_worker": 1.0}, "gpus-per-worker: engine=processes does not use it"),
        ({}, {"max_weight_factor": 5.0}, "max-weight-factor: engine=processes does not use it"),
    ],
)
def test_a_setting_without_effect_is_refused_with_what_has_no_use_for_it(settings, changes, line):
    check(RunConfig(**settings))
    with pytest.raises(InputError) as refused:
        check(RunConfig(**settings, **changes))
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


def test_a_setting_that_was_given_at_its_default_is_refused_too():
    config = RunConfig(**TASKS)
    check(config, ["clients", "rounds"])
    with pytest.raises(InputError, match="lr: mas-racl does not use it"):
        check(config, ["clients", "lr"])


def test_a_stock_strategy_averages_batch_norm_and_uses_the_rest():
    config = RunConfig(strategy="fedadam", lr=0.1, fraction=0.5)
    check(config)
    with pytest.raises(InputError, match="batch-norm: fedadam does not use it"):
        check(config, ["batch-norm"])


@pytest.mark.parametrize("key", ["engine", "workers", "cohort-size", "ray-address"])
def test_under_flwr_run_our_engines_settings_have_no_effect(key):
    config = RunConfig()
    with pytest.raises(InputError, match=f"{key}: flwr run does not use it"):
        refuse_unused(config, [key], select(config), flower=True)


def test_what_both_use_is_refused_nowhere():
    config = RunConfig(lr=0.1, fraction=0.5, adapt="none", seed=3)
    for flower in (False, True):
        refuse_unused(config, config.changed, select(config), flower=flower)
