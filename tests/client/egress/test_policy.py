"""The owner's policy: read in full, or refused in a line."""

import pytest

from fedadapt.client.egress.policy import TEMPLATE, DpBudget, EgressError, Policy, rounded, rule_of
from fedadapt.errors import InputError


def policy(tmp_path, text):
    path = tmp_path / "egress.toml"
    path.write_text(text)
    return Policy.from_toml(path)


def test_every_key_is_read(tmp_path):
    found = policy(
        tmp_path,
        'messages = ["train", "query.sparsity"]\nnum-examples = "rounded"\nmetrics = false\n'
        "each-image = true\n[privacy]\nepsilon = 2\ndelta = 1e-6\n"
        'messages = ["query.sparsity", "query.moments"]\n',
    )
    assert found == Policy(
        messages=frozenset({"train", "query.sparsity"}),
        num_examples="rounded",
        metrics=False,
        each_image=True,
        privacy=DpBudget(
            epsilon=2.0, delta=1e-6, messages=frozenset({"query.sparsity", "query.moments"})
        ),
    )


@pytest.mark.parametrize("text", ["", TEMPLATE])
def test_a_policy_that_says_nothing_keeps_single_images_back(tmp_path, text):
    found = policy(tmp_path, text)
    assert found == Policy(each_image=False)
    assert found.allows("query.anything")


def test_messages_that_are_not_named_are_refused_and_hello_is_always_answered():
    found = Policy(messages=frozenset({"train"}))
    asked = ("train", "evaluate", "query.sparsity", "query.hello", "query.count")
    assert [found.allows(message) for message in asked] == [True, False, False, True, True]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("metric = true", "unknown key 'metric'; did you mean 'metrics'?"),
        ("metrics = 1", "metrics: 1; it must be true or false"),
        ("num-examples = 'some'", "num-examples: 'some'; it must be none, rounded, exact"),
        ("num-examples = true", "num-examples: True; it must be none, rounded, exact"),
        ("messages = 'train'", "messages: 'train'; it must be a list of message types"),
        ("messages = ['sparsity']", "messages: 'sparsity'; a message type is train, evaluate or"),
        ("messages = [3]", "messages: 3; a message type is"),
        ("privacy = 3", "privacy: 3; it must be a table"),
        ("[privacy]\nepsilon = 1.0", "privacy.delta: None; it must be a number"),
        ("[privacy]\nepsilon = true\ndelta = 0.1", "privacy.epsilon: True; it must be a number"),
        ("[privacy]\nepsilon = nan\ndelta = 0.1", "privacy.epsilon: nan; it must be > 0"),
        ("[privacy]\nepsilon = inf\ndelta = 0.1", "privacy.epsilon: inf; it must be > 0"),
        ("[privacy]\nepsilon = 0\ndelta = 0.1", "privacy.epsilon: 0.0; it must be > 0"),
        ("[privacy]\nepsilon = 1\ndelta = 1", "privacy.delta: 1.0; it must be > 0 and < 1"),
        ("[privacy]\nepsilon = 1\ndelta = 0.1\neps = 2", "privacy: unknown key 'eps'"),
        ("messages = [", "Invalid value"),
    ],
)
def test_a_bad_policy_is_one_line(tmp_path, text, line):
    with pytest.raises(InputError) as caught:
        policy(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'egress.toml'}")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_policy_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.toml"):
        Policy.from_toml(tmp_path / "nowhere.toml")


def test_without_a_policy_only_a_simulation_tells_of_single_images(tmp_path):
    assert Policy.of({"num-partitions": 3, "state-dir": "x"}) == Policy()
    assert Policy.of({"state-dir": "x"}) == Policy(each_image=False)
    (tmp_path / "p.toml").write_text("metrics = false")
    owned = Policy.of({"num-partitions": 3, "egress-policy": str(tmp_path / "p.toml")})
    assert owned == Policy(metrics=False, each_image=False)


@pytest.mark.parametrize(
    ("count", "told"), [(1, 1), (4, 4), (14, 10), (15, 20), (36, 40), (97, 100), (1234, 1000)]
)
def test_rounded_counts_have_one_digit(count, told):
    assert rounded(count) == told
    assert Policy(num_examples="rounded").count(count) == told
    assert Policy().count(count) == count
    assert Policy(num_examples="none").count(count) is None


def test_a_refusal_names_the_rule_and_repeats_nothing_that_a_server_made_up():
    assert EgressError.rule(rule_of("query.importance")).reason == (
        "egress: 'importance' is not allowed on this device"
    )
    assert rule_of("train") == "train"
    assert rule_of("query.\x1b[31mred") == "message"


def test_the_server_is_told_what_is_not_allowed_and_nothing_else():
    assert Policy().to_config() == {}
    strict = Policy(messages=frozenset({"train"}), num_examples="none", metrics=False)
    assert strict.to_config() == {
        "egress-messages": ["train"], "egress-num-examples": "none", "egress-metrics": False
    }  # fmt: skip
