"""Models made of embeddings: a shared network turns what a client's images look like into a model.

Ours. The embedding is PFA's sparsity vector (Liu et al. 2021, section 3.2) or batch-norm statistics
as AdaBN has them; scale and shift are those of Perez et al. 2018, "FiLM: Visual reasoning with a
general conditioning layer", equation 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from fedadapt.client.cohort import Cohort, Part, Schedule
from fedadapt.client.fit import fit
from fedadapt.client.statistics.batch_norm import batch_norm_statistics
from fedadapt.client.statistics.sparsity import (
    num_channels,
    refuse_batch_statistics,
    sparsity_vectors,
    trace,
)
from fedadapt.messages import Update
from fedadapt.models.meta import on_meta
from fedadapt.models.norms import batch_norms
from fedadapt.models.sequences.inputs import blank
from fedadapt.parameters import from_run, param
from fedadapt.random_streams import stream
from fedadapt.strategies.base import require_batch_norm
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.weights import Weights

GENERATOR = "generator/"
FARTHEST = 3.0  # standard deviations of batch-norm statistics
LEAST = 1e-5  # of a variance
BATCH = 64  # images; as many as small clients have


@dataclass(frozen=True, kw_only=True)
class EmbeddedModels(SharedModel):
    """A shared generator makes each client's model of what its unlabelled images look like. Ours.

    A client computes a vector of its own images under the shared network w, without labels. The
    generator, a network with one hidden layer, turns it into a scale s and a shift t for each
    output of each layer, and the client's model has the layers (1 + tanh(s)) (W x + b) + t. Clients
    train w and the generator together through the models made of them; both are averaged as in
    FedAvg. The generator ends in zeros at first, so the first round begins as FedAvg's, and with
    ``rate`` of 0 it is FedAvg, to the bit.

    Nothing is kept on a client. A newcomer needs no label and no training: its images go through w
    once, its model is made where they are, and nothing leaves it. Of clients that train no vector
    is sent either, so nothing is to be composed with another privacy budget; but what they send of
    the generator's first layer is an outer product with the vector, from which the server can read
    it. Only noise on the updates themselves would hide it.

    It is worth something where many images of a client tell what one alone does not: which classes
    it has, how it labels them. Each image of digits-domains shows its client's domain: there the
    vector was worth 4 points to a network with batch norm, but nothing to one without, where a
    control with equal vectors for all does as well. Scales and shifts alone make training faster,
    as a larger learning rate does, and too large a one harms the generator first.

    Training normalises by a client's own batches, so where there is batch norm the client's model
    has the statistics of its own images, as AdaBN has it. ``base`` is w alone.
    """

    personal = "on client"
    unseen_get = "what is made of their own unlabelled images"
    personal_of_all = True

    image_shape: tuple[int, ...] = from_run()  # of a network input, (C, H, W)
    seed: int = from_run(default=0)
    vector: str = param("sparsity", "what a client looks like", choices=("sparsity", "batch-norm"))
    part: Part = param("train", "which of its images, without labels", choices=("train", "adapt"))
    hidden: int = param(32, "units in the generator's hidden layer", at_least=1)
    rate: float = param(1.0, "the generator's learning rate, as a share of lr", at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vector == "batch-norm":
            require_batch_norm(self.model, "embedding: vector=batch-norm")
        refuse_batch_statistics(self.model)
        _ = self._size  # a network without an activation that has zeros is refused at once

    def extras(self, start: Weights) -> Weights:
        random = stream(self.seed, "generator").normal(size=(self.hidden, self._size))
        kind = next(t.dtype for t in start.values() if t.is_floating_point())
        outputs = sum(2 * count for count in self._layers.values())
        first = torch.from_numpy(random * (2 / self._size) ** 0.5).to(kind)
        shapes = {"first.bias": (self.hidden,), "last.weight": (outputs, self.hidden)}
        shapes["last.bias"] = (outputs,)
        zeros = {n: torch.zeros(shape, dtype=kind) for n, shape in shapes.items()}
        return {GENERATOR + n: t for n, t in ({"first.weight": first} | zeros).items()}

    def train(self, cohort: Cohort, shared: Weights) -> Update:
        optimizer, schedule = self.local()
        network, generator = self._parted(shared)
        rates = dict.fromkeys(generator, self.rate * optimizer.learning_rate)
        fitted = fit(
            cohort,
            network,
            replace(optimizer, rates=rates),
            schedule,
            extra=generator,
            through=self._generated,
            memory={"embedding": {"vector": self._vectors(cohort, network)}},
        )
        return self.sending(cohort, fitted._replace(weights=fitted.weights | fitted.extra))

    def personal_model(self, cohort: Cohort, shared: Weights) -> Weights:
        network, _ = self._parted(shared)
        memory = {"embedding": {"vector": self._vectors(cohort, network)}}
        with torch.no_grad():
            own = network | self._generated(shared, {}, memory)
        return own | self._statistics(cohort, own)

    def _generated(self, trained: Weights, held: Weights, memory: Mapping[str, Weights]) -> Weights:
        """The layers of each client's model, [D, ...]."""
        given = held | trained
        of = {n: given[GENERATOR + n] for n in ("first.weight", "first.bias", "last.weight")}
        inner = torch.einsum("dq,dhq->dh", memory["embedding"]["vector"], of["first.weight"])
        inner = torch.relu(inner + of["first.bias"])
        outputs = torch.einsum("dh,doh->do", inner, of["last.weight"])
        outputs = outputs + given[f"{GENERATOR}last.bias"]
        parts = outputs.split([n for count in self._layers.values() for n in (count, count)], 1)
        made = {}
        for layer, s, t in zip(self._layers, parts[::2], parts[1::2], strict=True):
            weight, bias = f"{layer}.weight", f"{layer}.bias"
            scale = 1 + torch.tanh(s)
            made[weight] = given[weight] * _along(scale, given[weight])
            if bias in given:
                made[bias] = given[bias] * _along(scale, given[bias]) + _along(t, given[bias])
        return made

    def _parted(self, shared: Weights) -> tuple[Weights, Weights]:
        """The network's tensors and the generator's."""
        network = {n: t for n, t in shared.items() if not n.startswith(GENERATOR)}
        return network, {n: t for n, t in shared.items() if n not in network}

    def _vectors(self, cohort: Cohort, network: Weights) -> Tensor:
        """What each client's images look like, [D, q], in the network's arithmetic."""
        if self.vector == "sparsity":
            vectors = self._sparsity(self._looked_at(cohort), network)
        else:
            vectors = _deviations(network, self._statistics(cohort, network))
        like = next(t for t in network.values() if t.is_floating_point())
        return vectors.to(like)

    def _looked_at(self, cohort: Cohort) -> Cohort:
        """The cohort with the images that vectors are made of as its training images."""
        own = tuple(split._replace(train=getattr(split, self.part)) for split in cohort.splits)
        return replace(cohort, splits=own)

    def _statistics(self, cohort: Cohort, weights: Weights) -> Weights:
        """Those of batch norm on the same images; none where there is no batch norm."""
        if not batch_norms(self.model):
            return {}
        return batch_norm_statistics(cohort, weights, Schedule(BATCH, 1, self.part, "embedding"))

    def _sparsity(self, cohort: Cohort, network: Weights) -> Tensor:
        """Of all activations; standardised over channels, since the shares of few vary."""
        blocks = [sparsity_vectors(cohort, network, layer=block) for block in self._blocks]
        shares = torch.cat(blocks, 1)
        spread = shares.std(1, keepdim=True).clamp(min=1e-3)
        return (shares - shares.mean(1, keepdim=True)) / spread

    @cached_property
    def _blocks(self) -> tuple[str, ...]:
        """The outermost modules that activations with zeros are in."""
        empty = on_meta(self.model).eval()
        with torch.no_grad():
            inputs = blank(empty, self.image_shape, device="meta")
            seen = trace(empty, lambda: empty(inputs), 0.0)
        return tuple(dict.fromkeys(a.path.split(".")[0] for a in seen)) or ("first",)

    @cached_property
    def _size(self) -> int:
        """Numbers in a vector."""
        if self.vector == "batch-norm":
            return sum(2 * layer.num_features for layer in batch_norms(self.model).values())
        return sum(num_channels(self.model, self.image_shape, block) for block in self._blocks)

    @cached_property
    def _layers(self) -> dict[str, int]:
        """Outputs of each layer with weights, by its path; see ``_is_layer``."""
        return {
            path: module.weight.shape[0]
            for path, module in self.model.named_modules()
            if _is_layer(module)
        }


def _is_layer(module: nn.Module) -> bool:
    """Whether ``weight`` and ``bias`` are by outputs."""
    weight, bias = (module._parameters.get(n) for n in ("weight", "bias"))
    return weight is not None and (bias is None or bias.shape[0] == weight.shape[0])


def _along(numbers: Tensor, tensor: Tensor) -> Tensor:
    """[D, C] for a tensor [D, C, ...], to be multiplied or added."""
    return numbers.reshape(*numbers.shape, *[1] * (tensor.dim() - 2))


def _deviations(network: Weights, statistics: Weights) -> Tensor:
    """How far batch-norm statistics are from the shared ones, [D, 2 C].

    Means in standard deviations, and logarithms of variances.
    """
    parts = []
    for name, own in statistics.items():
        variance = network[name.removesuffix("_mean").removesuffix("_var") + "_var"] + LEAST
        mean = name.endswith("_mean")
        apart = (
            (own - network[name]) / variance.sqrt() if mean else ((own + LEAST) / variance).log()
        )
        parts.append(apart)
    return torch.cat(parts, 1).clamp(-FARTHEST, FARTHEST)
