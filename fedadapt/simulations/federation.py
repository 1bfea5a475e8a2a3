"""The federated loop: rounds, evaluations, checkpoints. The same for every method and engine."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.adaptations.query import Query
from fedadapt.config import RunConfig
from fedadapt.errors import DivergedError, EvaluationFailedError, QuorumLostError
from fedadapt.messages import Sent
from fedadapt.records import (
    LOCAL,
    CommunicationEntry,
    Confidence,
    Evaluation,
    EvaluationFailure,
    Phase,
    RoundLoss,
)
from fedadapt.server.checkpoint import Checkpoint, Checkpoints
from fedadapt.server.client_pool import ClientPool, EvaluationRequest
from fedadapt.server.exchange import Exchange, RoundFailedError
from fedadapt.server.sampling import evaluation_sample, sample
from fedadapt.simulations.endings import resume_command
from fedadapt.simulations.evaluation import Evaluator
from fedadapt.simulations.pooled_answers import pooled_answer, pooled_answers
from fedadapt.simulations.progress import Progress
from fedadapt.simulations.results.journal import Journal
from fedadapt.simulations.results.saved_models import SavedModels
from fedadapt.simulations.results.serving import served_rows
from fedadapt.simulations.round_choice import BEST, RoundChoice, Watch
from fedadapt.simulations.tracking.tracking import Tracking
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
Key = tuple[int, str, str, str, int]


def _key(row: Evaluation) -> Key:
    """What tells rows of a round apart."""
    return row.client, row.model, row.adaptation, row.split, row.task


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
        alone: Sequence[Evaluation] = (),
        has_tasks: bool = False,
        watch: Watch | None = None,
        go_on: str = "",
        tracking: Tracking | None = None,
    ) -> None:
        """A run that has not begun.

        Args:
            go_on: The command that resumes the run (default: ``fedadapt simulate --resume``).
            initial: For the model ``local`` of each client; None: there is no such row.
            alone: The rows of ``local``, where they are known: nothing is trained for them.
            has_tasks: A round is a task: what each model was worth when a task was new is
                evaluated too, always on the same clients.
            watch: Is told the score of each round that is evaluated on the way.
            tracking: Is told every row that is recorded, and when a round is done.

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
        self._alone = alone
        self._has_tasks = has_tasks
        self._go_on = go_on or resume_command(folder)
        self._progress = progress
        self._tracking = tracking or Tracking()
        self._journal = Journal(folder, self._tracking.row)
        self._saved_models = saved_models
        save = saved_models.write if saved_models is not None else None
        self._evaluator = Evaluator(client_pool, self._record, progress, save)
        self._choice = RoundChoice(config, folder, watch)
        self._recorded: frozenset[Key] = frozenset()  # what of this round is there already
        self._named = ""  # what stands before the models' names in the rows
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
        self._restore(checkpoint)
        self._journal.truncate(dict(checkpoint.metadata["journal"]))
        self._failed_in_a_row = int(checkpoint.metadata["failed-in-a-row"])
        self._seconds = float(checkpoint.metadata["seconds"])
        self._round = checkpoint.round
        self._choice.resume(self._journal.rows(Evaluation))
        self._evaluated_round = int(checkpoint.metadata.get("evaluated", self._round))

    def close(self) -> None:
        """Give up a run before ``run``, which closes everything itself."""
        self._journal.close()

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
                self._judge()
            while self._round < self._config.rounds and not self._choice.is_over:
                self._train(self._round + 1)
                if self._due(self._round):
                    self._evaluate(on_the_way)
                    self._judge()
                if self._worth_saving():
                    self._save()
            self._evaluate(everything, final=True)
            if self._config.best_round:
                self._evaluate_best_round(everything)
            if self._serves_the_best:
                for served in list(served_rows(self._journal.rows(Evaluation), self._round)):
                    self._journal.append(served)
            if self._alone:
                for row in self._alone:
                    self._journal.append(row._replace(round=self._round))
            elif self._initial is not None:
                self._evaluate_alone(self._initial)
        return self._clock()

    @property
    def _serves_the_best(self) -> bool:
        return self._config.serve == "best-on-adapt"

    @property
    def last_round(self) -> int:
        """The last round finished, which early stopping may have chosen."""
        return self._round

    def _judge(self) -> None:
        """Have this round judged by the clients' adapt images, where anything depends on that."""
        if self._choice.needed:
            self._evaluator.finish()
            self._choice.judge(self._round, self._rows_of_round(), self._state)

    def _rows_of_round(self) -> Iterator[Evaluation]:
        return (row for row in self._journal.rows(Evaluation) if row.round == self._round)

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

        def meanwhile() -> None:  # the models of the round before are still being evaluated
            self._evaluator.finish(but=self._client_pool.evaluates_in_background)
            self._progress.round(number, len(sampled))

        exchange = self._exchange(number, meanwhile)
        states = self._client_pool.states()
        try:
            self._method.round(exchange, sampled)
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
        evaluating = self._evaluator.round
        self._tracking.round_done(number if evaluating is None else evaluating)

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

    def _record(
        self, row: Evaluation | Confidence | EvaluationFailure | CommunicationEntry
    ) -> None:
        """Append a row to its journal, under the name that its model has in this evaluation."""
        if isinstance(row, CommunicationEntry):
            self._journal.append(row)
            return
        row = row._replace(model=f"{self._named}{row.model}")
        if not (isinstance(row, Evaluation) and _key(row) in self._recorded):
            self._journal.append(row)

    def _evaluate_best_round(self, adaptations: tuple[str, ...]) -> None:
        """Evaluate the models of the best round as well, under names of their own.

        The rows are of the last round, since that is when the models are evaluated.
        """
        last = self._state()
        best = self._choice.best(self._round, self._rows_of_round())
        if best is not None:
            self._restore(best)
        self._named = BEST
        try:
            self._evaluate(adaptations, final=True)
            if self._saved_models is not None:
                for _, weights in self.base_models():
                    self._saved_models.add_base(f"{BEST}base", weights, (best or last).round)
        finally:
            self._named = ""
            self._restore(last)

    def _evaluate(self, adaptations: tuple[str, ...], *, final: bool = False) -> None:
        clients = self._evaluated(final)
        if final and not self._named:  # a run that ended early has evaluated this round already
            self._recorded = frozenset(_key(row) for row in self._rows_of_round())
        self._evaluated_round = self._round if not final else self._evaluated_round
        self._progress.phase("adapting, evaluating" if final else "evaluating", len(clients))
        base = self._method.models(clients[:1])["base"]
        # Each task has a model of its own: there is none to ask the clients about.
        asking = final and not self._has_tasks
        pooled = pooled_answers(self._adaptations, self._ask, row(base, 0)) if asking else {}
        request = EvaluationRequest(
            round=self._round,
            clients=clients,
            models={},
            adaptations=adaptations,
            pooled=pooled,
            on_global=final and self._config.global_test == "all",
            curves=self._config.curves,
            held_out=(final and self._serves_the_best) or self._choice.needed,
            confidence=final and self._config.confidence,
            on_client=self._method.made_on_client,
        )
        if final and self._saved_models is not None and not self._named:
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
                self._record(evaluation)

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

    def _ask(self, query: Query, base: Weights, extra: Weights) -> Weights:
        """Return what the training clients' answers to a query are on average, [...]."""
        seen = self._population.seen
        return pooled_answer(
            self._exchange(self._round, phase="evaluation"),
            query.action,
            Sent(seen, repeat(base | extra, len(seen)), {"server-round": self._round}),
            query.expected(self._model, base),
        )

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
            record=self._evaluator.record,
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
        self._checkpoints.save(self._state())
        now = time.perf_counter()
        self._save_again = now + max(SAVED_FOR, (now - began) / SAVING)

    def _state(self) -> Checkpoint:
        """Everything that a run needs to go on from here."""
        tensors, metadata = self._method.pack()
        return Checkpoint(
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
        )

    def _restore(self, state: Checkpoint) -> None:
        """Put the models of the server and the states of clients back."""
        self._method.unpack(state.tensors, dict(state.metadata["method"]))
        self._method.unpack_clients(state.server_states)
        self._client_pool.restore(state.states)

    def _clock(self) -> float:
        now = time.perf_counter()
        self._seconds += now - self._measured_until
        self._measured_until = now
        return self._seconds
