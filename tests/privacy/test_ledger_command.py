"""``fedadapt ledger``: what has left, and what may."""

import json
import tomllib

import pytest
import tiny
from click.testing import CliRunner

from fedadapt.cli import main
from fedadapt.client.egress.ledger import Ledger, Part
from fedadapt.client.egress.policy import KEYS
from fedadapt.errors import InputError
from fedadapt.strategies.leaving import leaving
from fedadapt.strategies.registry import STRATEGIES, find, is_flowers


def printed(*arguments) -> str:
    result = CliRunner().invoke(main, ["ledger", *map(str, arguments)], terminal_width=200)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.fixture
def state(tmp_path):
    ledger = Ledger(tmp_path, "2")
    parts = [Part(record="arrays", name="head.bias", dtype="float32", shape=(10,), bytes=168)]
    number = ledger.write(
        run="ab" * 8, round=3, type="train", outcome="answer", parts=parts, withheld=["pictures"]
    )
    ledger.confirm(number)
    refused = "egress: 'importance' is not allowed on this device"
    ledger.write(run="cd" * 8, round=1, type="query.importance", outcome=refused, parts=[])
    ledger.write(
        run="cd" * 8, round=2, type="query.sparsity", outcome="answer", parts=[], epsilon=0.5
    )
    return tmp_path


def test_what_left_is_listed_message_by_message(state, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = printed(state)
    assert "abababab 3 train arrays: 1; withheld: pictures 168" in text
    assert "query.importance egress: 'importance' is not allowed on this device 0" in text
    assert text.count("unconfirmed") == 2
    assert text.endswith("3 messages, 168 bytes, epsilon 0.5")
    records = printed(state, "--records")
    assert "arrays/head.bias float32 [10] 168" in records
    assert "withheld: pictures" in records


def test_a_ledger_that_was_changed_is_no_list(state):
    file = state / "ledger" / "2.jsonl"
    file.write_text(file.read_text().replace('"bytes": 168', '"bytes": 1'))
    result = CliRunner().invoke(main, ["ledger", str(state)])
    assert result.exit_code == 2
    assert "line 1 is not what was written" in result.output


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "STATE_DIR: name the state-dir of a client, or give --explain"),
        (["nowhere"], "nowhere: no ledger; name the state-dir"),
        (["nowhere", "--explain"], "--explain: lists what may leave; leave STATE_DIR"),
        (["nowhere", "--strategy", "pfa"], "--strategy, --policy: they go with --explain"),
        (["--explain", "--strategy", "pfaa"], "strategy: unknown 'pfaa'; did you mean 'pfa'?"),
        (["--explain", "--policy", "no.toml"], "no.toml: [Errno 2]"),
    ],
)
def test_bad_input_is_one_line(arguments, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["ledger", *arguments])
    assert result.exit_code == 2
    assert line in result.output


def test_every_message_of_every_strategy_is_explained_in_words_of_its_own():
    rows = {(row.message, name): row.holds for row in leaving() for name in row.asked_by}
    for name in STRATEGIES.ours:
        messages = () if is_flowers(find(name)) else find(name).query_types
        for message in ("train", *messages):
            assert rows[message, name] != "the arrays that it declares", (name, message)


def test_the_table_of_the_documentation_is_the_one_that_is_printed(monkeypatch):
    monkeypatch.syspath_prepend(tiny.ROOT / "docs")
    import egress_table

    page = (tiny.ROOT / "docs" / "egress.md").read_text("utf-8")
    assert egress_table.updated(page) == page
    policy = page.partition("```toml\n")[2].partition("```")[0]
    assert set(tomllib.loads(policy)) == set(KEYS)


def test_a_policy_says_which_messages_it_allows(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "egress.toml").write_text('messages = ["train"]')
    text = printed("--explain", "--strategy", "pfa", "--policy", tmp_path / "egress.toml")
    assert "query.sparsity pfa how often each of q channels" in text
    assert [row.message for row in leaving("pfa")][:3] == [
        "train", "query.moments", "query.sparsity"
    ]  # fmt: skip
    assert "noisy with dp_epsilon no" in text
    assert "without what stays on the client yes" in text
    with pytest.raises(InputError, match="unknown"):
        leaving("nobody")
    assert json.dumps(leaving("fedavg")[0]._asdict())
