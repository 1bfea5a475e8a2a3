"""Folders of fedadapt 0.1.0 are refused in one line wherever a run folder is read."""

import pytest
import tomli_w
from click.testing import CliRunner

from fedadapt.cli import main
from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.older_runs import refuse_older_run
from fedadapt.server.checkpoint import load_latest
from fedadapt.simulations.results.run_folder import RunFolder

WORDS = "written by fedadapt 0.1.0, which this version cannot read; use fedadapt 0.1.0 for it"


@pytest.fixture
def old(tmp_path):
    """A finished run as fedadapt 0.1.0 left it."""
    settings = {k: v for k, v in RunConfig().to_mapping().items() if k != "clients"}
    (tmp_path / "config.toml").write_text(tomli_w.dumps(settings | {"devices": 100}))
    for name in ("devices.parquet", "ledger.parquet", "losses.parquet"):
        (tmp_path / name).write_bytes(b"PAR1")
    return tmp_path


@pytest.fixture
def journalled(tmp_path):
    """What is left of a run that was killed in its first round, its settings lost."""
    (tmp_path / "ledger.jsonl").write_text("")
    return tmp_path


READERS = {
    "settings": lambda folder: RunConfig.from_toml(folder / "config.toml"),
    "results": RunFolder.read,
    "checkpoint": load_latest,
}


@pytest.mark.parametrize("kind", ["old", "journalled"])
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_folder_of_the_version_before_is_refused_by_every_reader(reader, kind, request):
    folder = request.getfixturevalue(kind)
    with pytest.raises(InputError) as refused:
        reader(folder)
    assert str(refused.value).startswith(f"{folder}: {WORDS}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "line", ["simulate --resume {}", "report {}", "privacy-inversion --run {}"]
)
def test_the_command_line_refuses_it_with_exit_code_2_and_leaves_it_as_it_was(old, line):
    (old / "models").mkdir()
    (old / "models" / "base.safetensors").write_bytes(b"")
    before = {path: path.stat().st_mtime_ns for path in old.rglob("*")}
    result = CliRunner().invoke(main, line.format(old).split())
    assert result.exit_code == 2
    assert result.stderr == f"fedadapt: {old}: {WORDS}, or start the run anew in another folder\n"
    assert {path: path.stat().st_mtime_ns for path in old.rglob("*")} == before


def test_a_comparison_does_not_go_on_in_such_a_folder(old, tmp_path):
    run = tmp_path / "together" / "fedavg-seed1"
    run.mkdir(parents=True)
    (old / "config.toml").rename(run / "config.toml")
    out = tmp_path / "together"
    result = CliRunner().invoke(main, f"compare --seeds 1 --rounds 1 --out {out}".split())
    assert result.exit_code == 2
    assert WORDS in result.stderr.replace("\n", " ")


def test_a_folder_of_this_version_and_an_empty_one_pass(tmp_path):
    refuse_older_run(tmp_path)
    (tmp_path / "config.toml").write_text(tomli_w.dumps(RunConfig().to_mapping()))
    (tmp_path / "clients.parquet").write_bytes(b"PAR1")
    refuse_older_run(tmp_path)
    assert RunConfig.from_toml(tmp_path / "config.toml") == RunConfig()


def test_damaged_settings_are_left_to_their_reader(tmp_path):
    (tmp_path / "config.toml").write_text("devices = \n")
    refuse_older_run(tmp_path)
    with pytest.raises(InputError, match="Invalid value"):
        RunConfig.from_toml(tmp_path / "config.toml")
