"""IFCA: several models, of which every client trains the one that fits its images best.

Ghosh et al. 2020, "An efficient framework for clustered federated learning", algorithm 1, model
averaging.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fedadapt.client.candidates import best_of, join_models, pick, split_models
from fedadapt.client.cohort import Cohort
from fedadapt.client.evaluation import evaluate
from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.messages import Answers, Sent, Update
from fedadapt.parameters import from_run, param
from fedadapt.random_streams import stream
from fedadapt.strategies.base import LocalTraining, Metadata, Strategy
from fedadapt.strategies.clustered.starts import Starts, mean_loss
from fedadapt.strategies.clustered_models import reported, until_quorum_fails
from fedadapt.strategies.clusters import Clusters
from fedadapt.strategies.shared.fedavg import FedAvg
from fedadapt.strategies.shared_model import STATISTICS
from fedadapt.weights import Weights, repeat

CHOICE = "choice"
JUDGE = "query.ifca_loss"
LOSS = "loss"


@dataclass(frozen=True, kw_only=True)
class IFCA(Strategy[Starts]):
    """Several models; each client trains the one of least loss on its images. Ghosh et al. 2020.

    All models go to every client of a round. It sends back the one that it chose and trained, and
    which one that was, so the server learns who is in which cluster; a model is averaged over the
    clients that chose it, by their numbers of images, and stays as it is where none did. With one
    model it is FedAvg, to the bit.

    A client is served the model of least loss on its training images; one that has not trained
    yet chooses by its adapt images, which have to be labelled. Test images are never looked at,
    unlike in the released code. ``base`` is the model that most clients chose. Choices are made in
    evaluation mode, and every model averages its own batch-norm statistics.

    The models have to begin apart. The first is the run's initial model, the others are that with
    the entries of each parameter shuffled: they are as likely under the network's own
    initialisation, whichever that is. A model that fits nobody at first may never be chosen: give
    twice as many as there are clusters, or let ``restarts`` more starts be tried (ours), each for
    ``trial_rounds`` rounds, one after the other. At the end of each the clients of that round tell
    the least loss that a model of this start has on their adapt images; the start with the least
    mean goes on for the rest of the run from where its trial ended.
    """

    query_types: ClassVar[tuple[str, ...]] = (*FedAvg.query_types, JUDGE)
    leaves: ClassVar[Mapping[str, str]] = FedAvg.told_of() | {
        "train": "one of the models, trained, and which one it is",
        STATISTICS: f"{FedAvg.told_of()[STATISTICS]}; which model they are of",
        JUDGE: "the least loss that one of the models has on its adapt images, and their number",
    }
    client_keeps = "its choice"
    client_reports = "its choice, after a trial of starts its loss"
    personal_is = "on the server, one a cluster"
    unseen_get = "the model of least loss on their labelled adapt images"

    model: nn.Module = from_run()  # the architecture; its weights are never read
    training: LocalTraining = from_run(default_factory=LocalTraining)
    batch_norm: str = from_run(default="shared")
    seed: int = from_run(default=0)
    clusters: int = param(4, "models; twice as many as clusters are expected", at_least=1)
    restarts: int = param(0, "further random starts that are tried first; 0: none", at_least=0)
    trial_rounds: int = param(5, "rounds in which a start is tried", at_least=1)

    @classmethod
    def check(cls, arguments: Mapping[str, Any], config: RunConfig) -> None:
        if config.weights and arguments.get("clusters", 4) > 1:
            raise InputError(
                "weights: ifca begins with models at random, so the clusters would not begin from "
                "them; leave them out, or give --strategy-args clusters=1"
            )
        restarts, length = arguments.get("restarts", 0), arguments.get("trial_rounds", 5)
        if restarts and (restarts + 1) * length >= config.rounds:
            raise InputError(
                f"rounds: {config.rounds}; ifca tries {restarts + 1} starts for {length} rounds "
                "each and needs one after that: give more rounds, fewer restarts or trial_rounds"
            )
        if not restarts and "trial_rounds" in arguments:
            raise InputError("strategy-args: trial_rounds: goes with restarts; leave it out")

    def begin(self, start: Weights, clients: Sequence[int]) -> Starts:
        return Starts(self._start(start, 0, since=1), start if self.restarts else {})

    def actions(self, state: Starts, round: int) -> tuple[str, ...]:
        training = self._average.actions(state.models[0], round)
        # A round that failed is made up for: the trial ends with the next one.
        on_trial = bool(self.restarts) and state.tried <= self.restarts
        ends = on_trial and round >= (state.tried + 1) * self.trial_rounds
        return (*training, JUDGE) if ends else training

    def send(self, state: Starts, action: str, round: int, clients: Sequence[int]) -> Sent:
        models = repeat(join_models(state.models), len(clients))
        return Sent(tuple(clients), models, {"server-round": round})

    def answer(self, action: str, cohort: Cohort, received: Sent) -> Update:
        models = split_models(received.weights)
        if action == JUDGE:
            return self._judgement(cohort, models)
        # What is measured of batch norm is measured of the model that was trained in the round.
        choice = self._kept(cohort) if action != "train" else None
        if choice is None:
            choice = best_of(cohort, [self.localise(cohort, m) for m in models], "train")
        chosen = received._replace(weights=pick(models, choice))
        update = self._average.answer(action, cohort, chosen).keeping(choice={CHOICE: choice})
        return replace(update, report={CHOICE: choice})

    def expected(self, action: str, sent: Weights) -> Weights:
        return {} if action == JUDGE else self._average.expected(action, split_models(sent)[0])

    def expected_report(self, action: str, sent: Weights) -> Weights:
        if action == JUDGE:
            return {LOSS: torch.zeros(2, dtype=torch.float64)}
        return {CHOICE: torch.zeros((), dtype=torch.int64)}

    def validation_errors(self, action: str, update: Update) -> Mapping[int, str]:
        count = len(update.num_examples)
        if action == JUDGE:
            return {}
        choice = update.report.get(CHOICE)
        if choice is None or choice.shape != (count,) or choice.dtype != torch.int64:
            return dict.fromkeys(range(count), "it does not say which model it chose")
        return {
            d: f"it chose model {k} of {self.clusters}"
            for d, k in enumerate(choice.tolist())
            if not 0 <= k < self.clusters
        }

    def merge(self, state: Starts, action: str, round: int, answers: Iterable[Answers]) -> Starts:
        if action == JUDGE:
            told = reported(until_quorum_fails(answers), LOSS, 2)
            return state.judged(mean_loss(told.values()))
        return replace(state, current=self._trained(state.current, action, round, answers))

    def end(self, state: Starts, round: int) -> Starts:
        if not state.is_judged:
            return state
        if state.tried <= self.restarts:
            following = self._start(state.initial, state.tried, since=round + 1)
            return replace(state, current=following, is_judged=False)
        return Starts(state.best or state.current, {}, state.tried)

    def _trained(
        self, state: Clusters, action: str, round: int, answers: Iterable[Answers]
    ) -> Clusters:
        of = dict(state.of)
        answers = _noting(answers, of)
        if action == "train":
            clusters = state.trained(answers, of)
        else:  # batch-norm statistics: small, so those of a cluster can wait for each other
            parts = zip(state.models, state.parted(answers, of), strict=True)
            models = tuple(self._average.merge(m, action, round, part) for m, part in parts)
            clusters = replace(state, models=models)
        labels = torch.tensor([of[d] for d in sorted(of)], dtype=torch.int64)
        return replace(
            clusters, clients=tuple(sorted(of)), vectors=torch.zeros(len(of), 0), labels=labels
        )

    def models(self, state: Starts, clients: Sequence[int]) -> Mapping[str, Weights]:
        every = {"base": state.models[state.current.largest], "personal": join_models(state.models)}
        return {name: repeat(weights, len(clients)) for name, weights in every.items()}

    def localise(self, cohort: Cohort, weights: Weights, model: str = "base") -> Weights:
        if weights.keys() == self.model.state_dict().keys():  # one model, there is no choice
            return self._average.localise(cohort, weights)
        models = [self.localise(cohort, m) for m in split_models(weights)]
        trained = cohort.has(CHOICE)
        choice = torch.zeros(len(cohort), dtype=torch.int64)
        if trained.any():
            choice = best_of(cohort, models, "train")
        if not trained.all():
            choice = torch.where(trained, choice, best_of(cohort, models, "adapt"))
        return pick(models, choice)

    def describe(self, state: Starts) -> dict[str, Metadata]:
        if not state.current.clients:
            return {}
        how = {"found_by": "the loss of several models", "models": self.clusters}
        return {"groups": state.current.members() | how}

    def pack(self, state: Starts) -> tuple[dict[str, Tensor], Metadata]:
        return state.pack()

    def unpack(self, tensors: dict[str, Tensor], metadata: Metadata) -> Starts:
        return Starts.unpack(tensors, metadata)

    def _start(self, initial: Weights, number: int, since: int) -> Clusters:
        """Draw the models of a start: the initial model, and shuffled ones."""
        names = {n for n, _ in self.model.named_parameters()}
        models = [initial]
        for k in range(1, self.clusters):
            generator = stream(self.seed, "ifca", k + number * self.clusters)
            models.append(
                {n: _drawn(t, generator) if n in names else t for n, t in initial.items()}
            )
        nobody = torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)
        nowhere = torch.zeros(self.clusters, 0, dtype=torch.float64)
        return Clusters((), *nobody, nowhere, tuple(models), since=since, quality=float("nan"))

    def _judgement(self, cohort: Cohort, models: Sequence[Weights]) -> Update:
        """Each client's least mean loss on its adapt images, and how many there are."""
        images = cohort.part("adapt")
        scores = [evaluate(cohort, self.localise(cohort, model), images) for model in models]
        losses = torch.tensor([[one.loss for one in row] for row in scores], dtype=torch.float64)
        least = losses.nan_to_num(nan=torch.inf).amin(0)
        counts = torch.tensor([len(some) for some in images]).to(least)
        report = {LOSS: torch.stack([least, counts], 1)}
        return Update({}, torch.ones_like(least), report=report)

    @cached_property
    def _average(self) -> FedAvg:
        return FedAvg(model=self.model, training=self.training, batch_norm=self.batch_norm)

    def _kept(self, cohort: Cohort) -> Tensor | None:
        """What the clients chose last, [D]; None where one of them never did."""
        if not cohort.has(CHOICE).all():
            return None
        return cohort.state(CHOICE, {})[CHOICE]


def _drawn(tensor: Tensor, generator: np.random.Generator) -> Tensor:
    """The entries of a random tensor in another order."""
    order = torch.from_numpy(generator.permutation(tensor.numel()))
    return tensor.flatten()[order].view(tensor.shape)


def _noting(answers: Iterable[Answers], of: dict[int, int]) -> Iterator[Answers]:
    """Pass ``answers`` on, and write down in ``of`` what each client chose."""
    for some in answers:
        if some.update is not None:
            of |= zip(some.clients, some.update.report[CHOICE].tolist(), strict=True)
            yield some
