"""The local adaptations as they are asked for."""

import pytest

from fedadapt.client.adaptations.adabn import AdaBN
from fedadapt.client.adaptations.adabn_s import AdaBNS
from fedadapt.client.adaptations.ewc import Ewc
from fedadapt.client.adaptations.fine_tune import FineTune
from fedadapt.client.adaptations.kd import Kd
from fedadapt.client.adaptations.none import NoAdaptation
from fedadapt.client.adaptations.registry import ADAPTATIONS, build, find, parse, rows
from fedadapt.config import RunConfig
from fedadapt.errors import InputError


def refusal(**settings):
    with pytest.raises(InputError) as caught:
        parse(RunConfig(**settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_defaults_are_the_papers():
    assert AdaBN() == AdaBN(batch_size=20, part="adapt")
    assert AdaBNS() == AdaBNS(epochs=5, lr=0.001, momentum=0.9, batch_size=20, part="adapt")
    tuning = {"epochs": 30 * 5, "lr": 0.01, "momentum": 0.5, "weight_decay": 0.0, "batch_size": 32}
    assert FineTune() == FineTune(**tuning, part="train", trainable="all")
    assert Kd() == Kd(**tuning, share=0.95, temperature=6.0)
    assert Ewc() == Ewc(**tuning, lam=5000.0, fisher="federation")


def test_they_come_in_the_order_asked_for_each_with_its_arguments():
    found = parse(
        RunConfig(
            adapt="kd, none,fine-tune",
            adapt_args="fine-tune.epochs=3 kd.share=1 fine-tune.trainable=head kd.batch-size=8",
        )
    )
    assert found == [
        Kd(share=1.0, batch_size=8),
        NoAdaptation(),
        FineTune(epochs=3, trainable="head"),
    ]


@pytest.mark.parametrize(
    ("adapt", "arguments", "reason"),
    [
        ("", "", "adapt: nothing given; known: none, adabn, adabn-s, fine-tune, kd, ewc, lp-ft"),
        ("finetune", "", "adapt: unknown 'finetune'; did you mean 'fine-tune'?"),
        ("kd,kd", "", "adapt: 'kd' is given twice"),
        ("kd", "epochs=3", "adapt-args: 'epochs' is not of the form adaptation.argument"),
        ("kd", "ewc.lam=3", "adapt-args: 'ewc.lam' is not of the form adaptation.argument"),
        ("kd", "kd.epoch=3", "adapt-args: kd has no argument 'epoch'; did you mean 'epochs'?"),
        ("none", "none.lr=3", "adapt-args: none has no argument 'lr'; it has: none"),
        ("kd", "kd.epochs=0", "kd.epochs: 0 is out of range; it must be >= 1"),
        ("kd", "kd.epochs=2.5", "adapt-args: kd.epochs: expected int, got float 2.5"),
        ("kd", "kd.epochs=true", "adapt-args: kd.epochs: expected int, got bool True"),
        ("kd", "kd.lr=fast", "adapt-args: kd.lr: expected float, got str 'fast'"),
        ("kd", "kd.lr=nan", "kd.lr: nan is not a finite number"),
        ("kd", "kd.lr=inf", "kd.lr: inf is not a finite number"),
        pytest.param("kd", f"kd.lr={10**400}", "kd.lr: inf is not a finite number", id="huge"),
        ("kd", "kd.share=1.5", "kd.share: 1.5 is out of range; it must be >= 0 and <= 1"),
        ("kd", "kd.momentum=1", "kd.momentum: 1.0 is out of range; it must be >= 0 and < 1"),
        ("kd", "kd.part=test", "kd.part: unknown 'test'; known: train, adapt"),
        ("ewc", "ewc.fisher=all", "ewc.fisher: unknown 'all'; known: federation, own"),
        ("ewc", "ewc.lam=-1", "ewc.lam: -1.0 is out of range; it must be >= 0"),
    ],
)
def test_a_refusal_says_what_is_allowed(adapt, arguments, reason):
    assert reason in refusal(adapt=adapt, adapt_args=arguments)


def test_the_test_images_are_no_part_to_adapt_to():
    having = [row.name for row in rows() if any(p.name == "part" for p in row.parameters)]
    assert having == [name for name in ADAPTATIONS.ours if name != "none"]
    for name in having:
        with pytest.raises(InputError, match="known: train, adapt"):
            build(name, {"part": "test"}, "here")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere:Tent", "adapt: there is no module 'nowhere' on the Python path"),
        ("a:b:c", "adapt: 'a:b:c' is not of the form module:Class"),
        ("third_party_adaptations:Nobody", "cannot import third_party_adaptations:Nobody"),
        ("third_party_adaptations:NOT_AN_ADAPTATION", "is not a subclass of fedadapt.client."),
        ("third_party:norm_mlp", "is not a subclass of fedadapt.client.adaptations.base.Adapta"),
        ("third_party_adaptations:HalfDone", "is abstract; it must define task"),
        ("third_party_adaptations:Undecorated", "needs @dataclass(frozen=True, kw_only=True)"),
        (
            "third_party_adaptations:Asks,third_party_adaptations:AsksAsWell",
            "Asks and third_party_adaptations:AsksAsWell both ask query.anything",
        ),
    ],
)
def test_a_class_that_is_no_adaptation_is_refused_by_name(name, reason):
    assert reason in refusal(adapt=name)


def test_a_third_party_class_keeps_its_module_path_as_name_and_its_arguments_follow_the_last_dot():
    name = "third_party_adaptations:Asks"
    [asks] = parse(RunConfig(adapt=name, adapt_args=f"{name}.factor=2"))
    assert (asks.name, asks.factor) == (name, 2.0)
    assert type(asks)().name == name
    with pytest.raises(InputError, match=f"^adapt-args: {name}.factor: 0.0 is out of range"):
        parse(RunConfig(adapt=name, adapt_args=f"{name}.factor=0"))


def test_the_name_in_the_registry_is_the_name_of_the_class():
    """Random streams and tables use it, however an adaptation is made."""
    for name in ADAPTATIONS.ours:
        assert find(name)().name == build(name, {}, "here").name == name
    other = "fedadapt.client.adaptations.kd:Kd"
    assert build(other, {}, "here").name == other


def test_an_unknown_name_is_refused_before_a_class_is_loaded():
    with pytest.raises(InputError, match="unknown 'finetune'"):
        parse(RunConfig(adapt="third_party:norm_mlp,finetune"))


@pytest.mark.parametrize("known", [True, None])
def test_networks_without_batch_norm_are_refused_where_that_is_known(known):
    [adabn] = parse(RunConfig(adapt="adabn"), has_batch_norm=known)
    assert adabn == AdaBN()
    with pytest.raises(InputError, match=r"adabn needs a network with .* 'mlp' has none; leave"):
        parse(RunConfig(adapt="none,adabn"), has_batch_norm=False)


def test_only_batch_norm_adaptations_need_batch_norm():
    needing = {row.name for row in rows() if row.needs_batch_norm}
    assert needing == {"adabn", "adabn-s", "tent", "bn-mix"}
