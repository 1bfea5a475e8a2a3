"""Computes for clients of one federation: what every engine calls, for one client or for many."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import nn

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.adaptations.none import NoAdaptation
from fedadapt.client.adaptations.query import BEFORE
from fedadapt.client.cohort import Cohort, Execution
from fedadapt.client.cross_fitting import held_out_logits
from fedadapt.client.evaluation import Score, evaluate, scores
from fedadapt.client.failures import Deadlines, pieces
from fedadapt.client.stacking import StackedNetwork
from fedadapt.datasets.benchmark import Benchmark, Examples, Split
from fedadapt.errors import InputError
from fedadapt.messages import Failure, Sent, Update
from fedadapt.models.meta import on_meta
from fedadapt.records import HELD_OUT, LOCAL, Confidence, Evaluation, EvaluationFailure
from fedadapt.server.exchange import EVALUATE
from fedadapt.simulations.alone import TrainingAlone
from fedadapt.simulations.collected_models import CollectedModels
from fedadapt.simulations.confidence_rows import confidence_rows
from fedadapt.strategies.base import Strategy, at_round
from fedadapt.weights import Weights, is_shared, repeat, row, rows

BYTES_IN_MEMORY = 2**28  # of clients' images that stay decoded between rounds
BYTES_ON_GPU = 2**32


class Evaluated(NamedTuple):
    """The results of some clients; a client x model x adaptation has rows or a failure."""

    rows: list[Evaluation]
    failures: list[EvaluationFailure]
    confidences: list[Confidence]


class DeclaredAnswer(NamedTuple):
    """What one client's answer may consist of, [...] without a client axis; values mean nothing."""

    weights: Weights
    report: Weights
    metrics: frozenset[str]  # beside the number of examples


class _Shown(NamedTuple):
    """What an evaluation does beside scoring the client's own test after each adaptation."""

    on_global: bool  # score the global test too
    curves: bool  # score the adapt images too, and adaptations on the way
    held_out: bool  # score adapt images that a model was not adapted to
    confidence: bool  # tell how sure models are of each test image
    collected: CollectedModels | None  # takes the models, for saving


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
        self._alone = alone
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

    def _strategy(self, round: int) -> Strategy[object]:
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
        received = sent._replace(weights=self._on_device(sent.weights))
        if action in self._queries:
            model = {n: t for n, t in received.weights.items() if not n.startswith(BEFORE)}
            before = {
                n.removeprefix(BEFORE): t for n, t in received.weights.items() if n not in model
            }
            weights = self._strategy(round).localise(cohort, model)
            answer = self._queries[action].answered(cohort, weights, before)
            update = Update(answer, cohort.num_examples)
        elif action == EVALUATE:
            update = self._validate(cohort, received)
        else:
            update = self._strategy(round).answer(action, cohort, received)
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
        answers = {name: self._on_device(repeat(w, len(clients))) for name, w in pooled.items()}
        shown = _Shown(on_global, curves, held_out, confidence, collected)
        everything: list[Evaluation | Confidence] = []
        failures: list[EvaluationFailure] = []

        def fail(affected: Sequence[int], model: str, method: Adaptation, failure: Failure) -> None:
            for client in affected:
                failed = EvaluationFailure(round, client, model, method.name, failure.reason)
                failures.append(failed)

        self.cohort(clients, round, states)  # without images there is no result of any kind
        for name in dict.fromkeys((*models, *on_client)):
            make = partial(self._made, name, round, clients, models, states, collected)
            for begin, end, made in pieces(len(clients), make):
                if isinstance(made, Failure):
                    for method in adaptations:
                        fail(clients[begin:end], name, method, made)
                    continue
                for method in adaptations:
                    answer = method.pooled_from(answers)
                    answer = None if answer is None else rows(answer, begin, end)
                    score = partial(self._scored, *made, name, method, answer, shown)
                    for first, last, results in pieces(end - begin, score):
                        if isinstance(results, Failure):
                            fail(clients[begin + first : begin + last], name, method, results)
                        else:
                            everything += results
        everything.sort(key=lambda row: row.client)
        return Evaluated(
            [row for row in everything if isinstance(row, Evaluation)],
            sorted(failures, key=lambda failure: failure.client),
            [row for row in everything if isinstance(row, Confidence)],
        )

    def _made(
        self,
        name: str,
        round: int,
        clients: Sequence[int],
        models: Mapping[str, Weights],
        states: Sequence[Mapping[str, Weights]],
        collected: CollectedModels | None,
        first: int,
        last: int,
    ) -> tuple[Cohort, Weights]:
        """Clients ``first`` to ``last`` and the weights that they use as model ``name``.

        A model that was not received under its name is made from the base and the client's state.
        """
        cohort = self.cohort(clients[first:last], round, states[first:last])
        sent = models.get(name, models.get("base", {}))
        weights = self._on_device(rows(sent, first, last))
        if name == LOCAL and self._alone is not None:
            return cohort, self._alone.train(cohort, weights if name in models else None)
        localised = self._strategy(round).localise(cohort, weights, name)
        if collected is not None:
            collected.add(cohort, name, "none", localised)
        return cohort, localised

    def _scored(
        self,
        cohort: Cohort,
        start: Weights,
        name: str,
        method: Adaptation,
        answer: Weights | None,
        shown: "_Shown",
        first: int,
        last: int,
    ) -> list[Evaluation | Confidence]:
        """The rows of clients ``first`` to ``last`` of the cohort, for one model and adaptation."""
        if last - first < len(cohort):
            clients, states = cohort.clients[first:last], cohort.states[first:last]
            cohort = self.cohort(clients, cohort.round, states)
        answer = None if answer is None else rows(answer, first, last)
        received = rows(start, first, last)
        inputs = (method.images_of(cohort), received, answer)
        looks = method.stages(*inputs) if shown.curves else [(0, method.adapt(*inputs))]
        tests = self._tests(cohort, shown)
        evaluations: list[Evaluation | Confidence] = []
        for epoch, adapted in looks:
            for split, examples in tests.items():
                for d, score in enumerate(evaluate(cohort, adapted, examples)):
                    row = self._row(cohort, d, name, method, split, score)
                    evaluations.append(row._replace(epoch=epoch))
        if shown.held_out or shown.confidence:
            evaluations += self._by_held_out_images(
                cohort, name, method, received, adapted, answer, shown
            )
        if shown.collected is not None and method.name != "none":
            shown.collected.add(cohort, name, method.name, adapted)
        return evaluations

    def _by_held_out_images(
        self,
        cohort: Cohort,
        name: str,
        method: Adaptation,
        received: Weights,
        adapted: Weights,
        answer: Weights | None,
        shown: "_Shown",
    ) -> Iterator[Evaluation | Confidence]:
        """Judge a model by adapt images that it was not adapted to: a choice, or a temperature.

        Where that fails on a client, with so few images say, there are no such rows: the client
        cannot choose the model, and its other results stay.
        """

        def judge(first: int, last: int) -> list[Evaluation | Confidence]:
            clients, states = cohort.clients[first:last], cohort.states[first:last]
            part = cohort
            if last - first < len(cohort):
                part = self.cohort(clients, cohort.round, states)
            pooled = None if answer is None else rows(answer, first, last)
            before, after = rows(received, first, last), rows(adapted, first, last)
            held_out = held_out_logits(part, method, before, after, pooled)
            found: list[Evaluation | Confidence] = []
            if shown.held_out:
                for d, (z, labels) in enumerate(held_out):
                    if len(labels):
                        [score] = scores([z], [labels])
                        found.append(self._row(part, d, name, method, HELD_OUT, score))
            if shown.confidence:
                found += confidence_rows(
                    part,
                    after,
                    held_out,
                    model=name,
                    adaptation=method.name,
                    unseen=self.benchmark.unseen,
                )
            return found

        for _, _, results in pieces(len(cohort), judge):
            if not isinstance(results, Failure):
                yield from results

    def _tests(self, cohort: Cohort, shown: "_Shown") -> dict[str, list[Examples]]:
        """The images that each client of the cohort is scored on, by the name of the set."""
        tests = {"test": [split.test for split in cohort.splits]}
        if shown.on_global and self.global_test is not None:
            tests["global"] = [self.global_test] * len(cohort)
        if shown.curves:
            tests["adapt"] = cohort.part("adapt")
        return tests

    def evaluate_everywhere(self, round: int, base: Weights) -> list[Evaluation]:
        """The base model on the balanced test for everybody: one row, of no client (-1)."""
        if self.global_test is None:
            return []
        cohort = self.cohort((), round)  # nobody's: no client's images are touched for it
        [score] = evaluate(cohort, self._on_device(base), [self.global_test])
        return [
            Evaluation(
                round,
                -1,
                "all",
                True,
                "base",
                "none",
                "global",
                score.num_examples,
                score.accuracy,
                score.loss,
                balanced_accuracy=score.balanced_accuracy,
                f1=score.f1,
                auc=score.auc,
            )
        ]

    @property
    def global_test(self) -> Examples | None:
        if self._global is None and self.benchmark.global_test is not None:
            self._global = self._resident(self.benchmark.global_test)
        return self._global

    def _validate(self, cohort: Cohort, received: Sent) -> Update:
        """What a strategy may learn while it runs: scores on the adapt images, not the test."""
        weights = self._strategy(cohort.round).localise(cohort, received.weights)
        scores = evaluate(cohort, weights, cohort.part("adapt"))
        metrics = {"loss": [s.loss for s in scores], "accuracy": [s.accuracy for s in scores]}
        return Update(
            {},
            torch.tensor([s.num_examples for s in scores], dtype=torch.float64),
            {n: torch.tensor(v, dtype=torch.float64) for n, v in metrics.items()},
        )

    def _row(
        self, cohort: Cohort, index: int, model: str, method: Adaptation, split: str, score: Score
    ) -> Evaluation:
        client = cohort.clients[index]
        return Evaluation(
            round=cohort.round,
            client=client,
            kind=self.benchmark.kinds[client],
            seen=client not in self.benchmark.unseen,
            model=model,
            adaptation=method.name,
            split=split,
            num_examples=score.num_examples,
            accuracy=score.accuracy,
            loss=score.loss,
            balanced_accuracy=score.balanced_accuracy,
            f1=score.f1,
            auc=score.auc,
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

    def _on_device(self, weights: Weights) -> Weights:
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
