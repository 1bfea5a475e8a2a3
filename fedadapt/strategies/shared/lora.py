"""Federated LoRA: adapters of low rank beside frozen weights, of which all, B or A are shared.

Hu et al. 2022, "LoRA: Low-rank adaptation of large language models", equation 3; Zhang et al. 2024,
"Towards building the federated GPT: Federated instruction tuning"; Sun et al. 2024, "Improving LoRA
in privacy-preserving federated learning"; Guo et al. 2025, "Selective aggregation for low-rank
adaptation in federated learning".
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn

from fedadapt.client.cohort import Cohort
from fedadapt.client.fit import fit
from fedadapt.errors import InputError
from fedadapt.messages import Update
from fedadapt.parameters import from_run, param
from fedadapt.random_streams import stream
from fedadapt.selectors import head
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.weights import Weights

A, B = "lora-a/", "lora-b/"  # before the name of the weight that they adapt


@dataclass(frozen=True, kw_only=True)
class LowRank(SharedModel):
    """Trains W + (alpha / rank) B A in the place of each weight W, which is frozen."""

    trains_a: ClassVar[bool] = True

    rank: int = param(8, "rows of A and columns of B", at_least=1)
    alpha: float = param(16.0, "B A is multiplied by alpha / rank", above=0)
    convolutions: bool = param(
        True, "adapt convolutions too, as matrices [out, in x height x width]"
    )
    seed: int = from_run(default=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.adapted(self.model):
            raise InputError("convolutions: without them the network has no weight to adapt")

    def apart(self, model: nn.Module) -> frozenset[str]:
        """Name parameters that are trained as they are, without an adapter."""
        return frozenset()

    def adapted(self, model: nn.Module) -> list[str]:
        """Name the weights that have an adapter."""
        kinds = (nn.Linear, nn.Conv2d) if self.convolutions else nn.Linear
        names = [f"{path}.weight" for path, m in model.named_modules() if isinstance(m, kinds)]
        return [n.removeprefix(".") for n in names if n.removeprefix(".") not in self.apart(model)]

    def extras(self, start: Weights) -> Weights:
        weights = {n: start[n] for n in self.adapted(self.model)}
        return self._first_a(weights) | _first_b(weights, self.rank)

    def fixed(self, model: nn.Module) -> frozenset[str]:
        frozen = {n for n, _ in model.named_parameters()} - self.apart(model)
        return frozenset(frozen if self.trains_a else frozen | self._named(A))

    def train(self, cohort: Cohort, shared: Weights) -> Update:
        adapters = {n: t for n, t in self.complete(cohort, shared).items() if n.startswith((A, B))}
        moving = {n: t for n, t in adapters.items() if self.trains_a or n.startswith(B)}
        fitted = fit(
            cohort,
            {n: t for n, t in shared.items() if n not in adapters},
            *self.local(),
            trainable=self.apart,
            extra=moving,
            through=self._through,
            memory={"frozen": {n: t for n, t in adapters.items() if n not in moving}},
        )
        update = self.sending(cohort, fitted)
        sent = {n: t for n, t in fitted.extra.items() if n in shared}
        kept = {n: t for n, t in fitted.extra.items() if n not in shared}
        update = replace(update, weights=update.weights | sent)
        return update.keeping(lora=kept) if kept else update

    def complete(self, cohort: Cohort, shared: Weights) -> Weights:
        """Return what is shared and the adapters that the clients keep, [D, ...]."""
        return shared

    def base_model(self, shared: Weights) -> Weights:
        return super().base_model(shared) | self.folded(shared)

    def folded(self, weights: Weights) -> Weights:
        """Return the adapted weights with their adapters added: of an ordinary network."""
        scale = self.alpha / self.rank
        return {
            n: weights[n] + scale * (weights[B + n] @ weights[A + n]).reshape(weights[n].shape)
            for n in self.adapted(self.model)
        }

    def _through(self, trained: Weights, held: Weights, memory: Mapping[str, Weights]) -> Weights:
        return self.folded(held | trained | memory["frozen"])

    def _named(self, prefix: str) -> frozenset[str]:
        return frozenset(prefix + n for n in self.adapted(self.model))

    def _first_a(self, weights: Weights) -> Weights:
        """Return A as LoRA draws it, uniform within 1 / sqrt(in), from the seed alone."""
        random, first = stream(self.seed, "lora"), {}
        for n, weight in weights.items():
            width = weight[0].numel()
            drawn = random.uniform(-1, 1, (self.rank, width)) / width**0.5
            first[A + n] = torch.from_numpy(drawn).to(weight)
        return first


def _first_b(weights: Weights, rank: int) -> Weights:
    """0, so that training begins at the network that was sent; [..., out, rank]."""
    return {B + n: weight.new_zeros(len(weight), rank) for n, weight in weights.items()}


@dataclass(frozen=True, kw_only=True)
class FedIt(LowRank):
    """LoRA, A and B averaged each on its own. Zhang et al. 2024 (FedIT).

    The network's parameters are frozen: they are sent with every message, for a client may be new,
    and never come back; running statistics of batch norm are treated as the run says. The product
    of the means of B and A is not the mean of the products, which is the method's known error. The
    base model is an ordinary network, W + (alpha / rank) B A. No dropout inside adapters.
    """

    rank: int = param(16, "rows of A and columns of B", at_least=1)


@dataclass(frozen=True, kw_only=True)
class FfaLora(LowRank):
    """LoRA whose A stays as it was drawn: the mean of B is exact. Sun et al. 2024.

    As FedIT, but for A: the server draws it of the seed, sends it with the network and nobody
    changes it, so that the mean of B A is the mean of B times A.
    """

    trains_a = False


@dataclass(frozen=True, kw_only=True)
class FedSaLora(LowRank):
    """LoRA that averages A and leaves B and the head on each client. Guo et al. 2025 (FedSA-LoRA).

    A, B and the head, which has no adapter, are trained; A alone is sent. The personal model is the
    frozen network with the shared A and the client's own B and head. A client that never trained
    has B = 0 and the initial head, the network as it was at first; so has the base model.
    """

    personal = "on client"
    client_keeps = "`lora-b`"
    unseen_get = "the network as it was at first"
    personal_of_all = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_norm == "reestimate":
            raise InputError(
                "batch-norm: reestimate measures a shared network, of which fedsa-lora has only "
                "the A of its adapters; use shared or local"
            )

    def apart(self, model: nn.Module) -> frozenset[str]:
        return head(model)

    def stays(self, model: nn.Module) -> frozenset[str]:
        return head(model)

    def extras(self, start: Weights) -> Weights:
        return {n: t for n, t in super().extras(start).items() if n.startswith(A)}

    def base_model(self, shared: Weights) -> Weights:
        return SharedModel.base_model(self, shared)

    def complete(self, cohort: Cohort, shared: Weights) -> Weights:
        zeros = {
            B + n: shared[n].new_zeros(*shared[n].shape[:2], self.rank)
            for n in self.adapted(self.model)
        }
        return shared | cohort.state("lora", zeros)

    def personal_model(self, cohort: Cohort, shared: Weights) -> Weights:
        return self.base_model(shared) | self.folded(self.complete(cohort, shared))
