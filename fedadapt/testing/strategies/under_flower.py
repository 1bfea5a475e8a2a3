"""The rule for a strategy of ours as a Flower ``Strategy``, in anybody's ServerApp."""

from dataclasses import replace
from unittest import SkipTest

from fedadapt.strategies.registry import find
from fedadapt.testing.assertions import require_close
from fedadapt.testing.setups import Arguments, Setup, ToySetup, begin, few_setups, new_folder
from fedadapt.weights import row


def trains_as_a_flower_strategy(name: str, arguments: Arguments | None = None) -> None:
    """``as_flower(strategy)`` over a grid in memory ends with the model that our rounds end with.

    Every message is serialised on its way. Skipped for strategies that learn task after task:
    experts are trained where ``fedadapt simulate`` or ``flwr run`` prepares the server.
    """
    if find(name).learns_tasks:
        raise SkipTest(f"{name} learns task after task; its server is prepared by fedadapt alone")
    with few_setups(name, arguments) as cases:
        for setup in cases:
            if isinstance(setup, ToySetup):
                _require_same_base(replace(setup, newcomers=()))


def _require_same_base(setup: Setup) -> None:
    from fedadapt.flower import as_flower
    from fedadapt.flower.grid_in_memory import GridInMemory
    from fedadapt.flower.records import array_record, tensors

    trial = begin(setup).run(setup.rounds)
    worker = setup.worker()
    flower = as_flower(setup.strategy(worker, new_folder(setup)))
    with GridInMemory.over(worker, setup.seen) as grid:
        arrays = array_record(setup.start)
        try:
            result = flower.start(
                grid=grid, initial_arrays=arrays, num_rounds=setup.rounds, timeout=5
            )
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise AssertionError(f"{setup.label}: as a Flower strategy: {reason}") from error
    base = row(trial.strategy.models(trial.state, setup.seen)["base"], 0)
    label = f"{setup.label}: the base model after {setup.rounds} rounds of Flower's"
    require_close(tensors(result.arrays), base, label, setup.limits)
