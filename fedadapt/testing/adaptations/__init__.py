"""The rules for local adaptations."""

from collections.abc import Callable

from fedadapt.testing.adaptations.rules import (
    arguments_stay_as_they_are,
    models_stay_models,
    moves_only_what_it_says,
    never_looks_at_test_images,
    parameters_explain_themselves,
    reads_labels_only_if_it_says_so,
    same_result_twice,
    stacked_is_alone,
    stages_end_with_the_result,
    works_with_one_image_or_refuses,
)

adaptation_contract: tuple[Callable[..., None], ...] = (
    parameters_explain_themselves,
    models_stay_models,
    arguments_stay_as_they_are,
    stacked_is_alone,
    moves_only_what_it_says,
    works_with_one_image_or_refuses,
    same_result_twice,
    stages_end_with_the_result,
    never_looks_at_test_images,
    reads_labels_only_if_it_says_so,
)
"""One function a rule: ``check(name, arguments)`` raises ``AssertionError`` where it is broken."""

__all__ = ["adaptation_contract"]
