"""The rules for networks."""

from collections.abc import Callable

from fedadapt.testing.networks.rules import (
    evaluating_changes_nothing,
    forward_gives_logits,
    head_is_found,
    initial_weights_follow_the_seed,
    no_tensor_has_two_names,
    stacked_is_alone,
    state_dict_is_the_whole_model,
)

network_contract: tuple[Callable[..., None], ...] = (
    head_is_found,
    no_tensor_has_two_names,
    forward_gives_logits,
    initial_weights_follow_the_seed,
    evaluating_changes_nothing,
    state_dict_is_the_whole_model,
    stacked_is_alone,
)
"""One function a rule: ``check(name)`` raises ``AssertionError`` where it is broken.

``check(name, image_shape=(3, 32, 32), num_classes=10)`` tries other inputs; ``(9, 128)`` are time
series, and ``(80,)`` tokens.
"""

__all__ = ["network_contract"]
