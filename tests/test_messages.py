"""What travels, and what stays behind."""

import torch

from fedadapt.messages import Update, bytes_up


def test_an_update_keeps_parts_beside_those_it_kept_and_is_not_changed_itself():
    one, two = {"w": torch.ones(2, 3)}, {"w": torch.zeros(2, 3)}
    update = Update({"w": torch.ones(2, 3)}, torch.ones(2), states={"norms": one, "old": one})
    kept = update.keeping(personal=two, old=two)
    assert kept.states == {"norms": one, "old": two, "personal": two}
    assert update.states == {"norms": one, "old": one}
    assert kept.weights is update.weights
    assert bytes_up(kept, (0, 1)) == bytes_up(update, (0, 1))  # nothing of it travels
