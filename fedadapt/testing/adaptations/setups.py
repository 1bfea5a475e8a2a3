"""An adaptation by its name, put together with clients to try it on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.adaptations.registry import build, find
from fedadapt.client.cohort import Cohort, Execution
from fedadapt.client.stacking import StackedNetwork
from fedadapt.datasets.benchmark import Examples, Split
from fedadapt.models.meta import on_meta
from fedadapt.models.norms import has_batch_norm
from fedadapt.parameters import Scalar, parameters
from fedadapt.testing import toys
from fedadapt.weights import Weights, repeat, stack

Arguments = Mapping[str, Scalar]

EXECUTIONS: tuple[Execution, ...] = ("stacked-kernels", "vmap")
QUICK = {"epochs": 2, "rounds": 2}
"""Epochs and exchanges where no number is given; defaults are for real runs and may be 150."""


@dataclass(frozen=True, eq=False)
class Setup:
    """An adaptation, a network and clients with models of their own."""

    adaptation: Adaptation
    network: str

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.adaptation.name} on {self.network}"

    @property
    def weights(self) -> Weights:
        """The models that the clients received, [D, ...]; each is another one."""
        model = toys.build(toys.NETWORKS[self.network])
        generator = torch.Generator().manual_seed(1)
        state = model.state_dict()

        def near(tensor: torch.Tensor) -> torch.Tensor:
            if not tensor.is_floating_point():
                return tensor.clone()
            noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
            return tensor + 0.1 * noise

        return stack([{n: near(t) for n, t in state.items()} for _ in toys.SEEN])

    def cohort(
        self,
        execution: Execution = "sequential",
        splits: Sequence[Split] | None = None,
        clients: Sequence[int] = toys.SEEN,
    ) -> Cohort:
        """The clients, with their own images or with ``splits``."""
        benchmark = toys.Toys()
        model = on_meta(toys.build(toys.NETWORKS[self.network]))
        kernels = execution in ("per-client", "stacked-kernels")
        return Cohort(
            model=model,
            clients=tuple(clients),
            splits=tuple(splits or [benchmark.split(client) for client in clients]),
            scaling=toys.as_they_are,
            seed=1,
            round=1,
            states=({},) * len(clients),
            stacked=execution in ("stacked-kernels", "vmap"),
            network=StackedNetwork(model) if kernels else None,
        )

    def pooled(self, weights: Weights) -> Weights | None:
        """The mean answers to what the adaptation asks, repeated for each client, as in a run."""
        cohort = self.cohort()
        shares = (cohort.num_examples / cohort.num_examples.sum()).double()
        found: dict[str, Weights] = {}
        for part in self.adaptation.in_turn():
            query = part.query()
            if query is None:
                continue
            means: Weights = {}
            for _ in range(query.rounds):
                answers = query.answered(cohort, weights, repeat(means, len(cohort)))
                means = {n: torch.tensordot(shares.to(t.dtype), t, 1) for n, t in answers.items()}
            found[part.name] = repeat(means, len(cohort))
        return self.adaptation.pooled_from(found)

    def adapted(self, cohort: Cohort) -> Weights:
        """The models after the adaptation."""
        weights = self.weights
        return self.adaptation.adapt(cohort, weights, self.pooled(weights))


@contextmanager
def setups(name: str, arguments: Arguments | None = None) -> Iterator[list[Setup]]:
    """A setup for each toy network; only those with batch normalisation where that is needed.

    Meanwhile torch has one thread: on tensors of this size more of them are slower.

    Args:
        name: As ``--adapt`` takes it: a registered name or ``module:Class``.
        arguments: As ``--adapt-args`` takes them, without the name in front.

    Raises:
        InputError: There is no such adaptation, or the arguments are not allowed.

    """
    adaptation = quick(name, arguments or {})
    cases = [Setup(adaptation, network) for network in toys.NETWORKS]
    if adaptation.needs_batch_norm:
        cases = [s for s in cases if has_batch_norm(toys.build(toys.NETWORKS[s.network]))]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield cases
    finally:
        torch.set_num_threads(threads)


def quick(name: str, arguments: Arguments) -> Adaptation:
    """Build the adaptation; one that trains does so for few epochs where no number is given."""
    given = dict(arguments)
    for part in name.split("+"):
        for key in QUICK.keys() & parameters(find(part)).keys():
            given.setdefault(key if part == name else f"{part}.{key}", QUICK[key])
    return build(name, given, "adapt-args")


def relabelled(examples: Examples) -> Examples:
    """The same images under other labels."""
    return Examples(examples.inputs, (examples.labels + 1) % len(toys.CLASSES))
