"""``fedadapt new`` writes what works at once, and writes over nothing."""

import tomllib

import pytest
import tiny
from click.testing import CliRunner

from fedadapt.cli import main

OPTIONS = {"strategy": "--strategy", "adaptation": "--adapt"}
GROUPS = {"strategy": "strategies", "adaptation": "adaptations"}


def new(*words):
    return CliRunner().invoke(main, ["new", *map(str, words)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder and what the command said, for each kind."""
    into = tmp_path_factory.mktemp("mine")
    said = {kind: new(kind, f"my-{kind}", "--into", into) for kind in OPTIONS}
    assert {result.exit_code for result in said.values()} == {0}, said
    return {kind: (into / f"my-{kind}", result.output) for kind, result in said.items()}


@pytest.mark.parametrize("kind", OPTIONS)
def test_it_writes_a_class_a_test_and_an_entry_point(made, kind):
    folder, said = made[kind]
    module, cls = f"my_{kind}", f"My{kind.capitalize()}"
    files = {p.name for p in folder.iterdir() if p.is_file()}
    assert files == {f"{module}.py", f"test_{module}.py", "pyproject.toml"}
    assert f"cd {folder} && pytest && fedadapt simulate {OPTIONS[kind]}" in said
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {
        f"fedadapt.{GROUPS[kind]}": {f"my-{kind}": f"{module}:{cls}"}
    }
    for file in files:
        assert all(len(line) <= 100 for line in (folder / file).read_text().splitlines())


@pytest.mark.slow
def test_their_own_tests_pass(made):
    folders = [folder for folder, _ in made.values()]
    quick = ["-k", "parameters or answers or models_stay"]
    command = tiny.python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", *quick, *folders,
        "-o", f"pythonpath={' '.join(map(str, folders))}",
    )  # fmt: skip
    out, trouble = command.communicate(timeout=100)
    assert command.returncode == 0, out + trouble
    assert " passed" in out


def test_a_run_uses_both(made, tmp_path, monkeypatch):
    tiny.without_pictures(monkeypatch)
    for folder, _ in made.values():
        monkeypatch.syspath_prepend(folder)
    settings = {"strategy": "my_strategy:MyStrategy", "strategy_args": "pull=0.5", "rounds": 1}
    adapt = {"adapt": "none,my_adaptation:MyAdaptation"}
    summary = tiny.run(tmp_path, **settings, **adapt)
    assert summary["strategy"] == "my_strategy:MyStrategy"
    assert "base+my_adaptation:MyAdaptation" in summary["accuracy"]


def test_nothing_is_overwritten(tmp_path):
    assert new("strategy", "my-method", "--into", tmp_path).exit_code == 0
    file = tmp_path / "my-method" / "my_method.py"
    file.write_text("mine")
    result = new("strategy", "my-method", "--into", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "is there already" in result.stderr
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("kind", "name", "line"),
    [
        ("strategy", "My Method", "'My Method' is no name; take lower-case letters"),
        ("strategy", "../away", "'../away' is no name"),
        ("strategy", "2fast", "'2fast' is no name"),
        ("strategy", "class", "'class' is a word of Python"),
        ("strategy", "fedavg", "there is strategy 'fedavg' already"),
        ("adaptation", "fine-tune", "there is adaptation 'fine-tune' already"),
        ("adaptation", "random", "there is a Python module 'random' already"),
    ],
)
def test_a_name_that_cannot_be_is_refused_in_a_line(tmp_path, kind, name, line):
    result = new(kind, name, "--into", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"fedadapt: new: {line}")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
