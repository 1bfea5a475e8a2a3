"""The rules for strategies."""

from collections.abc import Callable

from fedadapt.testing.strategies.computing import (
    answers_are_as_expected,
    any_engine_is_any_engine,
    client_states_survive,
    draws_from_the_cohort_only,
    stacked_is_alone,
)
from fedadapt.testing.strategies.describing import parameters_explain_themselves
from fedadapt.testing.strategies.saving import (
    arguments_stay_as_they_are,
    order_of_answers_does_not_matter,
    restores_from_a_checkpoint,
    round_without_answers_changes_nothing,
)
from fedadapt.testing.strategies.serving import unseen_clients_are_served
from fedadapt.testing.strategies.under_flower import trains_as_a_flower_strategy

strategy_contract: tuple[Callable[..., None], ...] = (
    parameters_explain_themselves,
    answers_are_as_expected,
    stacked_is_alone,
    any_engine_is_any_engine,
    restores_from_a_checkpoint,
    order_of_answers_does_not_matter,
    round_without_answers_changes_nothing,
    arguments_stay_as_they_are,
    draws_from_the_cohort_only,
    client_states_survive,
    unseen_clients_are_served,
    trains_as_a_flower_strategy,
)
"""One function a rule: ``check(name, arguments)`` raises ``AssertionError`` where it is broken."""

__all__ = ["strategy_contract"]
