"""Methods on a residual network with a shortcut: every way to compute clients gives one result.

What the contract leaves out: kernels for one client after another, arguments that are not the
default, and a shortcut that is a convolution.
"""

import pytest
from served import own_models
from torch import nn
from toys import CLASSES, SHAPE, Toys, assert_close, federate, initial, split, training

from fedadapt.models.network import Network
from fedadapt.models.networks.resnet import BasicBlock
from fedadapt.parameters import fields_from_run
from fedadapt.strategies.registry import find

EVERYONE = Toys([split(count, seed=d) for d, count in enumerate((5, 7, 6))])
LOCAL = training(0.1, 1, momentum=0.5)
OTHERS = ("per-client", "stacked-kernels", "vmap")
ARGUMENTS = {
    "ditto": {"lam": 0.3},
    "apfl": {"alpha": 0.5, "learn": True, "alpha_rate": 0.03},
    "pfedme": {},
    "per-fedavg": {"delta": 1e-2},
    "fedala": {"rate": 10.0},
    "fedproto": {"lam": 2.0},
    "fedrod": {},
    "scaffold": {"server_rate": 0.7},
    "pfedgate": {"budget": 1.0},
}


def residual():
    """A convolution and a residual block with batch norm and a shortcut that is a convolution."""
    body = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), BasicBlock(3, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return Network(body, 4, CLASSES)


def run(name, execution):
    model, cls = residual(), find(name)
    from_run = {"model": model, "training": LOCAL, "image_shape": SHAPE, "batch_norm": "shared"}
    given = {n: from_run[n] for n in fields_from_run(cls)}
    strategy = cls(**given, **ARGUMENTS[name])
    size = 1 if execution in ("sequential", "per-client") else 3
    trial = federate(
        strategy, EVERYONE, model, initial(model), 2, execution=execution, cohort_size=size
    )
    return trial.state, own_models(trial, EVERYONE), trial.client_pool.states()


@pytest.mark.parametrize("name", ARGUMENTS)
def test_all_ways_to_compute_clients_give_one_result(name):
    state, own, kept = run(name, "sequential")
    # Central differences divide rounding errors by their length.
    limits = {"rtol": 1e-7, "atol": 1e-9} if "delta" in ARGUMENTS[name] else {}
    for execution in OTHERS:
        found_state, found_own, found_kept = run(name, execution)
        assert_close(found_state, state, **limits)
        assert_close(found_own, own, **limits)
        for client, parts in kept.items():
            assert found_kept[client].keys() == parts.keys()
            for part, weights in parts.items():
                assert_close(found_kept[client][part], weights, **limits)
