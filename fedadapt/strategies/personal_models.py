"""Strategies whose server has a model of each client, and makes one client's of several."""

from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self, final

from torch import Tensor, nn

from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.client.fit import Fitted
from fedadapt.client.step_rules import Optimizer
from fedadapt.messages import Answers, Sent, Update
from fedadapt.parameters import from_run
from fedadapt.selectors import everything, norms
from fedadapt.server.checks import Expected, word
from fedadapt.server.client_states import StateStorage
from fedadapt.strategies.base import LocalTraining, Metadata, ServerSide, Strategy
from fedadapt.strategies.shared.fedavg import FedAvg
from fedadapt.weights import Weights, repeat, row

MODEL, NOTES = "model", "notes"  # parts of what the server keeps of a client
AT_ONCE = 2**26  # bytes of mixtures that are summed up together, in float64


@dataclass(frozen=True, eq=False)
class PersonalState:
    """What the server knows."""

    base: Weights  # the mean of what clients trained last, and what is shared beside the network
    kept: Mapping[int, Mapping[str, Weights]] = field(default_factory=dict)  # by client, ascending

    @property
    def clients(self) -> tuple[int, ...]:
        """Those whose model the server has, ascending."""
        return tuple(self.kept)

    def model(self, client: int) -> Weights:
        """Return what the server keeps of a client's model, [...]; of the base if it has none."""
        return self.kept[client][MODEL] if client in self.kept else self.base

    def notes(self, client: int) -> Weights:
        """Return what the server noted when the client answered last; {} if it never did."""
        return self.kept[client][NOTES] if client in self.kept else {}


@dataclass(frozen=True, kw_only=True)
class PersonalModels(Strategy[PersonalState]):
    """A model of each client on the server; what is next for a client is made of several of them.

    A subclass writes ``combine``, and says with ``combined`` when it is asked for: ``when sent``,
    for what clients train from, so that the server keeps and serves what they trained; or ``when
    trained``, so that what it makes takes the place of what they trained. It may write ``train``,
    say with ``beside`` what clients report beside their model and with ``noted`` what becomes of
    it, and with ``keeps`` that the server keeps only some tensors of each client: the others are
    the base's.

    ``base`` is the mean, weighted by examples, of what the clients of a round trained: of the
    answers alone, so that a round of a few clients does not read the models of all. A client that
    never trained is served the base. Only the models of those that answered are replaced; an
    absent client's is as old as its last answer. Models are kept in memory as long as they are
    few, and in a file of the run folder beyond.

    ``batch_norm`` says what becomes of batch-norm layers. ``shared``: they are part of a model like
    everything else. ``local``: they stay on the client (FedBN). ``reestimate``: as ``shared``, and
    the base's statistics are measured anew as FedAvg's are; the clients' models keep theirs.
    """

    query_types: ClassVar[tuple[str, ...]] = FedAvg.query_types
    leaves: ClassVar[Mapping[str, str]] = FedAvg.told_of() | {
        "train": "the trained model; the server keeps it as this client's",
    }
    combined: ClassVar[Literal["when sent", "when trained"]]
    personal_is: ClassVar[str] = "on the server"
    unseen_get: ClassVar[str] = "the mean model"

    model: nn.Module = from_run()  # the architecture; its weights are never read
    training: LocalTraining = from_run(default_factory=LocalTraining)
    batch_norm: str = from_run(default="shared")

    storage: StateStorage = field(default_factory=StateStorage, repr=False, compare=False)

    @abstractmethod
    def combine(
        self, state: PersonalState, clients: Sequence[int], round: int
    ) -> Iterator[Weights]:
        """Yield what is next for each of ``clients``, [...], made of the models in ``state``.

        One after the other, in their order, so that they are never in memory all at once;
        ``mixtures`` makes sums of models in this way. When sent, it is all that the client
        receives: a model, or several under other names (``candidates.join_models``). When trained,
        ``clients`` are those that answered, ``state`` has what they trained, and what is yielded
        has the names of what is kept.
        """

    def train(self, cohort: Cohort, received: Weights) -> Update:
        """Train the clients of ``cohort`` from what each received, [D, ...]."""
        return self._average.train_shared(cohort, received)

    def keeps(self, model: nn.Module) -> frozenset[str]:
        """Name the tensors of ``model`` that the server keeps of each client; a selector."""
        return everything(model)

    def beside(self) -> Weights:
        """Return names, shapes and types of what a client reports beside its model, [...].

        It is the answer's ``report``; values are not looked at.
        """
        return {}

    def noted(self, state: PersonalState, round: int, client: int, report: Weights) -> Weights:
        """Return what the server notes of a client that answered; by default its report.

        Args:
            state: Before the round, with what was noted before.

        """
        return report

    def extras(self, start: Weights) -> Weights:
        """Return tensors that are shared beside the network's; see ``SharedModel.extras``."""
        return {}

    @final
    def local(self, purpose: str = "train") -> tuple[Optimizer, Schedule]:
        """Return the run's optimiser and schedule; see ``SharedModel.local``."""
        return self._average.local(purpose)

    @final
    def sending(self, cohort: Cohort, fitted: Fitted) -> Update:
        """Return the answer with trained weights; what stays goes into the client's state."""
        return self._average.sending(cohort, fitted)

    @cached_property
    def travels(self) -> frozenset[str]:
        """Names of the network's tensors that clients send: all but batch norm that is local."""
        stays = norms(self.model) if self.batch_norm == "local" else frozenset()
        return everything(self.model) - stays

    @final
    def mixtures(
        self, state: PersonalState, of: Sequence[int], shares: Tensor
    ) -> Iterator[Weights]:
        """Yield sum_j shares[d, j] w_j, [...], for each row d, over the models of clients ``of``.

        Sums are in float64 and in the order of ``of``. A model is read once for several rows, and
        not at all if none has a share of it. Integers are those of the first model.

        Args:
            shares: [D, len(of)].

        """
        base = state.model(of[0])
        floats = {n: t for n, t in base.items() if t.is_floating_point()}
        size = sum(8 * t.numel() for t in floats.values())
        for rows in shares.double().split(max(1, AT_ONCE // max(1, size))):
            sums = {n: rows.new_zeros((len(rows), t.numel())) for n, t in floats.items()}
            for j, client in enumerate(of):
                if rows[:, j].any():
                    model = state.model(client)
                    for n, total in sums.items():
                        total.addr_(rows[:, j], model[n].double().flatten())
            for d in range(len(rows)):
                made = {n: sums[n][d].view(t.shape).to(t.dtype) for n, t in floats.items()}
                yield base | made

    @final
    def staying(self) -> Collection[str]:
        return everything(self.model) - self.travels

    @final
    def prepare(self, server: ServerSide) -> Self:
        return replace(self, storage=StateStorage(server.folder))

    @final
    def begin(self, start: Weights, clients: Sequence[int]) -> PersonalState:
        return PersonalState(start | self.extras(start))

    @final
    def actions(self, state: PersonalState, round: int) -> tuple[str, ...]:
        return self._average.actions(state.base, round)

    @final
    def send(self, state: PersonalState, action: str, round: int, clients: Sequence[int]) -> Sent:
        sent = self._average.send(state.base, action, round, clients)
        if action != "train":
            return sent._replace(weights=self._of_network(sent.weights))
        if self.combined == "when trained":
            return sent._replace(weights=self._models(state, clients))
        return sent._replace(weights=_stacked(self.combine(state, clients, round), len(clients)))

    @final
    def answer(self, action: str, cohort: Cohort, received: Sent) -> Update:
        if action != "train":
            return self._average.answer(action, cohort, received)
        weights = received.weights
        if everything(self.model) <= weights.keys():  # one model, and not several
            weights = self.localise(cohort, weights)
        return self.train(cohort, weights)

    @final
    def expected(self, action: str, sent: Weights) -> Weights:
        if action != "train":
            return self._average.expected(action, sent)
        return self._average.expected(action, self.answered(sent))

    @final
    def expected_report(self, action: str, sent: Weights) -> Weights:
        return self.beside() if action == "train" else {}

    def answered(self, sent: Weights) -> Weights:
        """Return names, shapes and types of the model that a client answers with, [...].

        By default those of what it received; values are not looked at.
        """
        return sent

    @final
    def validation_errors(self, action: str, update: Update) -> Mapping[int, str]:
        """A report has to consist of what ``beside`` says."""
        if action != "train":
            return {}
        expected = Expected.of(self.beside())
        fault = expected.names_fault(update.report, "report")
        for name, spec in expected.arrays.items() if not fault else ():
            t = update.report[name]
            if (tuple(t.shape[1:]), t.dtype) != spec:
                fault = (
                    f"report {name!r}: {word(t.dtype)} of shape {tuple(t.shape[1:])}, expected "
                    f"{word(spec.dtype)} of shape {spec.shape}"
                )
        return dict.fromkeys(range(len(update.num_examples)), fault) if fault else {}

    @final
    def merge(
        self, state: PersonalState, action: str, round: int, answers: Iterable[Answers]
    ) -> PersonalState:
        if action != "train":
            return replace(state, base=self._average.merge(state.base, action, round, answers))
        kept: dict[int, Mapping[str, Weights]] = {}
        base = self._average.merge(
            state.base, action, round, self._keeping(state, round, answers, kept)
        )
        trained = PersonalState(base, dict(sorted({**state.kept, **kept}.items())))
        if self.combined == "when sent" or not kept:
            return trained
        next_ones = dict(trained.kept)
        clients = sorted(kept)
        for client, model in zip(clients, self.combine(trained, clients, round), strict=True):
            next_ones[client] = self.storage.put({MODEL: model, NOTES: trained.notes(client)})
        return PersonalState(base, next_ones)

    @final
    def models(self, state: PersonalState, clients: Sequence[int]) -> Mapping[str, Weights]:
        base = self._of_network(repeat(state.base, len(clients)))
        personal = self._of_network(self._models(state, clients))
        more = self.more_models(state, clients)
        return {"base": base, "personal": personal} | {
            name: self._of_network(_stacked(each, len(clients))) for name, each in more.items()
        }

    def more_models(
        self, state: PersonalState, clients: Sequence[int]
    ) -> Mapping[str, Iterator[Weights]]:
        """Return further models to be evaluated, by name, [...] for each client in turn."""
        return {}

    @final
    def localise(self, cohort: Cohort, weights: Weights, model: str = "base") -> Weights:
        return self._average.localise(cohort, weights)

    @final
    def pack(self, state: PersonalState) -> tuple[dict[str, Tensor], Metadata]:
        return state.base, {}

    @final
    def unpack(self, tensors: dict[str, Tensor], metadata: Metadata) -> PersonalState:
        return PersonalState(dict(tensors))

    @final
    def pack_clients(self, state: PersonalState) -> Mapping[int, Mapping[str, Weights]]:
        return state.kept

    @final
    def unpack_clients(
        self, state: PersonalState, clients: Mapping[int, Mapping[str, Weights]]
    ) -> PersonalState:
        kept = {client: self.storage.put(clients[client]) for client in sorted(clients)}
        return replace(state, kept=kept)

    @cached_property
    def _average(self) -> FedAvg:
        return FedAvg(model=self.model, training=self.training, batch_norm=self.batch_norm)

    @cached_property
    def _kept_names(self) -> frozenset[str]:
        return self.keeps(self.model) & self.travels

    def _of_network(self, weights: Weights) -> Weights:
        network = everything(self.model)
        return {n: t for n, t in weights.items() if n in network}

    def _models(self, state: PersonalState, clients: Sequence[int]) -> Weights:
        """The clients' models with what is shared beside them, [D, ...], as the server has them."""
        base = repeat(state.base, len(clients))
        if not any(client in state.kept for client in clients):
            return base
        own = _stacked(
            ({n: t for n, t in state.model(d).items() if n in self._kept_names} for d in clients),
            len(clients),
        )
        return base | own

    def _keeping(
        self,
        state: PersonalState,
        round: int,
        answers: Iterable[Answers],
        kept: dict[int, Mapping[str, Weights]],
    ) -> Iterator[Answers]:
        """Pass ``answers`` on, and put what the server keeps of each client into ``kept``."""
        for some in answers:
            for d, client in enumerate(some.clients if some.update is not None else ()):
                update: Any = some.update
                model = {n: t for n, t in row(update.weights, d).items() if n in self._kept_names}
                notes = self.noted(state, round, client, row(update.report, d))
                kept[client] = self.storage.put({MODEL: model, NOTES: notes})
            yield some


def _stacked(models: Iterable[Weights], count: int) -> Weights:
    """Stack ``count`` models, which are in memory one at a time."""
    stack: Weights = {}
    for d, model in enumerate(models):
        if not stack:
            stack = {n: t.new_empty((count, *t.shape)) for n, t in model.items()}
        for n, rows in stack.items():
            rows[d] = model[n]
    return stack
