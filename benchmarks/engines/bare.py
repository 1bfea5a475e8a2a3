"""What one would write by hand: a PyTorch loop over clients, on one process or one a core.

The model of the round and each process's sum lie in shared memory; data are there before the fork.
It keeps no records and survives nothing: the floor under every engine.
"""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from benchmarks.clock import Clock, Enough
from benchmarks.works import Clients, Work, network

TRAIN, EVALUATE, STOP = range(3)


def run(
    work: Work,
    clock: Clock,
    *,
    processes: int,
    channels_last: bool = False,
    bf16: bool = False,
) -> None:
    """Rounds until the clock has had enough."""
    loop = Loop(work, channels_last=channels_last, bf16=bf16)
    shared = loop.flat().share_memory_()
    sums = torch.zeros(processes, len(shared)).share_memory_()
    context = multiprocessing.get_context("fork")
    gate, task = context.Barrier(processes + 1), context.Value("i", TRAIN)

    def models(place: int) -> None:
        torch.set_num_threads(1)
        while True:
            gate.wait()
            if task.value == STOP:
                return
            mine = range(place, work.clients, processes)
            if task.value == TRAIN:
                loop.compute(shared, mine, sums[place])
            else:
                loop.evaluate(shared, mine)
            gate.wait()

    def everybody(what: int) -> None:
        task.value = what
        gate.wait()
        if what != STOP:
            gate.wait()

    workers = [context.Process(target=models, args=(p,), daemon=True) for p in range(processes)]
    for worker in workers:
        worker.start()
    try:
        while True:
            clock.tick(lambda: loop.named(shared))
            everybody(TRAIN)
            if work.kind == "train":
                shared.copy_(sums.sum(0) / loop.examples)
            if work.evaluated:
                everybody(EVALUATE)
    except Enough:
        everybody(STOP)


class Loop:
    """One model object, filled with the global weights for each client in turn."""

    def __init__(self, work: Work, *, channels_last: bool, bf16: bool) -> None:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        clients = Clients(work)
        self.data = [clients.scaled(d) for d in range(work.clients)]
        if len(work.shape) == 3:
            self.data = [(x.contiguous(memory_format=layout), y) for x, y in self.data]
        self.examples = sum(len(labels) for _, labels in self.data)
        self.work, self.bf16 = work, bf16
        self.model = network(work).to(memory_format=layout)
        state = self.model.state_dict()
        self.names = [n for n, t in state.items() if t.is_floating_point()]
        self.state = [state[n] for n in self.names]

    def flat(self) -> Tensor:
        return torch.cat([t.flatten() for t in self.state])

    def parts(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat vector, shaped as the model's state."""
        pieces = flat.split([t.numel() for t in self.state])
        return [p.view(t.shape) for p, t in zip(pieces, self.state, strict=True)]

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """The model's state by name: all that is averaged."""
        return dict(zip(self.names, self.parts(flat), strict=True))

    def compute(self, shared: Tensor, clients: range, total: Tensor) -> None:
        """A round of some clients; what they trained, weighted by examples, goes to ``total``."""
        start, sums = self.parts(shared), self.parts(total.zero_())
        one: Callable[[int], Any] = {
            "train": self.train,
            "adabn-s": self.adabn_s,
            "sparsity": self.sparsity,
            "importance": self.importance,
        }[self.work.kind]
        torch._foreach_copy_(self.state, start)
        for client in clients:
            if self.work.kind in ("train", "adabn-s"):
                torch._foreach_copy_(self.state, start)
            one(client)
            if self.work.kind == "train":
                weight = float(len(self.data[client][1]))
                torch._foreach_add_(sums, self.state, alpha=weight)

    def train(self, client: int) -> None:
        self.model.train()
        work, params = self.work, list(self.model.parameters())
        self._fit(client, 1, torch.optim.SGD(params, work.lr, work.momentum))

    def _fit(self, client: int, epochs: int, optimizer: torch.optim.Optimizer) -> None:
        images, labels = self.data[client]
        for _ in range(epochs):
            for rows in torch.randperm(len(labels)).split(self.work.batch):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                    loss = F.cross_entropy(self.model(images[rows]), labels[rows])
                loss.backward()
                optimizer.step()

    @torch.no_grad()
    def evaluate(self, shared: Tensor, clients: range) -> int:
        """How many images are classified rightly."""
        torch._foreach_copy_(self.state, self.parts(shared))
        self.model.eval()
        pairs = (self.data[d] for d in clients)
        return sum(int((self.model(x).argmax(1) == y).sum()) for x, y in pairs)

    def adabn_s(self, client: int) -> int:
        """Scale and shift trained with the others frozen, statistics measured anew, then a test."""
        norms = [m for m in self.model.modules() if isinstance(m, nn.BatchNorm2d)]
        self.model.eval().requires_grad_(False)
        for layer in norms:
            layer.train().requires_grad_(True)
        moving = [p for layer in norms for p in layer.parameters()]
        self._fit(client, 5, torch.optim.SGD(moving, 0.001, 0.9))
        images, labels = self.data[client]
        with torch.no_grad():
            for layer in norms:
                layer.reset_running_stats()
                layer.momentum = None  # a plain mean over batches
            for batch in images.split(self.work.batch):
                self.model(batch)
            for layer in norms:
                layer.momentum = 0.1
            self.model.eval()
            return int((self.model(images).argmax(1) == labels).sum())

    @torch.no_grad()
    def sparsity(self, client: int) -> Tensor:
        """How often each channel after the first ReLU is zero; what comes later is left out."""
        images, _ = self.data[client]
        layers: Any = self.model.eval().body
        first = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.ReLU))
        off: Tensor = layers[: first + 1](images) == 0
        return off.double().mean((0, 2, 3))

    def importance(self, client: int) -> dict[str, Tensor]:
        """The mean |gradient of the squared norm of the logits|, all images' gradients at once."""
        self.model.eval()
        params = {n: p.detach() for n, p in self.model.named_parameters()}

        def score(weights: dict[str, Tensor], image: Tensor) -> Tensor:
            logits: Tensor = functional_call(self.model, weights, (image[None],))
            return logits.square().sum()

        found = vmap(grad(score), (None, 0))(params, self.data[client][0])
        return {n: t.abs().mean(0) for n, t in found.items()}
