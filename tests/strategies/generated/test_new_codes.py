"""Clients that never train learn a code at the end, and nothing else moves."""

from dataclasses import dataclass, replace

import pytest
import torch
from toys import (
    Quadratic,
    Toys,
    assert_close,
    assert_same_bits,
    conv,
    federate,
    initial,
    plain,
    quadratic_split,
    split,
    training,
)

from fedadapt.client.fit import Sgd
from fedadapt.messages import Answers, Update
from fedadapt.models.networks.vit import vit_tiny
from fedadapt.selectors import everything, head
from fedadapt.server.exchange import RoundFailedError
from fedadapt.strategies.generated.pfedhn import PFedHN
from fedadapt.strategies.generated.pfedpg import PFedPG
from fedadapt.strategies.generated_models import INSTALL, INSTALLED, LEARN, OWN, TRAINED, Generated
from fedadapt.weights import row

UNSEEN = (2, 3)
SPLITS = [split(count, seed=count) for count in (5, 7, 6, 9)]
PROMPTS = "body.prompts.tokens"


def federated(strategy, rounds=2, splits=SPLITS, unseen=UNSEEN):
    """Rounds of all clients but ``unseen``, which learn their codes in the last one."""
    model = strategy.model
    whole = replace(strategy, rounds=rounds, newcomers=tuple(unseen))
    return federate(whole, Toys(splits, unseen=unseen), model, initial(model), rounds)


def pfedhn(model=None, **arguments):
    return PFedHN(model=model or plain(), training=training(0.1, 2, momentum=0.5), **arguments)


@dataclass(frozen=True, kw_only=True)
class Direct(Generated):
    """The code is the client's weight, as it is."""

    @property
    def rule(self):
        return Sgd(0.5)

    def generated(self, model):
        return everything(model)

    def begin_generator(self, start, number):
        return {"scale": torch.ones(1, dtype=torch.float64)}, start["w"].expand(number, 1)

    def generate(self, generator, codes):
        return {"w": codes[:, 0] + 0 * generator["scale"]}


@pytest.mark.parametrize("exchanges", [1, 3])
def test_a_code_that_is_the_weight_goes_from_the_mean_to_the_newcomers_optimum(exchanges):
    """Two local steps leave (1 - 0.1 h)^2 of the distance; an exchange goes half of that way."""
    h, t = torch.tensor([[1.0, 2.0, 0.5, 3.0], [0.0, 4.0, 7.0, -1.0]], dtype=torch.float64)
    splits = [quadratic_split(*of) for of in zip(h.tolist(), t.tolist(), strict=True)]
    strategy = Direct(model=Quadratic(), training=training(0.1, 2), new_rounds=exchanges)
    trial = federated(strategy, 2, splits)
    models = trial.method.models([0, 1, 2, 3])
    mean = models["personal"]["w"][:2].mean()
    assert_close({"w": models["base"]["w"]}, {"w": mean.expand(4)})
    left = (1 - 0.5 * (1 - (1 - 0.1 * h[2:]) ** 2)) ** exchanges
    torch.testing.assert_close(models["personal"]["w"][2:], t[2:] + left * (mean - t[2:]))


@pytest.mark.parametrize("make", [pfedhn, lambda **a: pfedhn(conv(), **a)])
def test_everything_else_is_held_to_the_bit(make):
    without, learnt = (federated(make(new_rounds=n)) for n in (0, 3))
    before, after = without.method._state, learnt.method._state
    for name in ("generator", "generator_memory", "code_memory"):
        assert_same_bits(getattr(after, name), getattr(before, name))
    assert torch.equal(after.codes, before.codes)
    assert after.learnt == before.learnt == {0, 1}
    assert before.new == {}
    assert list(after.new) == [2, 3]
    first, then = (trial.method.models([0, 2, 3]) for trial in (without, learnt))
    assert_same_bits(then["base"], first["base"])
    assert_same_bits(row(then["personal"], 0), row(first["personal"], 0))
    for place in (1, 2):
        assert_same_bits(row(first["personal"], place), row(first["base"], place))
        assert not torch.equal(then["personal"]["head.bias"][place], first["base"]["head.bias"][0])


def test_a_step_is_that_of_the_code_alone_with_the_gradient_cut_by_its_own_norm():
    strategy = replace(pfedhn(clip=0.05, hyper_momentum=0.5), new_rounds=1, newcomers=(7, 9))
    state = strategy.begin(initial(plain()), range(4))
    sent = strategy.send(replace(state), LEARN, 1, (0, 1))
    assert sent.clients == (7, 9)
    moved = {n: torch.stack([t[0] + 0.3, t[1] - 2.0]) for n, t in sent.weights.items()}
    update = Update(moved, torch.ones(2, dtype=torch.float64))
    after = strategy.merge(state, LEARN, 1, [Answers((7, 9), update)])
    for d, client in enumerate((7, 9)):
        code = state.mean_code.clone().requires_grad_()
        made = strategy.generate(state.generator, code.unsqueeze(0))
        sum((made[n][0] * (sent.weights[n][d] - moved[n][d])).sum() for n in made).backward()
        gradient = code.grad * (0.05 / code.grad.norm()).clamp(max=1)
        step = gradient + 0.001 * state.mean_code
        torch.testing.assert_close(after.new[client].code, state.mean_code - 0.2 * step)


def test_what_is_not_made_comes_with_the_first_exchange_and_stays():
    trial = federated(pfedhn(conv(), new_rounds=2))
    parameters = {n for n, _ in conv().named_parameters()}
    asked = [(e.round, e.action) for e in trial.communication if e.client == 2]
    assert asked == [(2, LEARN), (2, LEARN)]
    first, second = (e.bytes_down for e in trial.communication if e.client == 2)
    whole = sum(t.nbytes for t in initial(conv()).values())
    generated = sum(initial(conv())[n].nbytes for n in parameters)
    assert (first, second) == (whole, generated)
    kept = trial.client_pool.states()[2]
    assert set(kept[INSTALLED]) == set(kept[OWN]) == everything(conv()) - parameters
    assert [e.action for e in trial.communication if e.client == 0] == [INSTALL, "train", "train"]


def test_pfedpg_newcomers_learn_prompts_and_a_head():
    model = vit_tiny((1, 4, 4), 3, prompts=3, width=8, blocks=1, heads=2).double()
    trial = federated(PFedPG(model=model, training=training(0.1, 2), new_rounds=2))
    states = trial.client_pool.states()
    cohort = trial.worker.cohort(UNSEEN, 3, [states[d] for d in UNSEEN])
    received = trial.method.models(UNSEEN)
    served = trial.method._strategy.localise(cohort, received["personal"], "personal")
    for d, client in enumerate(UNSEEN):
        assert torch.equal(served[PROMPTS][d], states[client][TRAINED][PROMPTS])
        assert not torch.equal(served[PROMPTS][d], received["base"][PROMPTS][0])
        own = {n: served[n][d] for n in head(model)}
        assert_same_bits(own, {n: states[client][OWN][n] for n in own})
        assert not torch.equal(own["head.bias"], initial(model)["head.bias"])
    frozen = everything(model) - head(model) - {PROMPTS}
    assert all(torch.equal(served[n][0], initial(model)[n]) for n in frozen)


def test_a_state_with_new_codes_is_packed_whole():
    strategy = pfedhn(conv(), new_rounds=2)
    state = federated(strategy).method._state
    again = strategy.unpack(*strategy.pack(state))
    assert_same_bits(strategy.models(again, [0, 2, 3])["personal"],
                     strategy.models(state, [0, 2, 3])["personal"])  # fmt: skip
    assert again.installed == state.installed == {0, 1, 2, 3}
    for client in UNSEEN:
        assert_same_bits(again.new[client].memory, state.new[client].memory)


def test_they_are_asked_in_the_last_round_and_only_if_there_are_any():
    strategy = replace(pfedhn(new_rounds=2), rounds=3, newcomers=(9,))
    state = strategy.begin(initial(plain()), range(4))
    assert strategy.actions(state, 2) == ("train",)
    assert strategy.actions(state, 3) == ("train", LEARN, LEARN)
    assert replace(strategy, newcomers=()).actions(state, 3) == ("train",)
    assert replace(strategy, new_rounds=0).actions(state, 3) == ("train",)


def test_a_newcomer_that_does_not_answer_keeps_the_mean_and_harms_nobody():
    strategy = replace(pfedhn(new_rounds=1), rounds=1, newcomers=(8, 9))
    state = strategy.begin(initial(plain()), range(4))

    def one_then_too_few():
        sent = strategy.send(state, LEARN, 1, ())
        weights = {n: t[:1] + 1.0 for n, t in sent.weights.items()}
        yield Answers((8,), Update(weights, torch.ones(1, dtype=torch.float64)))
        raise RoundFailedError(LEARN, 1, 2, 2, [])

    after = strategy.merge(state, LEARN, 1, one_then_too_few())
    assert list(after.new) == [8]
    models = strategy.models(after, [8, 9])
    assert_same_bits(row(models["personal"], 1), row(models["base"], 1))
    assert strategy.send(after, LEARN, 1, ()).clients == (8, 9)
