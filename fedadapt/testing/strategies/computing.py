"""Rules for what clients compute: the same however, wherever and beside whom they are computed."""

import random

import numpy as np
import torch

from fedadapt.server.checks import Expected, validation_errors
from fedadapt.server.client_states import ClientStates
from fedadapt.simulations.engines.in_process import InProcessClients
from fedadapt.simulations.engines.processes import ProcessClients
from fedadapt.testing.assertions import require, require_close, require_finite, require_same
from fedadapt.testing.setups import Arguments, Setup, begin, few_setups, setups, trial_with
from fedadapt.testing.strategies.saving import require_same_models
from fedadapt.testing.trial import Trial
from fedadapt.weights import Weights


def stacked_is_alone(name: str, arguments: Arguments | None = None) -> None:
    """Clients computed together, by kernels or by ``vmap``, answer as each does alone."""
    with setups(name, arguments) as cases:
        for setup in cases:
            alone = begin(setup).run(setup.rounds)
            for execution in setup.executions:
                together = begin(setup, execution, len(setup.everyone)).run(setup.rounds)
                where = f"{setup.label}: {execution}"
                _require_same_answers(together, alone, where, setup.limits)
                require_same_models(together, alone, setup.everyone, where, setup.limits)


def _require_same_answers(
    found: Trial, wanted: Trial, where: str, limits: dict[str, float]
) -> None:
    exchanges = [(e.round, e.action) for e in found.exchanges]
    expected = [(e.round, e.action) for e in wanted.exchanges]
    require(exchanges == expected, f"{where}: exchanges {exchanges}, expected {expected}")
    for exchange, other in zip(found.exchanges, wanted.exchanges, strict=True):
        for client, answer in other.by_client.items():
            label = f"{where}, round {exchange.round}, {exchange.action}, client {client}"
            require(client in exchange.by_client, f"{label}: no answer")
            require_close(exchange.by_client[client], answer, label, limits)


def any_engine_is_any_engine(name: str, arguments: Arguments | None = None) -> None:
    """Worker processes give the bits that this process gives, in every round."""
    with few_setups(name, arguments) as cases:
        for setup in cases:
            worker = setup.worker()
            here = InProcessClients(worker, cohort_size=2, client_states=ClientStates())
            with here:
                wanted = trial_with(setup, worker, here).run(setup.rounds)
            worker = setup.worker()
            there = ProcessClients(
                worker, num_workers=2, cohort_size=2, client_states=ClientStates()
            )
            with there:
                in_processes = trial_with(setup, worker, there).run(setup.rounds)
            where = f"{setup.label}: in worker processes"
            for exchange, other in zip(in_processes.exchanges, wanted.exchanges, strict=True):
                for client, answer in other.by_client.items():
                    label = f"{where}, round {exchange.round}, {exchange.action}, client {client}"
                    require_same(exchange.by_client[client], answer, label)
            require_same(in_processes.packed(), wanted.packed(), f"{where}, state of the server")


def answers_are_as_expected(name: str, arguments: Arguments | None = None) -> None:
    """Answers have the names, shapes and types of ``expected``, and pass every check of a run.

    The same for a cohort of one and for several clients together.
    """
    with few_setups(name, arguments) as cases:
        for setup in cases:
            for size in (1, len(setup.everyone)):
                trial = begin(setup, cohort_size=size).run(setup.rounds)
                for exchanged in trial.exchanges:
                    where = f"{setup.label}: round {exchanged.round}, {exchanged.action}"
                    shapes = Expected.of(exchanged.expected)
                    for answers in exchanged.answers:
                        errors = dict(validation_errors(answers, shapes, None))
                        if not errors and answers.update is not None:
                            action = exchanged.action
                            errors = dict(trial.strategy.validation_errors(action, answers.update))
                        faults = "; ".join(dict.fromkeys(errors.values()))
                        require(not errors, f"{where}: {faults}")


def draws_from_the_cohort_only(name: str, arguments: Arguments | None = None) -> None:
    """Clients draw from the cohort's random streams: global generators are neither used nor moved.

    Whatever else a process draws would change the result otherwise, and no run could be repeated.
    """
    with few_setups(name, arguments) as cases:
        for setup in cases:
            trials = [_seeded(setup, seed) for seed in (1, 2)]
            for exchange, other in zip(*(trial.exchanges for trial in trials), strict=True):
                for client, answer in other.by_client.items():
                    where = (
                        f"{setup.label}: round {exchange.round}, {exchange.action}, client {client}"
                    )
                    label = f"{where}, under another seed of the global generators"
                    require_same(exchange.by_client[client], answer, label)
            label = f"{setup.label}: the server's state under another seed of global generators"
            require_same(trials[0].packed(), trials[1].packed(), label)


def _seeded(setup: Setup, seed: int) -> Trial:
    """Run a trial after seeding the global generators, and put them back as they were."""
    numpy, python = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            random.seed(seed)
            before = torch.random.get_rng_state()
            trial = begin(setup).run(setup.rounds)
            moved = not torch.equal(before, torch.random.get_rng_state())
            require(not moved, f"{setup.label}: torch's global generator was moved")
    finally:
        np.random.set_state(numpy)  # noqa: NPY002
        random.setstate(python)
    return trial


def client_states_survive(name: str, arguments: Arguments | None = None) -> None:
    """What a client keeps is its own, and a client that missed a round works beside others.

    In round 1 a client is missing, so in round 2 one of the cohort has no state yet; it must be
    computed together with the others as it is alone.
    """
    with few_setups(name, arguments) as cases:
        for setup in cases:
            rounds = min(setup.rounds, 2)
            late = setup.seen[len(setup.seen) // 2]
            early = tuple(client for client in setup.seen if client != late)
            trials = []
            for execution, size in (("sequential", 1), ("stacked-kernels", len(setup.seen))):
                trial = begin(setup, execution, size)  # type: ignore[arg-type]
                trial.round(1, early)
                trial.run(rounds, first=2)
                trials.append(trial)
            alone, together = trials
            where = f"{setup.label}: client {late} missed round 1"
            _require_same_answers(together, alone, where, setup.limits)
            for trial in trials:
                for client, parts in trial.clients.states().items():
                    for part, weights in parts.items():
                        label = f"{where}, client {client} keeps {part}"
                        require_finite(weights, label)
            _require_own_models(setup, alone, where)


def _require_own_models(setup: Setup, trial: Trial, where: str) -> None:
    """A model that a client makes is not the base model, and depends on what the client kept."""
    strategy, worker = trial.strategy, setup.worker()
    first = setup.seen[:1]
    kept = trial.clients.states().get(setup.seen[0], {})
    for model in strategy.made_on_client:
        models = strategy.models(trial.state, first)
        weights = models.get(model, models["base"])
        personal = strategy.localise(worker.cohort(first, 1, [kept]), weights, model)
        base = strategy.localise(worker.cohort(first, 1, [kept]), models["base"])
        label = f"{where}: the {model} model of a client is the base model"
        require(_differ(personal, base), label)
        if kept:
            without = strategy.localise(worker.cohort(first, 1), weights, model)
            label = f"{where}: the {model} model of a client does not depend on its state"
            require(_differ(personal, without), label)


def _differ(weights: Weights, others: Weights) -> bool:
    return any(not torch.equal(weights[n], t) for n, t in others.items())
