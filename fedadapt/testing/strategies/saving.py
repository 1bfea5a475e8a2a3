"""Rules for the state of a strategy: it survives a restart, and nothing changes it by stealth."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedadapt.messages import Answers, Failure, Update
from fedadapt.server.checkpoint import Checkpoint, load_latest, save
from fedadapt.strategies.base import Metadata, Strategy
from fedadapt.testing.assertions import require, require_close, require_same
from fedadapt.testing.setups import Arguments, Setup, begin, begin_in, few_setups, new_folder
from fedadapt.testing.trial import Exchanged, Trial, all_packed


def restores_from_a_checkpoint(name: str, arguments: Arguments | None = None) -> None:
    """A run that goes on from a checkpoint ends with the same bits, whenever it was cut off."""
    with few_setups(name, arguments) as cases:
        for setup in cases:
            whole = begin(setup)
            for number in range(1, setup.rounds + 1):
                resumed = _restored(setup, whole, number - 1)
                whole.round(number)
                resumed.round(number)
                where = f"{setup.label}: round {number} after a restart"
                _require_same_state(resumed, whole, where)
                require_same_models(resumed, whole, setup.everyone, where)


def _restored(setup: Setup, trial: Trial, done: int) -> Trial:
    """Return a new trial, in another process's place, from a checkpoint of ``trial``."""
    tensors, metadata = trial.strategy.pack(trial.state)
    with tempfile.TemporaryDirectory(prefix="fedadapt-contract-") as folder:
        states = {client: dict(parts) for client, parts in trial.clients.states().items()}
        of_server = trial.strategy.pack_clients(trial.state)
        save(Path(folder), Checkpoint(done, tensors, dict(metadata), states, of_server))
        loaded = load_latest(Path(folder))
    copy = new_folder(setup) / "run"
    shutil.copytree(trial.folder, copy)  # a run goes on in its own folder
    resumed = begin_in(setup, copy)
    state = resumed.strategy.unpack(loaded.tensors, loaded.metadata)
    resumed.state = resumed.strategy.unpack_clients(state, loaded.server_states)
    resumed.clients.restore(loaded.states)
    return resumed


def _require_same_state(found: Trial, wanted: Trial, where: str) -> None:
    require_same(found.packed(), wanted.packed(), f"{where}, state of the server")
    require(found.metadata() == wanted.metadata(), f"{where}: the state's metadata differ")
    states, expected = found.clients.states(), wanted.clients.states()
    require(states.keys() == expected.keys(), f"{where}: other clients have a state")
    for client, parts in expected.items():
        require(
            states[client].keys() == parts.keys(), f"{where}: client {client} keeps other parts"
        )
        for part, weights in parts.items():
            require_same(states[client][part], weights, f"{where}, client {client}, {part}")


def require_same_models(
    found: Trial, wanted: Trial, clients: Sequence[int], where: str, limits: Any = None
) -> None:
    """Require that both serve the same models; up to ``limits``, where they are given."""
    models, expected = found.models(clients), wanted.models(clients)
    require(
        models.keys() == expected.keys(), f"{where}: models {[*models]}, expected {[*expected]}"
    )
    for label, weights in expected.items():
        if limits is None:
            require_same(models[label], weights, f"{where}, {label} model")
        else:
            require_close(models[label], weights, f"{where}, {label} model", limits)


def order_of_answers_does_not_matter(name: str, arguments: Arguments | None = None) -> None:
    """The merge is the same in whatever portions answers come, and in whatever order."""
    with few_setups(name, arguments) as cases:
        for setup in cases:
            trial = begin(setup).run(setup.rounds)
            for exchanged in trial.exchanges:
                alone = _merged(trial.strategy, exchanged, exchanged.answers)
                for how, answers in _rearranged(exchanged.answers):
                    where = f"{_where(setup, exchanged)}, answers {how}"
                    tensors, metadata = _merged(trial.strategy, exchanged, answers)
                    require_close(tensors, alone[0], where, setup.limits)
                    require(metadata == alone[1], f"{where}: the state's metadata differ")


def _merged(
    strategy: Strategy[Any], exchanged: Exchanged, answers: Sequence[Answers]
) -> tuple[dict[str, Tensor], Metadata]:
    merged = strategy.merge(exchanged.state, exchanged.action, exchanged.round, iter(answers))
    return all_packed(strategy, merged)


def _rearranged(answers: Sequence[Answers]) -> Iterator[tuple[str, list[Answers]]]:
    """The answers of one client each, in other portions and in another order."""
    yield "all at once", [_together(answers)]
    if half := len(answers) // 2:  # one client alone may be asked
        yield "in two portions", [_together(answers[:half]), _together(answers[half:])]
    yield "from the last client to the first", list(reversed(answers))
    yield "all at once, from the last client to the first", [_together(list(reversed(answers)))]


def _together(answers: Sequence[Answers]) -> Answers:
    """One cohort's answers, of several cohorts'."""
    updates = [answer.update for answer in answers if answer.update is not None]

    def stacked(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {n: torch.cat([part[n] for part in parts]) for n in parts[0]}

    update = Update(
        weights=stacked([u.weights for u in updates]),
        num_examples=torch.cat([u.num_examples for u in updates]),
        metrics=stacked([u.metrics for u in updates]),
        report=stacked([u.report for u in updates]),
    )
    return Answers(tuple(client for answer in answers for client in answer.clients), update)


def round_without_answers_changes_nothing(name: str, arguments: Arguments | None = None) -> None:
    """Where no client answers usably, the state stays as it was, bit for bit."""
    with few_setups(name, arguments) as cases:
        for setup in cases:
            trial = begin(setup).run(setup.rounds)
            for exchanged in trial.exchanges:
                lost = [
                    Answers((), None, {client: Failure("lost", "no answer")})
                    for client in exchanged.sent.clients
                ]
                before = all_packed(trial.strategy, exchanged.state)
                for how, answers in (("no answer", []), ("failures only", lost)):
                    where = f"{_where(setup, exchanged)}, {how}"
                    tensors, metadata = _merged(trial.strategy, exchanged, answers)
                    require_same(tensors, before[0], where)
                    require(metadata == before[1], f"{where}: the state's metadata differ")


def arguments_stay_as_they_are(name: str, arguments: Arguments | None = None) -> None:
    """What a strategy is given (weights, clients' states, answers, its state) is not written to.

    Models that are the same for all clients share memory, and so do the server's state and what is
    sent: a change in place would reach other clients.
    """
    with few_setups(name, arguments) as cases:
        for setup in cases:
            trial = begin(setup).run(setup.rounds)
            for exchanged in trial.exchanges:
                where = _where(setup, exchanged)
                require_same(exchanged.sent.weights, exchanged.sent_copy, f"{where}, sent weights")
                for client, parts in exchanged.states_copy.items():
                    for part, weights in parts.items():
                        label = f"{where}, client {client}'s state {part}"
                        require_same(exchanged.states[client][part], weights, label)
                for client, answer in exchanged.answers_copy.items():
                    label = f"{where}, answer of client {client}"
                    require_same(exchanged.by_client[client], answer, label)
                tensors, metadata = all_packed(trial.strategy, exchanged.state)
                require_same(tensors, exchanged.packed, f"{where}, state before the exchange")
                same = metadata == exchanged.metadata
                require(same, f"{where}: metadata of the state before the exchange differ")


def _where(setup: Setup, exchanged: Exchanged) -> str:
    return f"{setup.label}: round {exchanged.round}, {exchanged.action}"
