"""Trees of tensors in one block of memory: what is read is what was written."""

import pytest
import torch
from toys import assert_same_bits

from fedadapt.simulations.engines.serialization import layout, read, write
from fedadapt.weights import side_by_side

STACK = {
    "weight": torch.arange(24.0).reshape(3, 4, 2),
    "count": torch.tensor([1, 2, 3]),
    "bias": torch.arange(3.0).reshape(3, 1) / 7,
}


def through(tree, **how):
    slots, size = layout(tree, **how)
    memory = bytearray(size)
    write(tree, slots, memory)
    return read(slots, memory)


@pytest.mark.parametrize("how", [{}, {"side_by_side": True}])
@pytest.mark.parametrize(
    "tree",
    [
        STACK,
        {"w": torch.zeros(0, 4)},
        {"w": torch.ones(5, 0), "v": torch.ones(5, 2)},
        {"loss": torch.tensor(2.0), "w": torch.ones(3, 2)},
        {"of 3": torch.ones(3, 2), "of 5": torch.ones(5)},
    ],
)
def test_what_was_written_is_read(tree, how):
    assert_same_bits(through(tree, **how), tree)
    assert_same_bits(through({"a": {0: tree}, "b": {}}, **how)["a"][0], tree)


def test_stacks_side_by_side_are_a_matrix_with_a_row_for_each_client():
    found = through(STACK, side_by_side=True)
    matrix = side_by_side({n: t for n, t in found.items() if t.is_floating_point()})
    assert matrix.tolist() == [
        [*STACK["weight"][d].flatten().tolist(), STACK["bias"][d].item()] for d in range(3)
    ]
    matrix[1, 8] = -1.0  # a view
    assert found["bias"][1] == -1.0
    assert side_by_side({n: t for n, t in through(STACK).items() if n != "count"}) is None
