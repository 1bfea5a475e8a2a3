"""A stack of clients computed by a stacked network, and the same clients one after another."""

import copy

import torch
from torch.func import functional_call

from fedadapt.client.stacking import StackedNetwork
from fedadapt.models.mode import training

CLIENTS = 3


def stack_of(model, clients=CLIENTS):
    """Weights around the model's, other ones on each client; float64."""
    generator = torch.Generator().manual_seed(1)

    def one(name, tensor):
        if not tensor.is_floating_point():
            return tensor.clone()
        noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
        return tensor + 0.1 * noise * (1.0 if "running" in name else tensor.std().nan_to_num(1.0))

    state = model.double().state_dict()
    return {n: torch.stack([one(n, t) for _ in range(clients)]) for n, t in state.items()}


def batches(model, shape, batch=4, clients=CLIENTS, steps=2):
    generator = torch.Generator().manual_seed(2)
    return [
        torch.randn(clients, batch, *shape, generator=generator, dtype=torch.float64)
        for _ in range(steps)
    ]


def differentiable(model, weights):
    names = {n for n, _ in model.named_parameters()}
    return {n: t.detach().requires_grad_() if n in names else t for n, t in weights.items()}, names


def gradients(weights, names, logits):
    """Of a loss that looks at every logit in its own way."""
    loss = (logits * torch.linspace(-1, 1, logits[0].numel()).view_as(logits[0])).tanh().sum()
    given = [weights[n] for n in sorted(names)]
    if not given:
        return ()
    return torch.autograd.grad(loss, given, materialize_grads=True, allow_unused=True)


def close(found, wanted):
    torch.testing.assert_close(
        found, wanted, rtol=1e-9, atol=1e-9 * (1 + wanted.abs().max().item())
    )


def same(model, shape, mode=training, batch=4, clients=CLIENTS, steps=2, learning=True):
    """Logits, gradients and buffers of a stack and of one client after another, step after step."""
    network = StackedNetwork(copy.deepcopy(model).to("meta"))
    original = model.double()
    stacked = stack_of(model, clients)
    alone = [{n: t[d].clone() for n, t in stacked.items()} for d in range(clients)]
    with mode(original), mode(network.model):
        for inputs in batches(original, shape, batch, clients, steps):
            given, names = differentiable(original, stacked) if learning else (stacked, set())
            logits = network(given, inputs)
            grads = gradients(given, names, logits)
            for d in range(clients):
                own = differentiable(original, alone[d])[0] if learning else alone[d]
                wanted = functional_call(original, own, (inputs[d],))
                close(logits[d], wanted)
                for g, w in zip(grads, gradients(own, names, wanted[None]), strict=True):
                    close(g[d], w)
            for name in stacked:
                for d in range(clients):
                    close(stacked[name][d].double(), alone[d][name].double())
