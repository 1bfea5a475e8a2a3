"""The local adaptations as they are asked for."""

import pytest

from fedadapt.client.adaptations.settings import (
    ADAPTATIONS,
    AdaBN,
    AdaBNS,
    Ewc,
    FineTune,
    Kd,
    build,
    parse,
)
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
        ADAPTATIONS["none"](),
        FineTune(epochs=3, trainable="head"),
    ]


@pytest.mark.parametrize(
    ("adapt", "arguments", "reason"),
    [
        ("", "", "adapt: nothing given; known: none, adabn, adabn-s, fine-tune, kd, ewc"),
        ("finetune", "", "adapt: unknown 'finetune'; did you mean 'fine-tune'?"),
        ("kd,kd", "", "adapt: 'kd' is given twice"),
        ("kd", "epochs=3", "adapt-args: 'epochs' is not of the form adaptation.argument"),
        ("kd", "ewc.lam=3", "adapt-args: 'ewc.lam' is not of the form adaptation.argument"),
        ("kd", "kd.epoch=3", "adapt-args: kd has no argument 'epoch'; did you mean 'epochs'?"),
        ("none", "none.lr=3", "adapt-args: none has no argument 'lr'; it has: none"),
        ("kd", "kd.epochs=0", "kd.epochs: 0 is out of range; it must be >= 1"),
        ("kd", "kd.epochs=2.5", "adapt-args: kd.epochs: expected int, got 2.5"),
        ("kd", "kd.epochs=true", "adapt-args: kd.epochs: expected int, got True"),
        ("kd", "kd.lr=fast", "adapt-args: kd.lr: expected float, got 'fast'"),
        ("kd", "kd.lr=nan", "kd.lr: nan is out of range; it must be > 0"),
        ("kd", "kd.lr=inf", "kd.lr: inf is out of range; it must be > 0"),
        pytest.param(
            "kd", f"kd.lr={10**400}", "kd.lr: inf is out of range; it must be > 0", id="huge"
        ),
        ("kd", "kd.share=1.5", "kd.share: 1.5 is out of range; it must be in [0, 1]"),
        ("kd", "kd.momentum=1", "kd.momentum: 1.0 is out of range; it must be in [0, 1)"),
        ("kd", "kd.part=test", "kd.part: unknown 'test'; known: train, adapt"),
        ("ewc", "ewc.fisher=all", "ewc.fisher: unknown 'all'; known: federation, own"),
        ("ewc", "ewc.lam=-1", "ewc.lam: -1.0 is out of range; it must be >= 0"),
    ],
)
def test_a_refusal_says_what_is_allowed(adapt, arguments, reason):
    assert reason in refusal(adapt=adapt, adapt_args=arguments)


def test_the_test_images_are_no_part_to_adapt_to():
    for kind in ADAPTATIONS.values():
        if hasattr(kind(), "part"):
            with pytest.raises(InputError, match="known: train, adapt"):
                build(kind.name, {"part": "test"}, "here")


def test_only_batch_norm_adaptations_need_batch_norm():
    assert {n for n, kind in ADAPTATIONS.items() if kind.needs_batch_norm} == {"adabn", "adabn-s"}
