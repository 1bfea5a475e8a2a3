"""Adaptations one after the other, from their names to the files of a run."""

import json
from dataclasses import replace

import pytest
import tiny
import torch
from click.testing import CliRunner
from toys import Toys, assert_same_bits, cohort, conv, initial, initials, sent, split, training

import fedadapt
from fedadapt.cli import main
from fedadapt.client.adaptations.adabn import AdaBN
from fedadapt.client.adaptations.composition import Composition
from fedadapt.client.adaptations.ewc import Ewc
from fedadapt.client.adaptations.fine_tune import FineTune
from fedadapt.client.adaptations.kd import Kd
from fedadapt.client.adaptations.none import NoAdaptation
from fedadapt.client.adaptations.registry import build, parse
from fedadapt.client.adaptations.tent import Tent
from fedadapt.client.api import adapt
from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.saved_models.load import load_with_card
from fedadapt.simulations import estimate as estimates
from fedadapt.simulations.assembly import assemble
from fedadapt.simulations.results.parquet import read_communication, read_evaluations
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.registry import find

SPLITS = [split(count, adapt=9, test=7, seed=count) for count in (5, 12, 10)]
QUICK = FineTune(epochs=2, lr=0.1, batch_size=4)


def composed(*parts):
    return Composition(chain=parts)


def given(**settings):
    return parse(RunConfig(**settings))


# What it computes


@pytest.mark.parametrize("execution", ["sequential", "stacked-kernels"])
def test_a_then_b_is_b_of_what_a_left(execution):
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS, execution)
    for one, other in ((AdaBN(), QUICK), (QUICK, AdaBN())):
        found = composed(one, other).adapt(members, weights)
        assert_same_bits(found, other.adapt(members, one.adapt(members, weights)))
    forth, back = (
        composed(*p).adapt(members, weights) for p in ((AdaBN(), QUICK), (QUICK, AdaBN()))
    )
    assert not torch.equal(forth["body.1.running_mean"], back["body.1.running_mean"])


def test_with_none_before_or_after_it_nothing_changes():
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    wanted = QUICK.adapt(members, weights)
    for chain in ((NoAdaptation(), QUICK), (QUICK, NoAdaptation()), (QUICK,)):
        assert_same_bits(composed(*chain).adapt(members, weights), wanted)


def test_it_needs_what_any_of_its_parts_needs():
    def needs(*parts):
        whole = composed(*parts)
        return whole.needs_labels, whole.needs_batch_norm

    assert needs(NoAdaptation(), AdaBN()) == needs(AdaBN(), NoAdaptation()) == (False, True)
    assert needs(AdaBN(), QUICK) == needs(QUICK, AdaBN()) == (True, True)
    assert needs(NoAdaptation(), QUICK) == (True, False)
    assert needs(NoAdaptation(), NoAdaptation()) == (False, False)
    assert composed(QUICK, AdaBN()).reads_adapt
    assert not composed(NoAdaptation(), QUICK).reads_adapt


def test_its_stages_are_those_of_the_last_part():
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    staged = replace(QUICK, epochs=3, stage=1)
    found = list(composed(AdaBN(), staged).stages(members, weights))
    wanted = list(staged.stages(members, AdaBN().adapt(members, weights)))
    assert [epoch for epoch, _ in found] == [1, 2, 0]
    for (_, one), (_, other) in zip(found, wanted, strict=True):
        assert_same_bits(one, other)
    [(end, last)] = composed(staged, AdaBN()).stages(members, weights)
    assert end == 0
    assert_same_bits(last, AdaBN().adapt(members, staged.adapt(members, weights)))


def test_each_part_gets_the_pooled_answer_that_it_asked_for():
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    ewc = Ewc(epochs=2, lr=0.01, lam=10.0)
    answers = {"ewc": {n: 0.5 + torch.zeros_like(weights[n]) for n, _ in conv().named_parameters()}}
    answers["another"] = {"head.weight": torch.full_like(weights["head.weight"], 7.0)}
    whole = composed(AdaBN(), ewc)
    found = whole.adapt(members, weights, whole.pooled_from(answers))
    assert_same_bits(found, ewc.adapt(members, AdaBN().adapt(members, weights), answers["ewc"]))
    assert whole.pooled_from({}) is None
    alone = whole.adapt(members, weights)
    assert_same_bits(alone, ewc.adapt(members, AdaBN().adapt(members, weights)))
    assert not torch.equal(alone["head.weight"], found["head.weight"])


# How it is asked for


def test_an_argument_is_that_of_an_adaptation_wherever_it_stands():
    found = given(
        adapt="kd,adabn+kd,adabn+fine-tune+adabn",
        adapt_args="kd.epochs=3 adabn.batch-size=7 fine-tune.lr=0.5",
    )
    adabn = AdaBN(batch_size=7)
    assert found == [
        Kd(epochs=3),
        Composition(name="adabn+kd", chain=(adabn, Kd(epochs=3))),
        Composition(name="adabn+fine-tune+adabn", chain=(adabn, FineTune(lr=0.5), adabn)),
    ]


def test_spaces_do_not_matter_and_the_name_is_that_of_its_parts():
    [found] = given(adapt=" adabn + kd ,")
    assert found.name == composed(AdaBN(), Kd()).name == "adabn+kd"
    name = "third_party_adaptations:Asks"
    [found] = given(adapt=f"adabn+{name}", adapt_args=f"{name}.factor=2")
    assert (found.name, found.chain[1].factor) == (f"adabn+{name}", 2.0)


@pytest.mark.parametrize(
    ("adapt", "arguments", "reason"),
    [
        ("adabn+", "", "adapt: 'adabn+'; between two + stands the name of an adaptation"),
        ("+adabn", "", "adapt: '+adabn'; between two + stands the name of an adaptation"),
        ("adabn++kd", "", "adapt: 'adabn++kd'; between two + stands the name of an adaptation"),
        ("adabn+finetune", "", "adapt: unknown 'finetune'; did you mean 'fine-tune'?"),
        ("adabn+kd,adabn + kd", "", "adapt: 'adabn+kd' is given twice"),
        ("adabn+kd", "ewc.lam=3", "adapt-args: 'ewc.lam' is not of the form adaptation.argument "
         "with an adaptation of this run (adabn, kd)"),
        ("adabn+kd", "adabn+kd.lr=3", "adapt-args: 'adabn+kd.lr' is not of the form"),
        ("adabn+kd", "kd.epoch=3", "adapt-args: kd has no argument 'epoch'; did you mean"),
        ("adabn+kd", "kd.epochs=0", "kd.epochs: 0 is out of range; it must be >= 1"),
        ("adabn+nowhere:Tent", "", "adapt: there is no module 'nowhere' on the Python path"),
        ("none,third_party_adaptations:Asks+third_party_adaptations:AsksAsWell", "",
         "Asks and third_party_adaptations:AsksAsWell both ask query.anything"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_is_wrong(adapt, arguments, reason):
    with pytest.raises(InputError) as caught:
        given(adapt=adapt, adapt_args=arguments)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_batch_norm_is_asked_for_by_the_part_that_needs_it():
    with pytest.raises(InputError, match=r"adabn needs a network with .* 'mlp' has none; leave"):
        parse(RunConfig(adapt="none+adabn"), has_batch_norm=False)
    assert parse(RunConfig(adapt="none+kd"), has_batch_norm=False)


def test_a_module_is_adapted_by_several_in_turn():
    model, own = conv().double(), SPLITS[0].adapt
    arguments = {"fine-tune.epochs": 2, "fine-tune.part": "adapt", "adabn.batch-size": 4}
    found = adapt(model, own.inputs, own.labels, method="adabn+fine-tune", **arguments)
    between = adapt(model, own.inputs, method="adabn", batch_size=4)
    wanted = adapt(between, own.inputs, own.labels, method="fine-tune", epochs=2, part="adapt")
    assert_same_bits(found.state_dict(), wanted.state_dict())
    with pytest.raises(InputError, match=r"^adapt: adabn\+fine-tune learns from labels; give"):
        adapt(model, own.inputs, method="adabn+fine-tune")
    with pytest.raises(InputError, match=r"^adapt: 'epochs' is not of the form .* \(adabn, kd\)"):
        build("adabn+kd", {"epochs": 3}, "adapt")


def test_the_command_shows_its_parts():
    said = CliRunner().invoke(main, ["adaptations", "adabn+lp-ft"], env={"COLUMNS": "200"}).output
    assert said.index("adabn.batch-size") < said.index("lp-ft.head-lr")
    everything = CliRunner().invoke(main, ["adaptations"], env={"COLUMNS": "200"}).output
    assert "a+b" in everything


# In a run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("composed") / "run"
    tiny.run(
        folder,
        model=tiny.NORM_MLP,
        rounds=1,
        save_models="all",
        adapt="none, ewc,adabn + ewc",
        adapt_args="ewc.epochs=2 ewc.stage=1",
        curves=True,
    )
    return folder


def test_it_has_a_row_of_its_own_in_all_results(folder):
    summary = json.loads((folder / "summary.json").read_text())
    assert list(summary["accuracy"]) == ["local", "base", "base+ewc", "base+adabn+ewc"]
    rows = [r for r in read_evaluations(folder) if r.round == 1 and r.split == "test"]
    assert {r.label for r in rows if r.adaptation == "adabn+ewc"} == {"base+adabn+ewc"}
    epochs = [r.epoch for r in rows if r.adaptation == "adabn+ewc" and r.client == 0]
    assert epochs == [1, 0]
    loss = {(r.client, r.adaptation): r.loss for r in rows if r.epoch == 0}
    assert all(loss[d, "adabn+ewc"] != loss[d, "ewc"] for d in range(6))
    assert "base+adabn+ewc" in (folder / "report.html").read_text("utf-8")


def test_what_two_of_them_ask_is_asked_once(folder):
    asked = [e.client for e in read_communication(folder) if e.action == "query.ewc_fisher"]
    assert sorted(asked) == list(range(6))


def test_its_models_are_saved_and_found_by_its_name(folder):
    assert (folder / "models/base+adabn+ewc/3.safetensors").is_file()
    both, ewc = (fedadapt.load(folder, 3, name).state_dict() for name in ("adabn+ewc", "ewc"))
    assert not torch.equal(both["2.running_mean"], ewc["2.running_mean"])
    cards = json.loads((folder / "models/cards.json").read_text())
    assert cards["adaptations"]["adabn+ewc"] == {
        "adabn.part": "adapt",
        "adabn.batch_size": 20,
        **{f"ewc.{key}": value for key, value in cards["adaptations"]["ewc"].items()},
    }
    _, card = load_with_card(folder / "models/base+adabn+ewc/3.safetensors")
    assert card.label == "base+adabn+ewc"
    assert card.adaptation_arguments == cards["adaptations"]["adabn+ewc"]


def test_it_takes_as_long_as_its_parts(monkeypatch):
    """Told from whose steps are timed: each part's, once alone and once in the composition."""
    timed = []

    def seconds(method, cohort, start):
        timed.append(method.name)
        return 5.0

    monkeypatch.setattr(estimates, "_adaptation", seconds)
    assembly = assemble(tiny.config(model=tiny.NORM_MLP, adapt="none,adabn,adabn+kd"))
    estimates.estimate(assembly, rounds=1, workers=1)
    assert timed == ["none", "adabn", "adabn", "kd"]


def test_a_worker_answers_the_queries_of_the_parts():
    strategy = find("fedavg")(training=training(), model=conv())
    worker = Worker(Toys(SPLITS), conv(), strategy, [composed(Tent(), Ewc())], seed=3)
    [own] = worker.methods(["tent+ewc"])
    assert own.name == "tent+ewc"
    answer = worker.answer("query.ewc_fisher", 0, sent(initial(conv()), (0, 1)))
    assert answer.weights.keys() == {n for n, _ in conv().named_parameters()}
