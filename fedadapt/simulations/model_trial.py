"""Models tried on some clients: every model x adaptation, on the images that are asked for."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.cohort import Cohort
from fedadapt.client.cross_fitting import held_out_logits
from fedadapt.client.evaluation import Score, evaluate, scores
from fedadapt.client.failures import pieces
from fedadapt.datasets.benchmark import Examples
from fedadapt.messages import Failure
from fedadapt.records import HELD_OUT, LOCAL, Confidence, Evaluation, EvaluationFailure
from fedadapt.simulations.collected_models import CollectedModels
from fedadapt.simulations.confidence_rows import confidence_rows
from fedadapt.weights import Weights, repeat, rows

if TYPE_CHECKING:
    from fedadapt.simulations.worker import Worker


class Evaluated(NamedTuple):
    """The results of some clients; a client x model x adaptation has rows or a failure."""

    rows: list[Evaluation]
    failures: list[EvaluationFailure]
    confidences: list[Confidence]


class Shown(NamedTuple):
    """What an evaluation does beside scoring the client's own test after each adaptation."""

    on_global: bool  # score the global test too
    curves: bool  # score the adapt images too, and adaptations on the way
    held_out: bool  # score adapt images that a model was not adapted to
    confidence: bool  # tell how sure models are of each test image
    collected: CollectedModels | None  # takes the models, for saving


class ModelTrial:
    """One evaluation of some clients of a worker.

    Where a model or an adaptation fails on a client, that is recorded and everything else is tried
    all the same.
    """

    def __init__(
        self,
        worker: "Worker",
        clients: tuple[int, ...],
        round: int,
        states: Sequence[Mapping[str, Weights]],
        shown: Shown,
    ) -> None:
        self._worker = worker
        self._clients = clients
        self._round = round
        self._states = states
        self._shown = shown

    def evaluated(
        self,
        models: Mapping[str, Weights],
        adaptations: Sequence[Adaptation],
        pooled: Mapping[str, Weights],
        on_client: Sequence[str],
    ) -> Evaluated:
        """Try everything; see ``Worker.evaluate`` for the arguments. Rows are client by client."""
        worker, clients = self._worker, self._clients
        answers = {name: worker.on_device(repeat(w, len(clients))) for name, w in pooled.items()}
        everything: list[Evaluation | Confidence] = []
        failures: list[EvaluationFailure] = []

        def fail(affected: Sequence[int], model: str, method: Adaptation, failure: Failure) -> None:
            for client in affected:
                failed = EvaluationFailure(self._round, client, model, method.name, failure.reason)
                failures.append(failed)

        # Without images there is no result of any kind.
        worker.cohort(clients, self._round, self._states)
        for name in dict.fromkeys((*models, *on_client)):
            make = partial(self._made, name, models)
            for begin, end, made in pieces(len(clients), make):
                if isinstance(made, Failure):
                    for method in adaptations:
                        fail(clients[begin:end], name, method, made)
                    continue
                for method in adaptations:
                    answer = method.pooled_from(answers)
                    answer = None if answer is None else rows(answer, begin, end)
                    score = partial(self._scored, *made, name, method, answer)
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
        models: Mapping[str, Weights],
        first: int,
        last: int,
    ) -> tuple[Cohort, Weights]:
        """Clients ``first`` to ``last`` and the weights that they use as model ``name``.

        A model that was not received under its name is made from the base and the client's state.
        """
        worker, collected = self._worker, self._shown.collected
        clients, states = self._clients[first:last], self._states[first:last]
        cohort = worker.cohort(clients, self._round, states)
        sent = models.get(name, models.get("base", {}))
        weights = worker.on_device(rows(sent, first, last))
        if name == LOCAL and worker.alone is not None:
            return cohort, worker.alone.train(cohort, weights if name in models else None)
        localised = worker.strategy_at(self._round).localise(cohort, weights, name)
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
        first: int,
        last: int,
    ) -> list[Evaluation | Confidence]:
        """The rows of clients ``first`` to ``last`` of the cohort, for one model and adaptation."""
        shown, cohort = self._shown, self._part(cohort, first, last)
        answer = None if answer is None else rows(answer, first, last)
        received = rows(start, first, last)
        inputs = (method.images_of(cohort), received, answer)
        looks = method.stages(*inputs) if shown.curves else [(0, method.adapt(*inputs))]
        tests = self._tests(cohort)
        evaluations: list[Evaluation | Confidence] = []
        for epoch, adapted in looks:
            for split, examples in tests.items():
                for d, score in enumerate(evaluate(cohort, adapted, examples)):
                    row = self._row(cohort, d, name, method, split, score)
                    evaluations.append(row._replace(epoch=epoch))
        if shown.held_out or shown.confidence:
            evaluations += self._by_held_out_images(cohort, name, method, received, adapted, answer)
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
    ) -> Iterator[Evaluation | Confidence]:
        """Judge a model by adapt images that it was not adapted to: a choice, or a temperature.

        Where that fails on a client, with so few images say, there are no such rows: the client
        cannot choose the model, and its other results stay.
        """

        def judge(first: int, last: int) -> list[Evaluation | Confidence]:
            part = self._part(cohort, first, last)
            pooled = None if answer is None else rows(answer, first, last)
            before, after = rows(received, first, last), rows(adapted, first, last)
            held_out = held_out_logits(part, method, before, after, pooled)
            found: list[Evaluation | Confidence] = []
            if self._shown.held_out:
                for d, (z, labels) in enumerate(held_out):
                    if len(labels):
                        [score] = scores([z], [labels])
                        found.append(self._row(part, d, name, method, HELD_OUT, score))
            if self._shown.confidence:
                found += confidence_rows(
                    part,
                    after,
                    held_out,
                    model=name,
                    adaptation=method.name,
                    unseen=self._worker.benchmark.unseen,
                )
            return found

        for _, _, results in pieces(len(cohort), judge):
            if not isinstance(results, Failure):
                yield from results

    def _tests(self, cohort: Cohort) -> dict[str, list[Examples]]:
        """The images that each client of the cohort is scored on, by the name of the set."""
        tests = {"test": [split.test for split in cohort.splits]}
        everywhere = self._worker.global_test
        if self._shown.on_global and everywhere is not None:
            tests["global"] = [everywhere] * len(cohort)
        if self._shown.curves:
            tests["adapt"] = cohort.part("adapt")
        return tests

    def _part(self, cohort: Cohort, first: int, last: int) -> Cohort:
        """Clients ``first`` to ``last`` of a cohort, with data and states of their own."""
        if last - first == len(cohort):
            return cohort
        clients, states = cohort.clients[first:last], cohort.states[first:last]
        return self._worker.cohort(clients, cohort.round, states)

    def _row(
        self, cohort: Cohort, index: int, model: str, method: Adaptation, split: str, score: Score
    ) -> Evaluation:
        client = cohort.clients[index]
        return Evaluation(
            round=cohort.round,
            client=client,
            kind=self._worker.benchmark.kinds[client],
            seen=client not in self._worker.benchmark.unseen,
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


def everywhere(worker: "Worker", round: int, base: Weights, examples: Examples) -> Evaluation:
    """The base model on images for everybody: a row of no client (-1)."""
    cohort = worker.cohort((), round)  # nobody's: no client's images are touched for it
    [score] = evaluate(cohort, worker.on_device(base), [examples])
    return Evaluation(
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
