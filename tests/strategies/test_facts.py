"""What the lists say of a strategy is what it does: one round of each on toys, and the words."""

import pytest
import torch

from fedadapt.selectors import head, in_words, norm_affine, norms
from fedadapt.strategies.facts import facts, source
from fedadapt.strategies.registry import STRATEGIES, find, is_flowers
from fedadapt.strategies.shared_model import NORMS, STATISTICS
from fedadapt.testing.setups import begin, few_setups
from fedadapt.testing.toys import UNSEEN, build, cnn, mlp
from fedadapt.weights import row

OURS = [name for name in STRATEGIES.ours if not is_flowers(find(name))]
BASE = {
    "the shared model",
    "the mean model",
    "the mean body with the mean head",
    "the initial model",
}
FEDERATED = [name for name in OURS if not find(name).learns_tasks]


@pytest.mark.parametrize("name", FEDERATED)
def test_what_stays_what_is_reported_and_what_new_clients_get_is_what_is_said(name):
    said = facts(find(name))
    with few_setups(name) as cases:
        setup = cases[0]
        trial = begin(setup)
        trial.round(1)
        strategy, worker = trial.strategy, trial.clients._worker

        kept = {part for parts in trial.clients.states().values() for part in parts}
        assert bool(kept - {NORMS, "installed"}) == bool(said.stays) or name == "fedbn"
        for exchange in trial.exchanges:
            for answer in exchange.answers:
                asked = exchange.action not in ("train", STATISTICS)
                beside = {**answer.update.report, **(answer.update.weights if asked else {})}
                assert not beside or strategy.client_reports

        models = trial.strategy.models(trial.state, UNSEEN)
        has_own = "personal" in {*models, *strategy.made_on_client}
        assert said.personal != "none" or not has_own  # clusters are yet to be found
        newcomer, model = worker.cohort(UNSEEN, 2), "personal" if has_own else "base"
        served, base = (
            row(strategy.localise(newcomer, models.get(n, models["base"]), n), 0)
            for n in (model, "base")
        )
        if said.unseen in BASE or "with the initial" in said.unseen:
            assert all(torch.equal(t, base[n]) for n, t in served.items())
        if "with the initial" in said.unseen or said.unseen == "the initial model":
            own = [n for n in strategy.staying() if n in setup.start]
            assert own
            assert all(torch.equal(served[n], setup.start[n]) for n in own)


@pytest.mark.parametrize("name", OURS)
def test_every_column_is_filled(name):
    said = facts(find(name))
    assert all(said._replace(stays="may be empty", source="is empty where there is no paper"))
    assert bool(said.source) == (name != "local")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fedper", ("head", "everything", "body", "on the client")),
        ("lg-fedavg", ("body", "everything", "head", "on the client")),
        ("local", ("everything", "everything", "nothing", "on the client")),
        ("fedbabu", ("", "everything", "body", "made on the client when used")),
        ("ifca", ("its choice", "4 models", "everything, its choice, after a trial of starts its loss", "on the server, one a cluster")),  # noqa: E501
        ("fedavg", ("", "everything", "everything", "none")),
    ],
)  # fmt: skip
def test_tensors_are_those_that_the_class_names(name, words):
    assert facts(find(name))[:4] == words


@pytest.mark.parametrize(
    ("name", "paper"),
    [
        ("fedavg", "McMahan et al. 2017, algorithm 1"),
        ("fedrod", "Chen and Chao 2022, equations 5 and 6"),
        ("fedproto", "Tan et al. 2022, equations 5 to 8"),
        ("pfa", "Liu et al. 2021"),
        ("mas-imm", "Lee et al. 2017; De Lange et al. 2020, section 4"),
        ("embedding", "ours"),
        ("local", ""),
    ],
)
def test_a_source_is_a_paper_and_the_place_in_it(name, paper):
    assert source(find(name)) == paper


def test_sets_of_tensors_in_words():
    network = build(cnn)
    every = frozenset(network.state_dict())
    assert in_words(every, network) == in_words(every | {"other"}, network) == "everything"
    assert in_words((), network) == in_words({"other"}, network) == ""
    assert in_words(head(network), network) == "head"
    assert in_words(every - head(network), network) == "body"
    assert in_words(every - norms(network), network) == "everything but batch norm"
    assert in_words(norm_affine(network) | head(network), network) == (
        "head, batch-norm scale and shift"
    )
    assert in_words({"body.0.weight"}, network) == "some weights"
    assert in_words(head(build(mlp)), build(mlp)) == "head"
