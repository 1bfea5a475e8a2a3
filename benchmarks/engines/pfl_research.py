"""pfl-research (apple): its simulated backend, started by torchrun with one process a core."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.internal.ops.selector import get_framework_module
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor

from benchmarks.clock import Clock, Enough
from benchmarks.works import Clients, Work, network


def run(work: Work, clock: Clock) -> None:
    """Rounds until the clock of the first process has had enough."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - pfl draws from it
    clients = Clients(work)
    users = {d: Dataset(list(clients.scaled(d)), user_id=d) for d in range(work.clients)}

    def federated() -> FederatedDataset:
        turns: Iterator[int] = cycle(range(work.clients))  # each client once a round
        return FederatedDataset(users.__getitem__, lambda: next(turns))

    net: Any = network(work)
    net.loss = partial(_loss, net)
    net.metrics = partial(_metrics, net)
    model = PyTorchModel(
        model=net,
        local_optimizer_create=partial(torch.optim.SGD, momentum=work.momentum),
        central_optimizer=torch.optim.SGD(net.parameters(), 1.0),
        use_torch_compile=False,
    )
    backend = SimulatedBackend(
        training_data=federated(), val_data=federated(), postprocessors=[WeightByDatapoints()]
    )
    rounds = NNAlgorithmParams(
        central_num_iterations=10**6,
        evaluation_frequency=1,
        train_cohort_size=work.clients,
        val_cohort_size=work.clients if work.evaluated else 0,
    )
    OnceEvaluated(work.evaluated).run(
        algorithm_params=rounds,
        backend=backend,
        model=model,
        model_train_params=NNTrainHyperParams(
            local_learning_rate=work.lr, local_num_epochs=1, local_batch_size=work.batch
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[Ticking(clock)],
        send_metrics_to_platform=False,
    )


def _loss(net: Any, images: Tensor, labels: Tensor, eval: bool = False) -> Tensor:
    net.train()
    return F.cross_entropy(net(images), labels)


@torch.no_grad()
def _metrics(net: Any, images: Tensor, labels: Tensor, eval: bool = False) -> dict[str, Any]:
    net.eval()
    right = int((net(images).argmax(1) == labels).sum())
    return {"accuracy": Weighted(right, len(labels))}


class OnceEvaluated(FederatedAveraging):
    """FedAvg that scores each client once a round, not before its training as well."""

    def __init__(self, evaluated: bool) -> None:
        super().__init__()
        self._evaluated = evaluated

    def get_next_central_contexts(self, *given: Any, **named: Any) -> Any:
        contexts, model, metrics = super().get_next_central_contexts(*given, **named)
        if contexts is not None:
            train = replace(contexts[0], do_evaluation=False)
            contexts = (train, *contexts[1:]) if self._evaluated else (train,)
        return contexts, model, metrics


class Ticking(TrainingProcessCallback):
    """Ticks when a round is done; all processes end with the first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_train_begin(self, *, model: Any) -> Metrics:
        self._clock.tick(model.pytorch_model.state_dict)
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Any, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        leads = get_framework_module().distributed.global_rank == 0
        enough = torch.zeros(1)
        try:
            self._clock.tick(model.pytorch_model.state_dict)
        except Enough:
            enough += leads
        if torch.distributed.is_initialized():
            torch.distributed.broadcast(enough, 0)
        if enough and not leads:
            self._clock.forget()
        return bool(enough), Metrics()
