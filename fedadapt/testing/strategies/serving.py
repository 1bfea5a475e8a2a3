"""The rule for the models that clients get, those that never trained among them."""

from collections.abc import Sequence

import torch

from fedadapt.client.evaluation import evaluate
from fedadapt.simulations.worker import Worker
from fedadapt.testing.assertions import require, require_finite, require_names
from fedadapt.testing.setups import Arguments, Setup, begin, setups
from fedadapt.testing.trial import Trial
from fedadapt.weights import Weights


def unseen_clients_are_served(name: str, arguments: Arguments | None = None) -> None:
    """Every client has finite models that fit the network, before round 1 and after each round.

    A client that never trained has no state, and the server has never heard of it.
    """
    with setups(name, arguments) as cases:
        for setup in cases:
            trial, worker = begin(setup), setup.worker()
            _require_models(setup, trial, worker, 0)
            for number in range(1, setup.rounds + 1):
                trial.round(number)
                _require_models(setup, trial, worker, number)


def _require_models(setup: Setup, trial: Trial, worker: Worker, number: int) -> None:
    strategy, clients = trial.strategy, tuple(setup.everyone)
    by_task = list(strategy.models_by_task(trial.state, clients))
    by_task = by_task or [(0, strategy.models(trial.state, clients))]  # nothing is learnt yet
    for task, models in by_task:
        require("base" in models, f"{setup.label}: after round {number} there is no base model")
        made = dict.fromkeys(strategy.made_on_client, models["base"])
        for model, weights in {**made, **models}.items():
            where = f"{setup.label}: after round {number}, {model} model"
            _require_model(trial, worker.at(task), clients, model, weights, where)


def _require_model(
    trial: Trial, worker: Worker, clients: Sequence[int], model: str, weights: Weights, where: str
) -> None:
    kept = trial.clients.states()
    cohort = worker.cohort(clients, 1, [kept.get(client, {}) for client in clients])
    served = trial.strategy.localise(cohort, weights, model)
    network = cohort.model.state_dict()
    require_names(served, network, where)
    for name, tensor in network.items():
        shape = (len(clients), *tensor.shape)
        served_shape = tuple(served[name].shape)
        require(
            served_shape == shape, f"{where}: {name} has shape {served_shape}, expected {shape}"
        )
        same = served[name].is_floating_point() == tensor.is_floating_point()
        require(same, f"{where}: {name} has type {served[name].dtype}")
    require_finite(served, where)
    scores = evaluate(cohort, served, [split.test for split in cohort.splits])
    finite = torch.tensor([score.loss for score in scores]).isfinite()
    require(bool(finite.all()), f"{where}: its loss is not finite")
