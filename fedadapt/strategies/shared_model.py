"""Strategies whose server holds one model and averages what clients train from it."""

from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, final

from torch import Tensor, nn

from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.client.fit import Fitted, fit
from fedadapt.client.statistics.batch_norm import batch_norm_statistics
from fedadapt.client.step_rules import Optimizer
from fedadapt.messages import Answers, Sent, Update
from fedadapt.objectives import Objective, cross_entropy
from fedadapt.parameters import from_run
from fedadapt.selectors import norms
from fedadapt.server.aggregation import StreamingMean
from fedadapt.strategies.base import LocalTraining, Metadata, Strategy
from fedadapt.weights import Weights, repeat

STATISTICS = "query.moments"
STATISTICS_BATCH = 64  # images; large enough for steady statistics, small enough for any device
NORMS, STAYING, PERSONAL = "norms", "stays", "personal"  # parts of a client's state


@dataclass(frozen=True, kw_only=True)
class SharedModel(Strategy[Weights]):
    """One shared model; the mean of what clients train, weighted by their examples.

    A subclass writes ``train``. It may say with ``stays`` which tensors never leave a client, with
    ``fixed`` which ones nobody changes, and with ``personal = "on client"`` that each client has a
    model of its own, which it keeps in its state as ``personal`` or makes of the shared model and
    the tensors that stay; ``personal_model`` makes it in any other way. ``extras`` are shared
    beside the network, ``base_model`` makes the base model of all that is shared, and ``moved`` is
    for a server that does not simply take the mean.

    ``batch_norm`` says what becomes of batch-norm layers. ``shared``: scale, shift and running
    statistics are averaged like everything else. ``local``: all four stay on the client (FedBN); a
    client that never trained uses the initial ones. ``reestimate``: scale and shift are averaged,
    the statistics are measured anew on the clients' training images under the averaged weights
    (one more exchange a round, where they are shared) and pooled over clients: mean = sum p_k m_k,
    variance = sum p_k (v_k + m_k^2) - mean^2.
    """

    query_types: ClassVar[tuple[str, ...]] = (STATISTICS,)
    leaves: ClassVar[Mapping[str, str]] = {
        "train": "the trained model, without what stays on the client",
        STATISTICS: "batch norm: mean and variance of the activations of the training images",
    }
    personal: ClassVar[Literal["nowhere", "on client"]] = "nowhere"
    personal_of_all: ClassVar[bool] = False
    """Whether clients make their own models of all that is shared, extras included, which they are
    then sent at an evaluation too; or of the base model."""

    model: nn.Module = from_run()  # the architecture; its weights are never read
    training: LocalTraining = from_run(default_factory=LocalTraining)
    batch_norm: str = from_run(default="shared")

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        cls.made_on_client = (PERSONAL,) if cls.personal == "on client" else ()

    @abstractmethod
    def train(self, cohort: Cohort, shared: Weights) -> Update:
        """Train the clients of ``cohort`` from the shared model, [D, ...].

        ``train_shared`` is FedAvg's local training; ``Update.keeping`` adds to a client's state.
        """

    def stays(self, model: nn.Module) -> frozenset[str]:
        """Name the tensors of ``model`` that never leave a client; a selector."""
        return frozenset()

    def fixed(self, model: nn.Module) -> frozenset[str]:
        """Name what the server sends and nobody changes: tensors of ``model`` or extras.

        Clients neither send it back nor keep it; ``train`` has to leave it alone.
        """
        return frozenset()

    def base_model(self, shared: Weights) -> Weights:
        """Return the base model of what is shared, extras included: the network's part of it.

        Args:
            shared: On the server [...], on clients [D, ...].

        """
        network = self.model.state_dict()
        return {n: t for n, t in shared.items() if n in network}

    def personal_model(self, cohort: Cohort, shared: Weights) -> Weights:
        """Return the clients' own models, [D, ...], of the shared one and what each has kept.

        It is asked for at an evaluation, once or several times a round, also of clients that never
        trained: it may train, but keeps nothing, and draws with a purpose of its own.

        Args:
            shared: The base model, or all that is shared where ``personal_of_all`` says so, with
                the tensors that stay on the clients.

        """
        return shared | cohort.state(PERSONAL, shared)

    def extras(self, start: Weights) -> Weights:
        """Return tensors that are shared beside the network's, as they are at first, [...].

        They are sent, trained and averaged with the model, and are no part of it: their names are
        not the network's.
        """
        return {}

    def moved(self, before: Weights, mean: Weights) -> Weights:
        """Return what is shared after a round, [...]; by default the mean of what clients sent.

        Args:
            before: What was shared before the round, of the names of ``mean``.
            mean: The mean over clients, weighted by examples.

        """
        return mean

    @final
    def train_shared(
        self, cohort: Cohort, shared: Weights, objective: Objective = cross_entropy
    ) -> Update:
        """Train the shared model on each client; the objective's anchor is the model received."""
        optimizer, schedule = self.local()
        fitted = fit(
            cohort, shared, optimizer, schedule, objective=objective, memory={"anchor": shared}
        )
        return self.sending(cohort, fitted)

    @final
    def local(self, purpose: str = "train") -> tuple[Optimizer, Schedule]:
        """Return the run's optimiser and schedule.

        Args:
            purpose: Names the random stream of the batches: equal purposes draw equal orders.

        """
        return self.training.optimizer, self.training.schedule._replace(purpose=purpose)

    @final
    def sending(self, cohort: Cohort, fitted: Fitted) -> Update:
        """Return the answer with trained weights: what stays goes into the client's state."""
        kept = {NORMS: self._local_norms, STAYING: self._staying}
        return Update(
            weights={n: t for n, t in fitted.weights.items() if n not in self._unsent},
            num_examples=cohort.num_examples,
            metrics={"loss": fitted.loss},
            states={
                part: {n: t for n, t in fitted.weights.items() if n in names}
                for part, names in kept.items()
                if names
            },
        )

    @final
    def staying(self) -> Collection[str]:
        return self._local_norms | self._staying

    @final
    def begin(self, start: Weights, clients: Sequence[int]) -> Weights:
        return start | self.extras(start)

    @final
    def actions(self, state: Weights, round: int) -> tuple[str, ...]:
        measured = self.batch_norm == "reestimate" and not norms(self.model) <= self._unsent
        return ("train", STATISTICS) if measured else ("train",)

    @final
    def send(self, state: Weights, action: str, round: int, clients: Sequence[int]) -> Sent:
        return Sent(tuple(clients), repeat(state, len(clients)), {"server-round": round})

    @final
    def answer(self, action: str, cohort: Cohort, received: Sent) -> Update:
        if action == STATISTICS:
            schedule = Schedule(STATISTICS_BATCH, 1, "train", STATISTICS)
            base = self.base_model(received.weights)
            statistics = batch_norm_statistics(cohort, base, schedule)
            return Update(statistics, cohort.num_examples)
        shared = self.localise(cohort, received.weights)
        return self.train(cohort, _with_part(cohort, shared, STAYING, self._staying))

    @final
    def expected(self, action: str, sent: Weights) -> Weights:
        if action == STATISTICS:
            suffixes = (".running_mean", ".running_var")
            names = {n for n in norms(self.model) if n.endswith(suffixes)}
            return {n: t for n, t in sent.items() if n in names}
        return {n: t for n, t in sent.items() if n not in self._unsent}

    @final
    def merge(self, state: Weights, action: str, round: int, answers: Iterable[Answers]) -> Weights:
        if action == STATISTICS:
            return average(state, answers, statistics=True)
        mean = average(state, answers)
        if mean is state:  # nobody answered
            return state
        sent = {n: t for n, t in mean.items() if n not in self._unsent and t.is_floating_point()}
        return mean | self.moved({n: state[n] for n in sent}, sent)

    @final
    def models(self, state: Weights, clients: Sequence[int]) -> Mapping[str, Weights]:
        base = {"base": repeat(self.base_model(state), len(clients))}
        return base | {PERSONAL: repeat(state, len(clients))} if self.personal_of_all else base

    @final
    def localise(self, cohort: Cohort, weights: Weights, model: str = "base") -> Weights:
        weights = _with_part(cohort, weights, NORMS, self._local_norms)
        if model != PERSONAL:
            return weights
        return self.personal_model(cohort, _with_part(cohort, weights, STAYING, self._staying))

    @final
    def pack(self, state: Weights) -> tuple[dict[str, Tensor], Metadata]:
        return state, {}

    @final
    def unpack(self, tensors: dict[str, Tensor], metadata: Metadata) -> Weights:
        return dict(tensors)

    @cached_property
    def _local_norms(self) -> frozenset[str]:
        return norms(self.model) if self.batch_norm == "local" else frozenset()

    @cached_property
    def _staying(self) -> frozenset[str]:
        return self.stays(self.model)

    @cached_property
    def _unsent(self) -> frozenset[str]:
        """Names that clients send nothing of."""
        return self._local_norms | self._staying | self.fixed(self.model)


def average(state: Weights, answers: Iterable[Answers], *, statistics: bool = False) -> Weights:
    """Return ``state`` with the clients' mean, weighted by examples, of every tensor they sent.

    Args:
        statistics: The answers are batch-norm statistics. A variance is pooled with the spread of
            the means: sum p_k (v_k + m_k^2) - mean^2.

    """
    mean = StreamingMean()
    for some in answers:
        if some.update is None:
            continue
        arrays = some.update.weights
        if statistics:
            arrays = {n: t.double() for n, t in arrays.items()}
            arrays |= {n: v + arrays[_mean_of(n)] ** 2 for n, v in _variances(arrays)}
        mean.add(arrays, some.update.num_examples)
    if mean.empty:
        return state
    pooled = mean.result()
    if statistics:
        pooled |= {n: (s - pooled[_mean_of(n)] ** 2).clamp(min=0) for n, s in _variances(pooled)}
    return state | {n: t.to(state[n].dtype) for n, t in pooled.items()}


def _variances(arrays: Weights) -> list[tuple[str, Tensor]]:
    return [(n, t) for n, t in arrays.items() if n.endswith(".running_var")]


def _mean_of(variance: str) -> str:
    return variance.removesuffix("_var") + "_mean"


def _with_part(cohort: Cohort, weights: Weights, part: str, names: frozenset[str]) -> Weights:
    """Return ``weights`` with each client's own tensors ``names``, where it has kept them."""
    if not names:
        return weights
    return weights | cohort.state(part, {n: weights[n] for n in weights if n in names})
