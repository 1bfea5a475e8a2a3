"""The examples run, and do what they say."""

import re
import runpy
from pathlib import Path

import pytest
from fake_grid import FakeGrid
from flwr.app import Context, RecordDict

from fedadapt.flower.grid_over_clients import flower_identity

EXAMPLES = Path(__file__).parents[1] / "examples"
NODES = (901, 17, 530, 88, 4, 2)  # node NODES[d] holds partition d


def test_pfa_groups_the_clients_of_somebody_elses_app(capsys):
    app = runpy.run_path(str(EXAMPLES / "pfa_in_your_app.py"))
    nodes = {node: {"partition-id": d} for d, node in enumerate(NODES)}
    with flower_identity():
        grid = FakeGrid(app["client"], nodes)
        app["server"](grid, Context(1, 1, {}, RecordDict(), {}))
    said = capsys.readouterr().out
    light = [node for d, node in enumerate(NODES) if d % 2 == 0]
    order = sorted(NODES)
    labels = [int((node in light) != (order[0] in light)) for node in order]
    assert f"2 groups: {labels} of nodes {order}" in said
    together, apart = (int(word) for word in re.findall(r"(\d+) % on the clients", said))
    assert apart == 100 >= together
    asked = [node for kind, node in grid.sent if kind == "query.sparsity"]
    assert sorted(asked) == order  # once, everybody


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.name)
def test_an_example_says_what_it_is(path):
    assert path.read_text("utf-8").startswith('"""')
