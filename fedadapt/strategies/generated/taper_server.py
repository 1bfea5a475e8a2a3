"""TAPER as in the paper: trained once on the server, a network for each task that is described.

Chen et al. 2023, "Train-once-for-all personalization", sections 3.2 to 3.4.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from fedadapt.client.class_selection import with_classes
from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.client.evaluation import logits_of
from fedadapt.client.fit import Fitted, StepRule
from fedadapt.client.step_rules import Adam
from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.messages import Answers, Sent, Update
from fedadapt.models.meta import on_meta
from fedadapt.parameters import from_run, param
from fedadapt.strategies.base import ServerSide
from fedadapt.strategies.clustered_models import until_quorum_fails
from fedadapt.strategies.generated.descriptions import (
    bag_of_words,
    class_shares,
    most_frequent,
    no_descriptions,
    with_domains,
)
from fedadapt.strategies.generated.mixtures import warmed_up
from fedadapt.strategies.generated.server_training import ServerTraining
from fedadapt.strategies.generated.server_training import Task as ServerTask
from fedadapt.strategies.generated.task_mixtures import TASK, MixtureState, TaskMixtures
from fedadapt.weights import Weights, repeat

DESCRIBE = "query.describe_task"
GUESS = "query.pseudo_labels"
WARM_UP_TASKS = 256


@dataclass(frozen=True, kw_only=True)
class TaperServer(TaskMixtures):
    """Trained once on the server's images; a network for each task. Chen et al. 2023.

    Clients never train. In each round the server goes ``local-epochs`` times through its own images
    (``server-share``): first for a generic network, the base model; then for copies of it, the
    bases, each on its shard of the images, which is a domain or some classes; at last for all bases
    and the mixer together, a mini-batch for each of many random tasks.

    A task is some classes of one domain. A client describes its own once: which classes its
    training images have, in equal shares, and its domain where the benchmark has several. The
    server learns both, and nothing else. Of the description the mixer makes shares of the bases,
    block by block, and the client gets one network of the usual size that answers its classes
    alone. Nothing is trained for a client, whether it was there from the beginning or not.

    With ``task=guessed`` clients tell no classes. In each round of the last stage a client gets the
    network it has so far, the generic one at first, and tells what that says of one batch of its
    unlabelled images, as a histogram. The ``most_classes`` most frequent classes are its task: the
    paper's self-specialisation, which takes the test stream for the batches; here they are training
    images. The domain is still told, unless ``use_domains=false``.

    The paper's descriptions are embeddings of the classes' names, or this bag of words; its tasks
    are drawn for each image of a batch, here for each batch. Its mixer has batch norm, this one has
    none. Stages share a learning rate. Batch norm is mixed like everything else, and its statistics
    stay as the second stage left them: networks without it are better off. There is a patent
    application on the method, US 2024/0362460.
    """

    query_types: ClassVar[tuple[str, ...]] = (DESCRIBE, GUESS)
    leaves: ClassVar[Mapping[str, str]] = {
        "train": "nothing: clients do not train",
        DESCRIBE: "which classes the training images have, and the domain",
        GUESS: "how often the network takes a batch for each class, and the domain",
    }
    client_gets = "its own network at the end; for `task=guessed` in each of the last rounds"
    client_reports = "once its classes and its domain"
    personal_is = "mixed on the server"
    unseen_get = "a mixture by their own description"
    batch_norm_is = "mixed like other tensors"
    samples_clients: ClassVar[bool] = False
    trains_on_server: ClassVar[bool] = True

    domains: tuple[str, ...] = from_run(default=())
    bases: int | None = param(
        None, "networks that are mixed (default: one a domain, or 2 without domains)", at_least=1
    )
    use_domains: bool = param(True, "descriptions name the domain, where there are several")
    fewest_classes: int = param(2, "classes of a task that the server draws, at least", at_least=1)
    most_classes: int | None = param(
        None, "classes of a task that the server draws, at most (default: all)", at_least=1
    )
    task: str = param(
        "told",
        "what a client tells of its classes: which, or what the network takes them for",
        choices=("told", "guessed"),
    )
    optimizer: str = param(
        "sgd", "steps of the server: the run's SGD, or Adam with its lr", choices=("sgd", "adam")
    )
    warm_up: int = param(
        0, "steps in which the mixer learns which base is for what, before the last stage; ours",
        at_least=0,
    )  # fmt: skip

    server: ServerTraining | None = field(default=None, compare=False)  # on the server alone

    @classmethod
    def check(cls, arguments: Mapping[str, Any], config: RunConfig) -> None:
        """Refuse a run in which a stage would have no round, or tasks no number of classes."""
        super().check(arguments, config)
        unused = sorted(config.changed & {"momentum", "weight-decay"})
        if arguments.get("optimizer") == "adam" and unused:
            raise InputError(f"{', '.join(unused)}: Adam has none; leave it out")
        _refuse_ways(arguments.get("fewest_classes", 2), arguments.get("most_classes"))

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_ways(self.fewest_classes, self.most_classes)

    def prepare(self, server: ServerSide) -> Self:
        if server.images is None or server.scaling is None:
            raise InputError(
                f"server-share: {server.config.benchmark} has no images of the server; "
                f"{server.config.strategy} needs some"
            )
        training = ServerTraining(
            model=on_meta(self.model, server.compute),
            images=server.images,
            scaling=server.scaling,
            rule=self._rule,
            training=self.training,
            seed=self.seed,
            num_classes=self.num_classes,
            num_domains=max(1, len(self.domains)),
            compute=server.compute,
            autocast=torch.bfloat16 if server.config.precision == "bf16" else None,
        )
        return replace(self, server=training)

    @property
    def num_bases(self) -> int:
        return self.bases or len(self.domains) or 2

    @property
    def num_domains(self) -> int:
        return len(self.domains) if self.use_domains else 0

    def actions(self, state: MixtureState, round: int) -> tuple[str, ...]:
        if self.task == "guessed":
            return (GUESS,) if self.stage(round) == "mixture" else ()
        return (DESCRIBE,) if self.undescribed(state) else ()

    def send(self, state: MixtureState, action: str, round: int, clients: Sequence[int]) -> Sent:
        if action == DESCRIBE:
            return Sent(self.undescribed(state), {}, {"server-round": round})
        everyone = tuple(sorted({*state.clients, *self.newcomers}))
        # Without class selection: a class that one batch has not shown may turn up in the next.
        weights = self._mixtures(self.with_bases(state, self.stage(round)), everyone)
        return Sent(everyone, weights, {"server-round": round})

    def travelling(self, start: Weights) -> tuple[Collection[str], Collection[str]]:
        return (), ()

    def expected(self, action: str, sent: Weights) -> Weights:
        return {TASK: torch.zeros(self.num_classes + self.num_domains)}

    def validation_errors(self, action: str, update: Update) -> Mapping[int, str]:
        if action not in self.query_types:
            return {}
        return no_descriptions(update.weights[TASK], self.num_classes)

    def answer(self, action: str, cohort: Cohort, received: Sent) -> Update:
        alike = torch.ones(len(cohort), dtype=torch.float64)  # how many images is not asked
        if action == DESCRIBE:
            classes = bag_of_words(class_shares(cohort, self.num_classes) > 0)
        else:
            classes = self._guessed(cohort, received.weights)
        if self.num_domains:
            domains = torch.tensor(cohort.domains, device=classes.device)
            classes = with_domains(classes, domains, self.num_domains)
        return Update({TASK: classes}, alike)

    def merge(
        self, state: MixtureState, action: str, round: int, answers: Iterable[Answers]
    ) -> MixtureState:
        # Training does not wait for those who do not answer.
        as_task = self._most if action == GUESS else Tensor.clone
        return self.with_tasks(state, until_quorum_fails(answers), as_task)

    def end(self, state: MixtureState, round: int) -> MixtureState:
        if self.server is None:
            raise InputError("taper-server: it trains where `prepare` has given it images")
        stage = self.stage(round)
        state = self.with_bases(state, stage)
        if stage == "generic":
            return replace(state, generic=self.server.generic(state.generic, round))
        if stage == "bases":
            return replace(state, bases=self.server.bases(state.bases, round))
        state = self._ready(state)
        given = self.all_of(state)
        trained = self.server.mixture(given, self._describe, self._fit, self._ways, round)
        return self.parted(state, trained)

    def models(self, state: MixtureState, clients: Sequence[int]) -> Mapping[str, Weights]:
        base, personal = repeat(state.generic, len(clients)), self._mixtures(state, clients)
        present = torch.ones(len(clients), self.num_classes, dtype=torch.bool)
        for d, client in enumerate(clients):
            if client in state.tasks:
                present[d] = state.tasks[client][: self.num_classes] > 0
        return {"base": base, "personal": with_classes(personal, self.head, present)}

    def _mixtures(self, state: MixtureState, clients: Sequence[int]) -> Weights:
        """Return the clients' networks [D, ...], which answer any class."""
        if not state.bases or not state.tasks:
            return repeat(state.generic, len(clients))
        return self.mixture(repeat(self.all_of(state), len(clients)), self.tasks_of(state, clients))

    @property
    def _rule(self) -> StepRule:
        sgd = self.training.optimizer
        return Adam(sgd.learning_rate) if self.optimizer == "adam" else sgd

    @property
    def _ways(self) -> tuple[int, int]:
        """The fewest and the most classes of a task that the server draws."""
        return self.fewest_classes, self.most_classes or self.num_classes

    def _guessed(self, cohort: Cohort, weights: Weights) -> Tensor:
        """Return the share of each class in what networks say of a batch, [D, C]."""
        some = cohort.subset(purpose=GUESS, most=self.training.batch_size)
        logits = logits_of(some, weights, some.part("train"))
        found = [torch.bincount(z.argmax(1), minlength=self.num_classes) for z in logits]
        counts = torch.stack(found).float()
        return counts / counts.sum(1, keepdim=True)

    def _most(self, task: Tensor) -> Tensor:
        """Return the description of the most frequent classes of a histogram, [C + G]."""
        classes = task[None, : self.num_classes]
        chosen = bag_of_words(most_frequent(classes, self.most_classes or self.num_classes))
        return torch.cat([chosen[0].to(task), task[self.num_classes :]])

    def _describe(self, task: ServerTask) -> Tensor:
        words = bag_of_words(task.present.unsqueeze(0))
        if not self.num_domains:
            return words
        return with_domains(words, torch.tensor([task.domain]), self.num_domains)

    def _fit(
        self,
        cohort: Cohort,
        given: Weights,
        task: Tensor,
        schedule: Schedule,
        state: Weights | None,
    ) -> Fitted:
        return self.fit_mixture(cohort, given, task, self._rule, schedule, state=state)

    def _ready(self, state: MixtureState) -> MixtureState:
        """Return the state with a mixer that has been warmed up, where it is asked for."""
        if state.warm or not self.warm_up or self.server is None:
            return state
        drawn = self.server.tasks_of_bases(WARM_UP_TASKS, self._ways, self.num_bases)
        tasks = torch.cat([self._describe(task) for task, _ in drawn])
        bases = torch.tensor([base for _, base in drawn])
        mixer = warmed_up(state.mixer, tasks, bases, self.num_blocks, self.warm_up)
        return replace(state, mixer=mixer, warm=True)


def _refuse_ways(fewest: int, most: int | None) -> None:
    if most is not None and most < fewest:
        raise InputError(f"strategy-args: most-classes {most} is below fewest-classes {fewest}")
