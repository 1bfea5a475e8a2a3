"""TAPER, federated: clients train the bases and the mixer.

After Chen et al. 2023, "Train-once-for-all personalization", sections 3.2 and 3.3. The paper's
training is not federated; see ``taper_server.py`` for it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from fedadapt.client.class_selection import with_classes
from fedadapt.client.cohort import Cohort
from fedadapt.messages import Answers, Sent, Update
from fedadapt.parameters import param
from fedadapt.server.aggregation import StreamingMean
from fedadapt.server.clustering.grouping import group_clients, nearest
from fedadapt.strategies.clustered_models import until_quorum_fails
from fedadapt.strategies.generated.descriptions import class_shares, no_descriptions
from fedadapt.strategies.generated.mixtures import MIXER, warmed_up
from fedadapt.strategies.generated.task_mixtures import TASK, MixtureState, TaskMixtures
from fedadapt.strategies.shared.fedavg import FedAvg
from fedadapt.strategies.shared_model import average
from fedadapt.weights import Weights, repeat

DESCRIBE = "query.describe_task"


@dataclass(frozen=True, kw_only=True)
class Taper(TaskMixtures):
    """Mixes each client's network of bases by its task's description. After Chen et al. 2023.

    The paper trains once, on the server's own data, and asks users for their task alone: that is
    ``taper-server``. Here clients train, in its three stages: FedAvg of a generic network; FedAvg
    of ``bases`` copies of it, one for each group of clients with similar tasks; then all bases and
    the mixer together, each client through its own mixture. A description is the share of each
    class in the client's training images: it is told to the server, which learns from it which
    classes a client has.

    Every block of the network is mixed by a softmax of its own. A personal model answers the
    classes of its client alone, by its head. A client that never trained is asked for its
    description too and gets a mixture like all others, without any training.

    Before the third stage the mixer learns on the server, from descriptions alone, which base was
    made for which group: without that it stays near equal shares. That warm-up, the groups, and a
    mixer without batch norm are ours. In the third stage down and up go all bases and the mixer.
    Batch norm is mixed like everything else, and its statistics stay as the second stage left them.
    """

    query_types: ClassVar[tuple[str, ...]] = (DESCRIBE,)
    leaves: ClassVar[Mapping[str, str]] = {
        DESCRIBE: "the share of each class among the training images",
        "train": "the trained network; later all bases and the mixer, trained",
    }
    client_gets = "later all bases and the mixer"
    client_reports = "its share of each class, later all bases and the mixer"
    personal_is = "mixed on the server"
    unseen_get = "a mixture by their own description"
    batch_norm_is = "mixed like other tensors"

    bases: int = param(2, "networks that are mixed", at_least=1)
    warm_up: int = param(150, "steps of the mixer on the server before the last stage", at_least=0)

    @property
    def num_bases(self) -> int:
        return self.bases

    def actions(self, state: MixtureState, round: int) -> tuple[str, ...]:
        return (DESCRIBE, "train") if self._to_ask(state, round) else ("train",)

    def send(self, state: MixtureState, action: str, round: int, clients: Sequence[int]) -> Sent:
        if action == DESCRIBE:
            return Sent(self._to_ask(state, round), {}, {"server-round": round})
        stage = self.stage(round)
        state = self.with_bases(state, stage)
        if stage == "generic":
            weights = repeat(state.generic, len(clients))
        elif stage == "bases":
            groups = [self.group(state, client) for client in clients]
            weights = {n: torch.stack([state.bases[g][n] for g in groups]) for n in state.generic}
        else:
            weights = repeat(self.all_of(self._ready(state)), len(clients))
        return Sent(tuple(clients), weights, {"server-round": round, "stage": stage})

    def expected(self, action: str, sent: Weights) -> Weights:
        if action == DESCRIBE:
            return {TASK: torch.zeros(self.num_classes)}
        mixing = any(n.startswith(MIXER) for n in sent)
        return {n: t for n, t in sent.items() if not mixing or self.is_trained(n)}

    def validation_errors(self, action: str, update: Update) -> Mapping[int, str]:
        if action != DESCRIBE:
            return {}
        return no_descriptions(update.weights[TASK], self.num_classes)

    def answer(self, action: str, cohort: Cohort, received: Sent) -> Update:
        if action == DESCRIBE:
            return Update({TASK: self.describe_task(cohort)}, cohort.num_examples)
        if received.config["stage"] != "mixture":
            return self._average.train_shared(cohort, received.weights)
        tasks = self.describe_task(cohort).to(received.weights[f"{MIXER}0/weight"])
        optimizer, schedule = self.training.optimizer, self.training.schedule
        fitted = self.fit_mixture(cohort, received.weights, tasks, optimizer, schedule)
        return Update(fitted.extra, cohort.num_examples, {"loss": fitted.loss})

    def describe_task(self, cohort: Cohort) -> Tensor:
        """Return the share of each class in each client's training images, [D, C]."""
        return class_shares(cohort, self.num_classes)

    def merge(
        self, state: MixtureState, action: str, round: int, answers: Iterable[Answers]
    ) -> MixtureState:
        if action == DESCRIBE:
            return self._described(state, answers)
        stage = self.stage(round)
        state = self.with_bases(state, stage)
        if stage == "generic":
            return replace(state, generic=average(state.generic, answers))
        if stage == "bases":
            return self._grouped_average(state, answers)
        received = self.all_of(self._ready(state))
        after = average(received, answers)
        return state if after is received else self.parted(state, after)  # or nobody answered

    def models(self, state: MixtureState, clients: Sequence[int]) -> Mapping[str, Weights]:
        base = repeat(state.generic, len(clients))
        if not state.bases or not state.tasks:
            return {"base": base, "personal": base}
        ready = self._ready(state)
        given = repeat(self.all_of(ready), len(clients))
        return {"base": base, "personal": self.mixture(given, self.tasks_of(ready, clients))}

    def localise(self, cohort: Cohort, weights: Weights, model: str = "base") -> Weights:
        if model == "base":
            return weights
        return with_classes(weights, self.head, self.describe_task(cohort) > 0)

    def group(self, state: MixtureState, client: int) -> int:
        """Return the base that a client trains in the second stage; without a task, the first."""
        if client not in state.tasks or not len(state.centroids):
            return 0
        return int(nearest(state.centroids, state.tasks[client].unsqueeze(0)))

    @cached_property
    def _average(self) -> FedAvg:
        return FedAvg(model=self.model, training=self.training)

    def _to_ask(self, state: MixtureState, round: int) -> tuple[int, ...]:
        """Name the clients that have to describe their task, sampled or not."""
        return () if self.stage(round) == "generic" else self.undescribed(state)

    def _described(self, state: MixtureState, answers: Iterable[Answers]) -> MixtureState:
        """Return the state with descriptions; the first time with groups, and a base for each."""
        grouped = len(state.centroids) > 0
        state = self.with_tasks(state, until_quorum_fails(answers) if grouped else answers)
        training = [task for client, task in state.tasks.items() if client not in self.newcomers]
        if grouped or not training:
            return state
        number = min(self.bases, len(training))
        grouping = group_clients(
            torch.stack(training), groups=number, method="exact", seed=self.seed
        )
        return self.with_bases(replace(state, centroids=grouping.centroids), "bases")

    def _grouped_average(self, state: MixtureState, answers: Iterable[Answers]) -> MixtureState:
        means = [StreamingMean() for _ in state.bases]
        for some in answers:
            if some.update is None:
                continue
            for d, client in enumerate(some.clients):
                if client in state.tasks:
                    one = {n: t[d : d + 1] for n, t in some.update.weights.items()}
                    examples = some.update.num_examples[d : d + 1]
                    means[self.group(state, client)].add(one, examples)
        bases = [
            base if mean.empty else base | mean.result()
            for base, mean in zip(state.bases, means, strict=True)
        ]
        return replace(state, bases=tuple(bases))

    def _ready(self, state: MixtureState) -> MixtureState:
        """Return the state with a mixer that has been warmed up."""
        known = {client: task for client, task in state.tasks.items() if client in state.clients}
        if state.warm or not self.warm_up or not known:
            return state
        groups = torch.tensor([self.group(state, client) for client in known])
        tasks = torch.stack([*known.values()])
        mixer = warmed_up(state.mixer, tasks, groups, self.num_blocks, self.warm_up)
        return replace(state, mixer=mixer, warm=True)
