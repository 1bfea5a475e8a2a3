"""The federated loop: rounds, evaluations, checkpoints. The same for every method and engine."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.adaptations.query import BEFORE, Query
from fedadapt.config import RunConfig
from fedadapt.errors import DivergedError, EvaluationFailedError, QuorumLostError
from fedadapt.messages import Sent
from fedadapt.records import LOCAL, Evaluation, Phase, RoundLoss
from fedadapt.server.aggregation import StreamingMean
from fedadapt.server.checkpoint import Checkpoint, Checkpoints
from fedadapt.server.client_pool import ClientPool, EvaluationRequest
from fedadapt.server.exchange import Exchange, RoundFailedError
from fedadapt.server.sampling import evaluation_sample, sample
from fedadapt.simulations.endings import resume_command
from fedadapt.simulations.evaluation import Evaluator
from fedadapt.simulations.progress import Progress
from fedadapt.simulations.results.journal import Journal
from fedadapt.simulations.results.saved_models import SavedModels
from fedadapt.simulations.results.serving import served_rows
from fedadapt.strategies.base import Metadata
from fedadapt.strategies.stateful import StatefulStrategy
from fedadapt.weights import Weights, num_bytes, repeat, row

log = logging.getLogger(__name__)

LEAST_AT_ONCE = 25  # clients that are evaluated together, or a multiple of it
BYTES_AT_ONCE = 2**25  # of their personal models
ON_THE_WAY = 1000  # clients that are evaluated before the end, if not told otherwise
SAVING = 0.05  # of the time goes into checkpoints at most: short rounds share one
SAVED_FOR = 1.0  # seconds at least: nobody misses less

CentralTest = Callable[[int, Weights], list[Evaluation]]


class Population(NamedTuple):
    """The clients of a run."""

    seen: tuple[int, ...]  # take part in training
    unseen: tuple[int, ...]  # are evaluated only

    @property
    def everyone(self) -> tuple[int, ...]:
        return tuple(sorted(self.seen + self.unseen))


class InitialModel(NamedTuple):
    """What clients train alone from, for the row of those who never take part."""

    weights: Weights  # [...]
    is_sent: bool  # clients cannot make it from the run's settings


class Federation:
    """One run: drives ``method`` over ``client_pool`` and leaves its records in ``folder``.

    Everything it decides derives from (seed, round), and everything it knows is in its checkpoints,
    so a run that was killed goes on from the last one as if nothing had happened.
    """

    def __init__(
        self,
        config: RunConfig,
        method: StatefulStrategy,
        client_pool: ClientPool,
        population: Population,
        adaptations: Sequence[Adaptation],
        folder: Path,
        *,
        model: nn.Module,
        central_test: CentralTest,
        progress: Progress,
        saved_models: SavedModels | None = None,
        initial: InitialModel | None = None,
        has_tasks: bool = False,
        go_on: str = "",
    ) -> None:
        """A run that has not begun.

        Args:
            go_on: The command that resumes the run (default: ``fedadapt simulate --resume``).
            initial: For the model ``local`` of each client; None: there is no such row.
            has_tasks: A round is a task: what each model was worth when a task was new is
                evaluated too, always on the same clients.

        """
        self._config = config
        self._method = method
        self._client_pool = client_pool
        self._population = population
        self._adaptations = adaptations
        self._folder = folder
        self._checkpoints = Checkpoints(folder)
        self._save_again = 0.0  # not before this time
        self._model = model  # the architecture; its weights are never read
        self._central_test = central_test
        self._initial = initial
        self._has_tasks = has_tasks
        self._go_on = go_on or resume_command(folder)
        self._progress = progress
        self._journal = Journal(folder)
        self._saved_models = saved_models
        save = saved_models.write if saved_models is not None else None
        self._evaluator = Evaluator(client_pool, self._journal.append, progress, save)
        self._new = False  # round 0 is not saved yet
        self._round = 0  # the last one finished
        self._evaluated_round = 0  # the last one evaluated before the end
        self._failed_in_a_row = 0
        self._seconds = 0.0
        self._measured_until = time.perf_counter()

    def begin(self, start: Weights) -> None:
        """Start from the initial model, which is evaluated and saved as round 0."""
        self._method.begin(start, self._population.seen)
        self._journal.truncate({})
        self._new = True

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of the same run; what was written after it is forgotten."""
        self._method.unpack(checkpoint.tensors, dict(checkpoint.metadata["method"]))
        self._method.unpack_clients(checkpoint.server_states)
        self._client_pool.restore(checkpoint.states)
        self._journal.truncate(dict(checkpoint.metadata["journal"]))
        self._failed_in_a_row = int(checkpoint.metadata["failed-in-a-row"])
        self._seconds = float(checkpoint.metadata["seconds"])
        self._round = checkpoint.round
        self._evaluated_round = int(checkpoint.metadata.get("evaluated", self._round))

    def run(self) -> float:
        """All rounds that are left, then the full evaluation; seconds of work, resumes included.

        Raises:
            QuorumLostError: ``max-failed-rounds`` rounds in a row had too few usable answers.
            DivergedError: ... because the clients' models are no longer finite.

        """
        self._progress.start(self._round, self._config.rounds)
        with self._journal:  # closed however this ends: nothing is written later
            everything = tuple(a.name for a in self._adaptations)
            # Forgetting is told from what each model was worth when a task was new.
            on_the_way = everything if self._has_tasks else ("none",)
            if self._new:
                self._evaluate(on_the_way)
                self._save()
            elif self._due(self._round) and self._evaluated_round < self._round:
                self._evaluate(on_the_way)  # it was the last one, and rounds have grown
            while self._round < self._config.rounds:
                self._train(self._round + 1)
                if self._due(self._round):
                    self._evaluate(on_the_way)
                if self._worth_saving():
                    self._save()
            self._evaluate(everything, final=True)
            if self._serves_the_best:
                for row in list(served_rows(self._journal.rows(Evaluation), self._round)):
                    self._journal.append(row)
            if self._initial is not None:
                self._evaluate_alone(self._initial)
        return self._clock()

    @property
    def _serves_the_best(self) -> bool:
        return self._config.serve == "best-on-adapt"

    def base_models(self) -> Iterator[tuple[int, Weights]]:
        """The base model of each task, [...]; without tasks of task 0."""
        for task, models in self._method.models_by_task([0]):
            yield task, row(models["base"], 0)

    def check_evaluated(self) -> None:
        """Refuse to take an earlier evaluation for that of the end.

        Raises:
            EvaluationFailedError: No client has a result of the final evaluation.

        """
        if self._evaluator.last_round != self._round:
            raise EvaluationFailedError(
                f"round {self._round}: training is done, but the final evaluation failed on all "
                f"clients; why is in {self._folder}/communication.parquet and failures.parquet. "
                f"Evaluate again with: {self._go_on}"
            )

    def describe(self) -> dict[str, Metadata]:
        return self._method.describe()

    def _train(self, number: int) -> None:
        config = self._config
        sampled = sample(self._population.seen, config.fraction, config.seed, number)

        def meanwhile() -> None:  # the last round's models are still being evaluated
            if self._evaluator.under_way:
                self._evaluator.finish()
                self._progress.round(number, len(sampled))

        exchange = self._exchange(number, meanwhile)
        if not self._evaluator.under_way:
            self._progress.round(number, len(sampled))
        states = self._client_pool.states()
        try:
            self._method.round(exchange, sampled)
            meanwhile()  # should nobody have been asked
            self._failed_in_a_row = 0
        except RoundFailedError as failure:
            self._failed_in_a_row += 1
            log.warning("round %d failed: %s; the model stays as it was", number, failure)
            if self._failed_in_a_row >= config.max_failed_rounds:
                self._client_pool.restore(states)  # a resumed run does this round again
                self._give_up(number, failure)
        self._round = number
        if not math.isnan(exchange.loss):
            self._journal.append(RoundLoss(number, exchange.loss, exchange.num_trained))
        self._progress.done(number, exchange.loss)

    def _give_up(self, number: int, failure: RoundFailedError) -> None:
        self._save()  # the state before this round, with its communication log
        ending = f"round {number}: {failure}; resume with: {self._go_on}"
        # If only some clients send such values, it is not the learning rate's fault.
        spoilt = [r.endswith(("expected finite", "expected smaller")) for r in failure.reasons]
        if spoilt and all(spoilt) and not failure.accepted:
            raise DivergedError(f"{ending} (the models diverged: a lower lr may help)")
        raise QuorumLostError(ending)

    def _due(self, number: int) -> bool:
        every = self._config.evaluate_every or max(1, self._config.rounds // 10)
        return number % every == 0 and number < self._config.rounds

    def _evaluated(self, final: bool) -> tuple[int, ...]:
        """Forgetting is told client by client: of tasks, the same are evaluated all along."""
        config, (seen, unseen) = self._config, self._population
        all_along = final or self._has_tasks
        most = config.evaluate_clients or (0 if all_along else ON_THE_WAY)
        return evaluation_sample(seen, unseen, most, config.seed)

    def _evaluate(self, adaptations: tuple[str, ...], *, final: bool = False) -> None:
        clients = self._evaluated(final)
        self._evaluated_round = self._round if not final else self._evaluated_round
        self._progress.phase("adapting, evaluating" if final else "evaluating", len(clients))
        base = self._method.models(clients[:1])["base"]
        # Each task has a model of its own: there is none to ask the clients about.
        asking = final and not self._has_tasks
        pooled = self._pooled_answers(row(base, 0)) if asking else {}
        request = EvaluationRequest(
            round=self._round,
            clients=clients,
            models={},
            adaptations=adaptations,
            pooled=pooled,
            on_global=final and self._config.global_test == "all",
            curves=self._config.curves,
            held_out=final and self._serves_the_best,
            confidence=final and self._config.confidence,
            on_client=self._method.made_on_client,
        )
        if final and self._saved_models is not None:
            models_of_one = self._method.models_by_task(clients[:1])
            states = self._client_pool.states()
            collect, at_once = self._saved_models.plan(clients, models_of_one, states, adaptations)
            request = request._replace(collect=collect, at_once=at_once)
        # Personal models are as large as they are many: some clients at a time.
        fit_in = BYTES_AT_ONCE // max(1, num_bytes(row(base, 0)))
        portion_size = LEAST_AT_ONCE * max(1, fit_in // LEAST_AT_ONCE)
        for first in range(0, len(clients), portion_size):
            part = clients[first : first + portion_size]
            for task, models in self._method.models_by_task(part):
                self._evaluator.begin(request._replace(clients=part, models=models, task=task))
                if (
                    final or len(models) > 1 or request.on_client
                ):  # what only some clients get is not kept for long
                    self._evaluator.finish()
        if final and self._config.global_test == "base":
            for evaluation in self._central_test(self._round, base):
                self._journal.append(evaluation)

    def _evaluate_alone(self, initial: InitialModel) -> None:
        """The row beside which all others are read: clients that train alone, for as many epochs.

        After all training, and as a function of (seed, round, client): a resumed run does it again
        with the same result.
        """
        clients = self._evaluated(final=True)
        self._progress.phase("training alone", len(clients))
        sent = {LOCAL: repeat(initial.weights, len(clients))} if initial.is_sent else {}
        self._evaluator.begin(
            EvaluationRequest(
                round=self._round,
                clients=clients,
                models=sent,
                adaptations=("none",),
                on_global=self._config.global_test == "all",
                on_client=(LOCAL,),
            )
        )
        self._evaluator.finish()

    def _pooled_answers(self, base: Weights) -> dict[str, Weights]:
        """By adaptation that asks: the training clients' answers at the base model, [...].

        Of several rounds it is the last one with enough answers. Where there is none, an adaptation
        is left out, and does without.
        """
        pooled: dict[str, Weights] = {}
        parts = {part.name: part for whole in self._adaptations for part in whole.in_turn()}
        for adaptation in parts.values():
            query = adaptation.query()
            if query is None:
                continue
            mean: Weights = {}
            try:
                for _ in range(query.rounds):
                    mean = self._pooled_answer(query, base, mean)
            except RoundFailedError as failure:
                without = "keeps to the round before" if mean else "does without"
                log.warning("%s; %s %s", failure, adaptation.name, without)
            if mean:
                pooled[adaptation.name] = mean
        return pooled

    def _pooled_answer(self, query: Query, base: Weights, before: Weights) -> Weights:
        """Return the mean of one round of answers, [...], weighted by training examples.

        Args:
            before: That of the round before, which the clients get as well; {} in the first.

        """
        seen = self._population.seen
        content = repeat(base | {f"{BEFORE}{n}": t for n, t in before.items()}, len(seen))
        sent = Sent(seen, content, {"server-round": self._round})
        mean, expected = StreamingMean(), query.expected(self._model, base)
        exchange = self._exchange(self._round, phase="evaluation")
        for answers in exchange.ask(query.action, sent, expected):
            if answers.update is not None:
                mean.add(answers.update.weights, answers.update.num_examples)
        return mean.result()

    def _exchange(
        self,
        number: int,
        meanwhile: Callable[[], None] = lambda: None,
        phase: Phase = "training",
    ) -> Exchange:
        return Exchange(
            self._client_pool,
            number,
            min_replies=self._config.min_replies,
            max_update_norm=self._config.max_update_norm,
            max_update_factor=self._config.max_update_factor,
            record=self._journal.append,
            progress=self._progress.advance,
            meanwhile=meanwhile,
            phase=phase,
        )

    def _worth_saving(self) -> bool:
        every = self._config.checkpoint_every
        if self._round == self._config.rounds or (every and self._round % every == 0):
            return True
        return not every and time.perf_counter() >= self._save_again

    def _save(self) -> None:
        self._evaluator.finish()
        began = time.perf_counter()
        tensors, metadata = self._method.pack()
        self._checkpoints.save(
            Checkpoint(
                round=self._round,
                tensors={n: t.detach() for n, t in tensors.items()},
                metadata={
                    "method": metadata,
                    "journal": self._journal.positions(),
                    "evaluated": self._evaluated_round,
                    "failed-in-a-row": self._failed_in_a_row,
                    "seconds": self._clock(),
                },
                states=self._client_pool.states(),
                server_states=self._method.pack_clients(),
                config=dict(self._config.to_mapping()),
            ),
        )
        now = time.perf_counter()
        self._save_again = now + max(SAVED_FOR, (now - began) / SAVING)

    def _clock(self) -> float:
        now = time.perf_counter()
        self._seconds += now - self._measured_until
        self._measured_until = now
        return self._seconds
