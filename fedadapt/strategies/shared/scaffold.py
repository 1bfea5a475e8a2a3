"""SCAFFOLD: control variates take the clients' drift out of local training.

Karimireddy et al. 2020, "SCAFFOLD: Stochastic controlled averaging for federated learning",
algorithm 1 with option II.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedadapt.client.cohort import Cohort
from fedadapt.client.fit import Sgd, fit
from fedadapt.client.step_rules import Oracle
from fedadapt.messages import Answers, Sent, Update
from fedadapt.objectives import Batch
from fedadapt.parameters import from_run, param
from fedadapt.selectors import norms
from fedadapt.strategies.base import LocalTraining, Metadata, Strategy
from fedadapt.strategies.shared.fedavg import FedAvg
from fedadapt.weights import Weights, repeat

CONTROL = "c/"  # before the names of control variates


@dataclass(frozen=True, eq=False)
class ScaffoldState:
    """What the server knows."""

    shared: Weights
    control: Weights  # c, of every parameter that is shared
    num_clients: int  # that train


@dataclass(frozen=True, kw_only=True)
class Scaffold(Strategy[ScaffoldState]):
    """FedAvg whose local steps go along g - c_i + c, without drift. Karimireddy et al. 2020.

    A client keeps c_i. After K steps of rate eta from x to y it is c_i - c + (x - y) / (K eta), the
    mean gradient on its way; y and c + the change of c_i go up, twice FedAvg's traffic. The server
    moves by ``server_rate`` towards the mean, and c by the mean change times the share of clients
    that answered. Means are weighted by examples, where the paper's clients are alike.

    The step must be plain for this: there is no momentum. Buffers have no control variates and are
    averaged; nor do batch-norm layers that stay on the client. It is a method for the shared model:
    a client makes it its own by a local adaptation.
    """

    query_types = FedAvg.query_types
    leaves: ClassVar[Mapping[str, str]] = FedAvg.told_of() | {
        "train": "the trained model and its control variate"
    }
    ignores = frozenset({"optimizer", "momentum"})
    client_keeps = "its control variate"

    model: nn.Module = from_run()  # the architecture; its weights are never read
    training: LocalTraining = from_run(default_factory=LocalTraining)
    batch_norm: str = from_run(default="shared")
    server_rate: float = param(1.0, "step of the server towards the mean", above=0)

    def begin(self, start: Weights, clients: Sequence[int]) -> ScaffoldState:
        zero = {f"{CONTROL}{n}": torch.zeros_like(start[n]) for n in self._controlled}
        return ScaffoldState(self._average.begin(start, clients), zero, len(clients))

    def actions(self, state: ScaffoldState, round: int) -> tuple[str, ...]:
        return self._average.actions(state.shared, round)

    def send(self, state: ScaffoldState, action: str, round: int, clients: Sequence[int]) -> Sent:
        sent = state.shared | state.control if action == "train" else state.shared
        return self._average.send(sent, action, round, clients)

    def answer(self, action: str, cohort: Cohort, received: Sent) -> Update:
        if action != "train":
            return self._average.answer(action, cohort, received)
        c = {n: received.weights[f"{CONTROL}{n}"] for n in self._controlled}
        own = cohort.state("control", {n: torch.zeros_like(t) for n, t in c.items()})
        network = {n: received.weights[n] for n in self.model.state_dict()}
        shared = self._average.localise(cohort, network)
        given, schedule = self.training.optimizer, self.training.schedule
        sgd = Sgd(given.learning_rate, weight_decay=given.weight_decay)
        correction = {n: c[n] - own[n] for n in c}
        fitted = fit(cohort, shared, Corrected(sgd), schedule, state=correction)
        steps = [schedule.num_batches(len(split.train)) for split in cohort.splits]
        change = {}
        for n, t in c.items():
            way = sgd.learning_rate * t.new_tensor(steps).view(-1, *[1] * (t.dim() - 1))
            change[n] = (shared[n] - fitted.weights[n]) / way - t
        update = self._average.sending(cohort, fitted)
        sent = update.weights | {f"{CONTROL}{n}": c[n] + t for n, t in change.items()}
        return replace(update, weights=sent).keeping(control={n: own[n] + change[n] for n in own})

    def expected(self, action: str, sent: Weights) -> Weights:
        return self._average.expected(action, sent)

    def merge(
        self, state: ScaffoldState, action: str, round: int, answers: Iterable[Answers]
    ) -> ScaffoldState:
        if action != "train":
            shared = self._average.merge(state.shared, action, round, answers)
            return replace(state, shared=shared)
        answered: list[int] = []
        before = state.shared | state.control
        mean = self._average.merge(before, action, round, _noting(answers, answered))
        share, rate = len(answered) / state.num_clients, self.server_rate
        if not answered:
            return state
        control = {n: t + share * (mean[n] - t) for n, t in state.control.items()}
        shared = {n: mean[n] for n in state.shared}
        if rate != 1:
            shared |= {n: before[n] + rate * (shared[n] - before[n]) for n in self._controlled}
        return replace(state, shared=shared, control=control)

    def models(self, state: ScaffoldState, clients: Sequence[int]) -> Mapping[str, Weights]:
        return {"base": repeat(state.shared, len(clients))}

    def localise(self, cohort: Cohort, weights: Weights, model: str = "base") -> Weights:
        return self._average.localise(cohort, weights, model)

    def pack(self, state: ScaffoldState) -> tuple[dict[str, Tensor], Metadata]:
        return state.shared | state.control, {"clients": state.num_clients}

    def unpack(self, tensors: dict[str, Tensor], metadata: Metadata) -> ScaffoldState:
        control = {n: t for n, t in tensors.items() if n.startswith(CONTROL)}
        shared = {n: t for n, t in tensors.items() if n not in control}
        return ScaffoldState(shared, control, int(str(metadata["clients"])))

    @cached_property
    def _average(self) -> FedAvg:
        return FedAvg(model=self.model, training=self.training, batch_norm=self.batch_norm)

    @cached_property
    def _controlled(self) -> list[str]:
        """The parameters that are shared."""
        local = norms(self.model) if self.batch_norm == "local" else frozenset[str]()
        return [n for n, _ in self.model.named_parameters() if n not in local]


@dataclass(frozen=True)
class Corrected:
    """A step rule: SGD along the gradient and a correction, which is the rule's state."""

    sgd: Sgd

    def begin(self, params: Weights) -> Weights:
        return {n: torch.zeros_like(t) for n, t in params.items()}

    def step(self, oracle: Oracle, params: Weights, batch: Batch, state: Weights) -> Tensor:
        grads, loss = oracle(params, batch)
        self.sgd.update(params, grads | {n: grads[n] + t for n, t in state.items()}, {})
        return loss


def _noting(answers: Iterable[Answers], answered: list[int]) -> Iterator[Answers]:
    """Pass ``answers`` on, and note the clients that answered."""
    for some in answers:
        answered += some.clients
        yield some
