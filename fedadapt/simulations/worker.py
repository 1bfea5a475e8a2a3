"""Computes for clients of one federation: what every engine calls, for one client or for many."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import nn

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.adaptations.none import NoAdaptation
from fedadapt.client.adaptations.query import BEFORE
from fedadapt.client.cohort import Cohort, Execution
from fedadapt.client.evaluation import evaluate
from fedadapt.client.failures import Deadlines
from fedadapt.client.stacking import StackedNetwork
from fedadapt.datasets.benchmark import Benchmark, Examples, Split
from fedadapt.errors import InputError
from fedadapt.messages import Sent, Update
from fedadapt.models.meta import on_meta
from fedadapt.records import Evaluation
from fedadapt.server.exchange import EVALUATE
from fedadapt.simulations.alone import TrainingAlone
from fedadapt.simulations.collected_models import CollectedModels
from fedadapt.simulations.model_trial import Evaluated, ModelTrial, Shown, everywhere
from fedadapt.strategies.base import Strategy, at_round
from fedadapt.weights import Weights, is_shared, row

BYTES_IN_MEMORY = 2**28  # of clients' images that stay decoded between rounds
BYTES_ON_GPU = 2**32


class DeclaredAnswer(NamedTuple):
    """What one client's answer may consist of, [...] without a client axis; values mean nothing."""

    weights: Weights
    report: Weights
    metrics: frozenset[str]  # beside the number of examples


class Worker:
    """Answers for any client of a benchmark.

    In a task-incremental benchmark a client holds images of each task, and each task has a network
    of its own: there is a worker for each task, and that of the first leads to the others.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        model: nn.Module,
        strategy: Strategy[object],
        adaptations: Sequence[Adaptation],
        *,
        seed: int,
        compute: torch.device | str = "cpu",
        autocast: torch.dtype | None = None,
        execution: Execution = "sequential",
        bytes_in_memory: int | None = None,
        alone: TrainingAlone | None = None,
        later_tasks: Sequence["Worker"] = (),
        deadlines: Deadlines | None = None,
    ) -> None:
        self.deadlines = deadlines or Deadlines()
        self.benchmark = benchmark
        self.strategy = strategy
        self._at_round = -1, strategy
        self.adaptations = tuple(adaptations)
        asked = (part.query() for adaptation in adaptations for part in adaptation.in_turn())
        self._queries = {query.action: query for query in asked if query is not None}
        for action in self._queries.keys() & {*strategy.query_types}:
            raise InputError(f"adapt: {action} is the strategy's own query; leave one of them out")
        self._seed = seed
        self.compute = torch.device(compute)
        self._model = on_meta(model, self.compute)
        has_kernels = execution in ("per-client", "stacked-kernels")
        self._network = StackedNetwork(self._model) if has_kernels else None
        self._autocast = autocast
        self._execution = execution
        self._splits: OrderedDict[int, Split] = OrderedDict()
        self._bytes = 0  # of them
        usual = BYTES_IN_MEMORY if self.compute.type == "cpu" else BYTES_ON_GPU
        self._most = usual if bytes_in_memory is None else bytes_in_memory
        self._global: Examples | None = None
        self.alone = alone
        self._tasks = (self, *later_tasks)

    @property
    def has_tasks(self) -> bool:
        """Whether the benchmark has several tasks."""
        return len(self._tasks) > 1

    def methods(self, names: Sequence[str]) -> list[Adaptation]:
        """The adaptations of these names, in the run's order; no adaptation is always one."""
        known = [a for a in self.adaptations if a.name in names]
        bare = NoAdaptation()
        if bare.name in names and not any(a.name == bare.name for a in known):
            return [bare, *known]
        return known

    def cohort(
        self, clients: Sequence[int], round: int, states: Sequence[Mapping[str, Weights]] = ()
    ) -> Cohort:
        """The clients' data, and how they are computed."""
        together = self._execution in ("stacked-kernels", "vmap") and len(clients) > 1
        return Cohort(
            model=self._model,
            clients=tuple(clients),
            splits=tuple(self._split(d) for d in clients),
            scaling=self.benchmark.scaling,
            seed=self._seed,
            round=round,
            states=tuple(self._states_on_device(k) for k in states) or ({},) * len(clients),
            stacked=together,
            network=self._network,
            autocast=self._autocast,
            domains=tuple(self.benchmark.domain(d) for d in clients),
            unlabelled=self._unlabelled(clients),
        )

    def _unlabelled(self, clients: Sequence[int]) -> dict[int, torch.Tensor]:
        """Images whose class nobody has told, of the clients that have some."""
        images = {client: self.benchmark.unlabelled(client) for client in clients}
        return {client: own.to(self.compute) for client, own in images.items() if len(own)}

    def at(self, task: int) -> "Worker":
        """The worker of ``task``; a benchmark without tasks has task 0 only."""
        return self._tasks[task]

    def strategy_at(self, round: int) -> Strategy[object]:
        """The strategy as it is in a round; the last one is kept, with what it has worked out."""
        known, strategy = self._at_round
        if known != round:
            strategy = at_round(self.strategy, round)
            self._at_round = round, strategy
        return strategy

    def answer(
        self, action: str, round: int, sent: Sent, states: Sequence[Mapping[str, Weights]] = ()
    ) -> Update:
        """Compute ``action`` for the clients ``sent`` is addressed to; the answer is on the CPU.

        Raises:
            InputError: A query that neither the strategy nor an adaptation of the run declares.

        """
        task = int(sent.config.get("task", 0))  # type: ignore[arg-type]
        return self.at(task)._answered(action, round, sent, states)

    def _answered(
        self, action: str, round: int, sent: Sent, states: Sequence[Mapping[str, Weights]]
    ) -> Update:
        self._check_declared(action)
        cohort = self.cohort(sent.clients, round, states)
        received = sent._replace(weights=self.on_device(sent.weights))
        if action in self._queries:
            model = {n: t for n, t in received.weights.items() if not n.startswith(BEFORE)}
            before = {
                n.removeprefix(BEFORE): t for n, t in received.weights.items() if n not in model
            }
            weights = self.strategy_at(round).localise(cohort, model)
            answer = self._queries[action].answered(cohort, weights, before)
            update = Update(answer, cohort.num_examples)
        elif action == EVALUATE:
            update = self._validate(cohort, received)
        else:
            update = self.strategy_at(round).answer(action, cohort, received)
        return Update(
            weights=_home(update.weights),
            num_examples=update.num_examples.cpu(),
            metrics=_home(update.metrics),
            report=_home(update.report),
            states={part: _home(weights) for part, weights in update.states.items()},
        )

    def declared(self, action: str, sent: Sent) -> "DeclaredAnswer":
        """Say of what the answer to ``action`` may consist, for one client that received ``sent``.

        Raises:
            InputError: A query that neither the strategy nor an adaptation of the run declares.

        """
        task = int(sent.config.get("task", 0))  # type: ignore[arg-type]
        return self.at(task)._declared(action, row(sent.weights, 0))

    def _declared(self, action: str, received: Weights) -> "DeclaredAnswer":
        if action in self._queries:
            model = {n: t for n, t in received.items() if not n.startswith(BEFORE)}
            query = self._queries[action]
            return DeclaredAnswer(query.expected(self._model, model), {}, frozenset())
        if action == EVALUATE:
            return DeclaredAnswer({}, {}, frozenset({"loss", "accuracy"}))
        self._check_declared(action)
        strategy = self.strategy
        return DeclaredAnswer(
            strategy.expected(action, received),
            strategy.expected_report(action, received),
            frozenset(strategy.metrics),
        )

    def _check_declared(self, action: str) -> None:
        declared = {*self._queries, *self.strategy.query_types}
        if action.partition(".")[0] == "query" and action not in declared:
            raise InputError(
                f"{action}: neither the strategy nor an adaptation of this run asks it"
            )

    def evaluate(
        self,
        round: int,
        clients: Sequence[int],
        models: Mapping[str, Weights],
        states: Sequence[Mapping[str, Weights]] = (),
        *,
        adaptations: Sequence[Adaptation],
        pooled: Mapping[str, Weights] = MappingProxyType({}),
        on_global: bool = False,
        curves: bool = False,
        held_out: bool = False,
        confidence: bool = False,
        on_client: Sequence[str] = (),
        collected: CollectedModels | None = None,
    ) -> Evaluated:
        """Every model x adaptation on the clients' own tests, and on the global one if asked.

        The rows are client by client, however many there are in the cohort. Where a model or an
        adaptation fails on a client, that is recorded and everything else is tried all the same.

        Args:
            models: ``base``, ``personal``: stacked weights as the clients receive them.
            pooled: By adaptation, the pooled answers to its query, [...] without a client axis.
            curves: Score the adapt images as well, and local adaptations after each stage.
            held_out: Score adapt images that a model was not adapted to as well.
            confidence: Tell how sure the models are of each test image as well.
            on_client: Models that are not received: clients make them of what they have.
            collected: Takes the models that are evaluated, for saving; None where nobody saves.

        """
        shown = Shown(on_global, curves, held_out, confidence, collected)
        trial = ModelTrial(self, tuple(clients), round, states, shown)
        return trial.evaluated(models, adaptations, pooled, on_client)

    def evaluate_everywhere(self, round: int, base: Weights) -> list[Evaluation]:
        """The base model on the balanced test for everybody: one row, of no client (-1)."""
        if self.global_test is None:
            return []
        return [everywhere(self, round, base, self.global_test)]

    @property
    def global_test(self) -> Examples | None:
        if self._global is None and self.benchmark.global_test is not None:
            self._global = self._resident(self.benchmark.global_test)
        return self._global

    def _validate(self, cohort: Cohort, received: Sent) -> Update:
        """What a strategy may learn while it runs: scores on the adapt images, not the test."""
        weights = self.strategy_at(cohort.round).localise(cohort, received.weights)
        scores = evaluate(cohort, weights, cohort.part("adapt"))
        metrics = {"loss": [s.loss for s in scores], "accuracy": [s.accuracy for s in scores]}
        return Update(
            {},
            torch.tensor([s.num_examples for s in scores], dtype=torch.float64),
            {n: torch.tensor(v, dtype=torch.float64) for n, v in metrics.items()},
        )

    def _split(self, client: int) -> Split:
        if client in self._splits:
            self._splits.move_to_end(client)
            return self._splits[client]
        split = Split(*(self._resident(part) for part in self.benchmark.split(client)))
        self._splits[client] = split
        self._bytes += _size(split)
        while self._bytes > self._most and len(self._splits) > 1:
            self._bytes -= _size(self._splits.popitem(last=False)[1])
        return split

    def _resident(self, examples: Examples) -> Examples:
        if self.compute.type == "cpu":
            return examples
        return Examples(examples.inputs.to(self.compute), examples.labels.to(self.compute))

    def on_device(self, weights: Weights) -> Weights:
        """On the computing device; an expanded view stays one."""
        if self.compute.type == "cpu":
            return weights
        return {
            n: t[:1].to(self.compute).expand(t.shape) if is_shared({n: t}) else t.to(self.compute)
            for n, t in weights.items()
        }

    def _states_on_device(self, states: Mapping[str, Weights]) -> dict[str, Weights]:
        if self.compute.type == "cpu":
            return dict(states)
        return {part: {n: t.to(self.compute) for n, t in w.items()} for part, w in states.items()}


def _size(split: Split) -> int:
    return sum(part.inputs.nbytes + part.labels.nbytes for part in split)


def _home(weights: Weights) -> Weights:
    return {n: t.detach().cpu() for n, t in weights.items()}
