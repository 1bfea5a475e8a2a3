"""What holds for every method whose server has a model of each client."""

import re
from dataclasses import dataclass, replace

import pytest
import torch
from toy_run import METHODS, SETTINGS, Run
from toys import Quadratic, Toys, assert_same_bits, federate, quadratic_split, training

from fedadapt.messages import Answers, Update
from fedadapt.server.client_states import StateStorage
from fedadapt.strategies.personal_models import PersonalModels, PersonalState

T, N = torch.tensor([0.0, 4.0, -2.0], dtype=torch.float64), (4, 1, 3)
PROBLEM = [quadratic_split(1.0, float(t), n) for t, n in zip(T, N, strict=True)]
START = {"w": torch.tensor(3.0, dtype=torch.float64)}
BRIEF = replace(SETTINGS, local=False, curves=False, global_test="none")


@dataclass(frozen=True, kw_only=True)
class Halves(PersonalModels):
    """What a client gets is half its own and half that of the client before it."""

    combined = "when trained"

    def combine(self, state, clients, round):
        yield from self.mixtures(state, clients, halves(len(clients)))


@dataclass(frozen=True, kw_only=True)
class HalvesWhenSent(Halves):
    combined = "when sent"

    def combine(self, state, clients, round):
        if not state.kept:
            yield from [state.base] * len(clients)
            return
        rows = [state.clients.index(client) for client in clients]
        yield from self.mixtures(state, state.clients, halves(len(state.clients))[rows])


@dataclass(frozen=True, kw_only=True)
class Reporting(Halves):
    """Each client says how far it went beside its model; the server notes the sum."""

    def train(self, cohort, received):
        update = super().train(cohort, received)
        return replace(update, report={"way": update.weights["w"] - received["w"]})

    def beside(self):
        return {"way": torch.zeros((), dtype=torch.float64)}

    def noted(self, state, round, client, report):
        return {"way": state.notes(client).get("way", 0) + report["way"]}


def halves(count):
    return (torch.eye(count) + torch.eye(count).roll(1, 1)) / 2


def toy(kind, **more):
    return kind(model=Quadratic(), training=training(0.5, 1, 8), **more)


def run(strategy, rounds, problem=PROBLEM):
    trial = federate(strategy, Toys(problem), Quadratic(), START, rounds)
    state = trial.method._state
    models = trial.method.models(range(len(problem)))
    return state, models["base"]["w"][0], models["personal"]["w"]


def answers(strategy, state, clients, values, round=2, examples=None):
    """Merge what these clients trained."""
    update = Update(
        {"w": torch.tensor(values, dtype=torch.float64)},
        torch.tensor(examples or [1.0] * len(clients), dtype=torch.float64),
    )
    return strategy.merge(state, "train", round, iter([Answers(tuple(clients), update)]))


def test_what_clients_trained_is_combined_and_served_and_trained_from():
    step = lambda w: w + 0.5 * (T - w)  # noqa: E731
    first = step(START["w"].expand(3))
    mixed = (first + first.roll(-1)) / 2
    _, base, personal = run(toy(Halves), 1)
    torch.testing.assert_close(personal, mixed)
    torch.testing.assert_close(base, (first * torch.tensor(N)).sum() / 8)
    second = step(mixed)
    _, base, personal = run(toy(Halves), 2)
    torch.testing.assert_close(personal, (second + second.roll(-1)) / 2)
    torch.testing.assert_close(base, (second * torch.tensor(N)).sum() / 8)


def test_what_is_combined_when_sent_is_trained_from_and_what_was_trained_is_served():
    step = lambda w: w + 0.5 * (T - w)  # noqa: E731
    first = step(START["w"].expand(3))
    _, _, personal = run(toy(HalvesWhenSent), 1)
    torch.testing.assert_close(personal, first)
    _, _, personal = run(toy(HalvesWhenSent), 2)
    torch.testing.assert_close(personal, step((first + first.roll(-1)) / 2))


@pytest.mark.parametrize("kind", [Halves, HalvesWhenSent])
def test_only_those_that_answered_get_another_model_and_strangers_get_the_mean(kind):
    strategy = toy(kind)
    state = answers(strategy, strategy.begin(START, [0, 1, 2, 3]), [0, 1, 2], [1.0, 2.0, 6.0])
    before = strategy.models(state, [0, 1, 2, 3])["personal"]["w"]
    state = answers(strategy, state, [1, 3], [10.0, 20.0], 3, [3.0, 1.0])
    after = strategy.models(state, [0, 1, 2, 3, 4])
    assert after["base"]["w"].tolist() == [12.5] * 5  # of this round's answers, by examples
    trained = [15.0, 15.0] if kind is Halves else [10.0, 20.0]
    wanted = [before[0].item(), trained[0], before[2].item(), trained[1], 12.5]
    assert after["personal"]["w"].tolist() == wanted


def test_what_the_server_notes_of_a_client_outlives_the_round():
    state, _, _ = run(toy(Reporting), 2)
    first = (T - 3) / 2
    second = (T - (3 + first + 3 + first.roll(-1)) / 2) / 2
    found = torch.stack([state.notes(d)["way"] for d in range(3)])
    torch.testing.assert_close(found, first + second)
    assert state.notes(7) == {}


def test_a_failed_round_leaves_the_models_as_they_were():
    strategy = toy(Halves)
    state = answers(strategy, strategy.begin(START, [0, 1]), [0, 1], [1.0, 2.0])
    kept = {client: dict(parts) for client, parts in state.kept.items()}

    def stream():
        yield Answers((0,), Update({"w": torch.ones(1).double()}, torch.ones(1).double()))
        raise RuntimeError("below quorum")

    with pytest.raises(RuntimeError):
        strategy.merge(state, "train", 2, stream())
    assert {client: dict(parts) for client, parts in state.kept.items()} == kept


@pytest.mark.parametrize("kind", [Halves, HalvesWhenSent])
def test_models_on_disk_are_those_in_memory(kind, tmp_path):
    here = run(toy(kind), 3)
    there = run(toy(kind, storage=StateStorage(tmp_path, 0)), 3)
    assert torch.equal(here[1], there[1])
    assert torch.equal(here[2], there[2])
    assert there[0].kept[0] is there[0].kept[0]
    assert list(tmp_path.iterdir()) == []  # a file without a name


def test_a_mixture_is_the_weighted_sum_whatever_is_computed_at_once(monkeypatch):
    strategy, draw = toy(Halves), torch.Generator().manual_seed(1)
    models = torch.randn(5, 3, 4, generator=draw, dtype=torch.float64)
    kept = {
        d: {"model": {"a": models[d], "b": models[d, 0], "count": torch.tensor(d)}, "notes": {}}
        for d in range(5)
    }
    state = PersonalState({}, kept)
    shares = torch.rand(4, 5, generator=draw, dtype=torch.float64)
    shares[:, 2] = 0
    whole = list(strategy.mixtures(state, range(5), shares))
    for d, mixture in enumerate(whole):
        torch.testing.assert_close(mixture["a"], (shares[d, :, None, None] * models).sum(0))
        torch.testing.assert_close(mixture["b"], (shares[d, :, None] * models[:, 0]).sum(0))
        assert mixture["count"] == 0
    read = []
    monkeypatch.setattr("fedadapt.strategies.personal_models.AT_ONCE", 2 * 16 * 8)
    monkeypatch.setattr(
        PersonalState, "model", lambda self, d: read.append(d) or self.kept[d]["model"]
    )
    for found, wanted in zip(strategy.mixtures(state, range(5), shares), whole, strict=True):
        assert_same_bits(found, wanted)
    assert read == [0, *(0, 1, 3, 4) * 2]  # once for two rows, and never without a share


@pytest.mark.parametrize(
    ("report", "why"),
    [
        ({}, "missing 'way'"),
        ({"way": torch.zeros(2).double(), "x": torch.zeros(2)}, "unexpected 'x'"),
        ({"way": torch.zeros(2, 3).double()}, r"float64 of shape \(3,\), expected float64"),
        ({"way": torch.zeros(2)}, "float32 of shape"),
    ],
)
def test_a_report_that_is_not_as_it_should_be_is_refused(report, why):
    update = Update({}, torch.ones(2), report=report)
    errors = toy(Reporting).validation_errors("train", update)
    assert errors.keys() == {0, 1}
    assert re.search(why, errors[0])
    fine = Update({}, torch.ones(2), report={"way": torch.zeros(2).double()})
    assert toy(Reporting).validation_errors("train", fine) == {}


def begun(folder, config, stop=None):
    return Run(folder, config, strategy=Halves, adaptations=METHODS[:1], stop=stop)


def everything_of(run):
    kept = run.method.pack_clients()
    models = {d: {n: t.clone() for n, t in parts["model"].items()} for d, parts in kept.items()}
    return run.state, models, run.everything


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return everything_of(
        Run(tmp_path_factory.mktemp("whole"), BRIEF, strategy=Halves, adaptations=METHODS[:1]).go()
    )


@pytest.mark.parametrize(
    ("stop", "every"), [(("train", 3), 1), (("evaluate", 2), 1), (("train", 4), 3)]
)
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path, whole, stop, every):
    config = replace(BRIEF, checkpoint_every=every)
    with pytest.raises(KeyboardInterrupt):
        begun(tmp_path, config, stop).go()
    state, models, journal = everything_of(begun(tmp_path, config).go(resume=True))
    assert_same_bits(state, whole[0])
    assert models.keys() == whole[1].keys()
    for client, model in whole[1].items():
        assert_same_bits(models[client], model)
    assert journal == whole[2]
