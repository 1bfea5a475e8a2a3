"""One network mixed of several, by weights that a small network makes of a task's description.

Everything is stacked, [D, ...], and differentiable.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import sqrt

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedadapt.client.step_rules import Adam
from fedadapt.weights import Weights

MIXER = "mixer/"


def blocks_of(model: nn.Module, number: int) -> dict[str, int]:
    """Return the block of each tensor: the layers in definition order, in parts of equal number.

    A network of fewer layers has as many blocks as layers.
    """
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in model.state_dict()))
    number = min(number, len(layers))
    of_layer = {layer: i * number // len(layers) for i, layer in enumerate(layers)}
    return {name: of_layer[name.rpartition(".")[0]] for name in model.state_dict()}


def mixed(bases: Sequence[Weights], shares: Tensor, blocks: Mapping[str, int]) -> Weights:
    """Return sum_q shares[d, b, q] bases[q][d] for each tensor of block b, [D, ...].

    Weights are mixed, never predictions. Integers are the first base's. A share of exactly 1 gives
    its base to the bit.
    """
    found: Weights = {}
    for name, first in bases[0].items():
        if not first.is_floating_point():
            found[name] = first
            continue
        by = shares[:, blocks[name]].to(first).view(len(shares), -1, *[1] * (first.dim() - 1))
        terms = [by[:, q] * base[name] for q, base in enumerate(bases)]
        found[name] = sum(terms[1:], terms[0])
    return found


def shares_of(mixer: Mapping[str, Tensor], tasks: Tensor, num_blocks: int) -> Tensor:
    """Return the shares of the bases, [D, blocks, Q], of descriptions [D, C]: softmaxes."""
    layers = sum(name.endswith("weight") for name in mixer)
    x = tasks.to(mixer[f"{MIXER}0/weight"])
    for i in range(layers):
        x = torch.einsum("dij,dj->di", mixer[f"{MIXER}{i}/weight"], x) + mixer[f"{MIXER}{i}/bias"]
        x = F.relu(x) if i < layers - 1 else x
    return x.unflatten(1, (num_blocks, -1)).softmax(2)


def drawn_mixer(random: np.random.Generator, sizes: Sequence[int], like: Tensor) -> Weights:
    """Draw layers between ``sizes``, as PyTorch draws linear ones, [...]."""
    mixer: Weights = {}
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        for part, shape in (("weight", (outputs, inputs)), ("bias", (outputs,))):
            values = random.uniform(-1 / sqrt(inputs), 1 / sqrt(inputs), shape)
            mixer[f"{MIXER}{i}/{part}"] = torch.from_numpy(values).to(like).clone()
    return mixer


def warmed_up(
    mixer: Weights, tasks: Tensor, bases: Tensor, num_blocks: int, steps: int, rate: float = 0.01
) -> Weights:
    """Return the mixer after it learnt which base was made for which description.

    Args:
        tasks: Descriptions, [N, C].
        bases: The index of the base of each, [N], int64.
        steps: Of Adam, on the mean cross-entropy of all blocks' shares.
        rate: Of them.

    """
    rule = Adam(rate)
    params = {n: t.unsqueeze(0).clone() for n, t in mixer.items()}
    state = rule.begin(params)
    for _ in range(steps):
        with torch.enable_grad():
            leaves = {n: t.detach().requires_grad_() for n, t in params.items()}
            every = {n: t.expand(len(tasks), *t.shape[1:]) for n, t in leaves.items()}
            shares = shares_of(every, tasks, num_blocks)
            of_own = shares[torch.arange(len(tasks)), :, bases]
            loss = -of_own.clamp(min=1e-12).log().mean()
            gradients = torch.autograd.grad(loss, list(leaves.values()))
        rule.update(params, dict(zip(leaves, gradients, strict=True)), state)
    return {n: t[0] for n, t in params.items()}
