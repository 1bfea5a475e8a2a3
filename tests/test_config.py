"""Settings are checked at the door, and every refusal is one line that says what is allowed."""

import subprocess
import sys

import pytest
import tomli_w

from fedadapt.config import RUNNING, RunConfig, parse_arguments
from fedadapt.errors import InputError
from fedadapt.parameters import parameters
from fedadapt.server.checkpoint import MAY_CHANGE

OTHER = {
    "benchmark": "mnist", "data-root": "/data", "partition": "iid", "shift": "rotation",
    "quantity": "lognormal:1", "imbalance": "long-tail:0.1", "clients": 7, "unseen": 0.25,
    "split": "pooled", "adapt-share": 0.3, "test-share": 0.1, "examples": 50, "image-size": 32,
    "classes": "cat,dog", "server-data": "/srv/tasks", "roster": "/srv/roster",
    "normalization": "unit", "model": "cnn", "weights": "imagenet", "strategy": "fedadam",
    "strategy-args": "eta=0.1", "batch-norm": "local", "rounds": 3, "fraction": 0.5,
    "local-epochs": 2, "batch-size": 16, "lr": 0.125, "momentum": 0.0, "weight-decay": 0.01,
    "optimizer": "adam", "lr-schedule": "cosine", "augmentation": "flip", "early-stopping": 2,
    "best-round": True, "server-share": 0.5,
    "adapt": "none", "adapt-args": "fine-tune.epochs=1", "evaluate-every": 2, "curves": True,
    "serve": "best-on-adapt", "confidence": True,
    "global-test": "all", "local": False, "seed": 9,
    "device": "cpu", "precision": "bf16", "workers": 2,
    "engine": "ray", "ray-address": "auto", "gpus-per-worker": 0.5, "execution": "stacked",
    "cohort-size": 7, "evaluate-clients": 5, "checkpoint-every": 3,
    "out": "somewhere", "save-models": "all", "track": "wandb",
    "node-wait": 1.5, "round-deadline": 60.0, "client-deadline": 30.0,
    "min-replies": 0.25, "max-failed-rounds": 3, "max-update-norm": 10.0,
    "max-update-factor": 5.0, "max-weight-factor": 10.0,
}  # fmt: skip


def refusal(call, *arguments, **settings):
    with pytest.raises(InputError) as caught:
        call(*arguments, **settings)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_every_key_survives_the_way_out_and_in_again(tmp_path):
    config = RunConfig.from_mapping(OTHER)
    assert set(OTHER) == set(RunConfig.keys())
    usual = RunConfig().to_mapping()
    assert [k for k in OTHER if OTHER[k] == usual[k]] == []
    assert config.to_mapping() == OTHER
    path = tmp_path / "config.toml"
    path.write_text(tomli_w.dumps(config.to_mapping()), "utf-8")
    assert RunConfig.from_toml(path) == config
    assert RunConfig.from_toml(path) != RunConfig()


def test_the_defaults_are_allowed_and_described():
    assert RunConfig.from_mapping({}) == RunConfig()
    assert all(setting.param.help for setting in parameters(RunConfig).values())


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("clients", -1, "clients: -1 is out of range; it must be >= 0"),
        ("rounds", 0, "rounds: 0 is out of range; it must be >= 1"),
        ("unseen", 1.0, "unseen: 1.0 is out of range; it must be >= 0 and < 1"),
        ("unseen", -0.1, "unseen: -0.1 is out of range; it must be >= 0 and < 1"),
        ("adapt-share", 0.0, "adapt-share: 0.0 is out of range; it must be > 0 and < 1"),
        ("fraction", 0.0, "fraction: 0.0 is out of range; it must be > 0 and <= 1"),
        ("fraction", 1.5, "fraction: 1.5 is out of range; it must be > 0 and <= 1"),
        ("lr", 0.0, "lr: 0.0 is out of range; it must be > 0"),
        ("lr", float("nan"), "lr: nan is not a finite number"),
        ("lr", float("inf"), "lr: inf is not a finite number"),
        pytest.param("lr", 10**400, "lr: inf is not a finite number", id="huge"),
        ("momentum", 1.0, "momentum: 1.0 is out of range; it must be >= 0 and < 1"),
        ("clients", True, "clients: expected int, got bool True"),
        ("lr", False, "lr: expected float, got bool False"),
        ("clients", 3.0, "clients: expected int, got float 3.0"),
        ("lr", "0.1", "lr: expected float, got str '0.1'"),
        ("model", 3, "model: expected str, got int 3"),
        ("device", "tpu", "device: unknown 'tpu'; did you mean 'cpu'?; known: auto, cpu, cuda"),
        (
            "batch-norm",
            "locale",
            "batch-norm: unknown 'locale'; did you mean 'local'?; known: shared, local, reestimate",
        ),
        ("local-epoch", 3, "unknown key 'local-epoch'; did you mean 'local-epochs'?"),
        ("local_epochs", 3, "unknown key 'local_epochs'; did you mean 'local-epochs'?"),
        ("xyzzy", 3, "unknown key 'xyzzy'"),
    ],
)
def test_a_refusal_names_the_key_the_value_and_what_is_allowed(key, value, allowed):
    line = refusal(RunConfig.from_mapping, {key: value}, "run config")
    assert line == f"run config: {allowed}"


def test_whole_numbers_do_for_real_ones():
    config = RunConfig.from_mapping({"lr": 1, "unseen": 0})
    assert (config.lr, type(config.lr), type(config.unseen)) == (1.0, float, float)


def test_values_that_do_not_go_together_are_refused():
    line = refusal(RunConfig, adapt_share=0.5, test_share=0.5)
    assert line == (
        "adapt-share, test-share: 0.5 + 0.5 leaves nothing to train on; their sum must be below 1"
    )
    line = refusal(RunConfig, client_deadline=60, round_deadline=60)
    assert line == "client-deadline: 60.0 must be below round-deadline=60.0"


@pytest.mark.parametrize(
    ("key", "most"),
    [("clients", 10**6), ("workers", 1024), ("seed", 2**63 - 1), ("rounds", 10**9),
     ("batch-size", 10**9), ("client-deadline", 10**9 - 1)],
)  # fmt: skip
def test_absurd_numbers_are_refused_before_they_cost_anything(key, most):
    given = {"round-deadline": 10**9} if key == "client-deadline" else {}
    RunConfig.from_mapping({key: most, **given})
    for value in (most + 2, 10**30, 10**400):
        said = refusal(RunConfig.from_mapping, {key: value, **given})
        assert said.startswith(f"run config: {key}: ")
        assert len(said) < 120


@pytest.mark.parametrize("value", ["a\0b", "caf\udce9", "\x1b[31m"])
def test_characters_that_are_no_text_are_refused(value):
    said = refusal(RunConfig, out=value)
    assert said.startswith("out: ")
    assert said.isprintable()


@pytest.mark.parametrize(
    "content", [b"clients = ", b"\xff\xfe", b"clients = -1", b"a.b = 1", b"out = 1979-05-27", None]
)
def test_a_bad_file_is_one_line_that_names_it(tmp_path, content):
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_bytes(content)
    assert refusal(RunConfig.from_toml, path).startswith(f"{path}: ")


def test_the_experiment_is_what_is_computed_and_not_where():
    config = RunConfig()
    for key, value in OTHER.items():
        other = RunConfig.from_mapping({key: value, "round-deadline": 90.0} | {key: value})
        assert (other.experiment == config.experiment) == (key in RUNNING), key


def test_what_may_change_on_resuming_is_what_is_not_part_of_the_experiment():
    # Or a client would not find again what it kept. More rounds are more of the same.
    assert {*MAY_CHANGE, "rounds"} == set(RUNNING)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("eta=0.1 name=x flag=true", {"eta": 0.1, "name": "x", "flag": True}),
        ("n=3 m=1e-3 off=false", {"n": 3, "m": 0.001, "off": False}),
        ("a='two words' b=x=y c=", {"a": "two words", "b": "x=y", "c": ""}),
        ("fine-tune.epochs=10", {"fine-tune.epochs": 10}),
        ("a=True", {"a": "True"}),
    ],
)
def test_arguments(text, found):
    parsed = parse_arguments(text, "strategy-args")
    assert parsed == found
    assert [type(v) for v in parsed.values()] == [type(v) for v in found.values()]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("eta", "strategy-args: 'eta' is not of the form name=value"),
        ("=3", "strategy-args: '=3' is not of the form name=value"),
        ("a=1 a=2", "strategy-args: 'a' is given twice"),
        ("a=[1]", "strategy-args: 'a=[1]': a value is a number, true, false or a word"),
        ("a=2020-01-01", "'a=2020-01-01': a value is a number, true, false or a word"),
        ("a='", 'strategy-args: "a=\'": No closing quotation'),
    ],
)
def test_bad_arguments(text, reason):
    assert reason in refusal(parse_arguments, text, "strategy-args")


def test_torch_is_not_needed_to_refuse_a_setting():
    code = (
        "import sys; from fedadapt.config import RunConfig; "
        "from fedadapt.client.adaptations.registry import arguments_by_name as names;"
        "names(RunConfig(adapt='none,kd')); assert not {'torch', 'flwr', 'numpy'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
