"""The command line as somebody at a terminal meets it."""

import json
import tomllib
from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner

from fedadapt import __version__
from fedadapt.cli import main
from fedadapt.config import RunConfig

COMMANDS = (
    "simulate", "compare", "reproduce", "report", "privacy-inversion", "benchmarks", "models",
    "strategies", "adaptations",
)  # fmt: skip

REFUSED = [
    ("simulate --benchmark digit-classes", "'digit-classes'; did you mean 'digits-classes'"),
    ("simulate --model mpl", "model: unknown 'mpl'; did you mean 'mlp'?"),
    ("simulate --model mobilenetv2-x", "model: 'mobilenetv2-x' is not mobilenetv2-<width>"),
    ("simulate --model a:b:c", "model: 'a:b:c' is not of the form module:factory"),
    ("simulate --strategy fedagv", "strategy: unknown 'fedagv'; did you mean 'fedavg'?"),
    ("simulate --strategy a:b:c", "strategy: 'a:b:c' is not of the form module:Class"),
    ("simulate --strategy nowhere:Class", "strategy: there is no module 'nowhere'"),
    ("simulate --strategy-args nu=1", "strategy-args: fedavg has no argument 'nu'"),
    ("simulate --strategy fedprox --strategy-args mu=-1", "mu: -1.0 is out of range; it must be"),
    ("simulate --strategy-args mu", "strategy-args: 'mu' is not of the form name=value"),
    ("simulate --adapt finetune", "adapt: unknown 'finetune'; did you mean 'fine-tune'?"),
    ("adaptations finetune", "adapt: unknown 'finetune'; did you mean 'fine-tune'?"),
    ("simulate --adapt none,none", "adapt: 'none' is given twice"),
    ("simulate --adapt adabn", "adabn needs a network with batch normalisation, 'mlp' has none"),
    ("simulate --adapt-args fine-tune.epoch=3", "has no argument 'epoch'; did you mean 'epochs'?"),
    ("simulate --adapt-args kd.lr=1", "adapt-args: 'kd.lr' is not of the form"),
    ("simulate --batch-norm local", "batch-norm: local needs a network with batch normalisation"),
    ("simulate --batch-norm reestimate --strategy fedbn --model vgg11", "fedbn does not use it"),
    ("simulate --ray-address auto", "ray-address: engine=processes does not use it; leave it out"),
    ("simulate --node-wait 3", "node-wait: engine=processes does not use it; leave it out"),
    ("simulate --clients 0", "clients: 0 is for `flwr run`"),
    ("simulate --clients -3", "clients: -3 is out of range; it must be >= 0"),
    ("simulate --rounds 0", "rounds: 0 is out of range; it must be >= 1"),
    ("simulate --rounds three", "'three' is not a valid integer"),
    ("simulate --rounds 3.5", "'3.5' is not a valid integer"),
    ("simulate --lr nan", "lr: nan is not a finite number"),
    ("simulate --lr inf", "lr: inf is not a finite number"),
    ("simulate --lr 0", "lr: 0.0 is out of range; it must be > 0"),
    ("simulate --momentum 1", "momentum: 1.0 is out of range"),
    ("simulate --fraction 0", "fraction: 0.0 is out of range"),
    ("simulate --adapt-share 0.6 --test-share 0.6", "0.6 + 0.6 leaves nothing to train on"),
    ("simulate --precision fp16", "'fp16' is not one of"),
    ("simulate --round 3", "No such option '--round'"),
    ("simulate now", "Got unexpected extra argument"),
    ("simulate --partition dirichlt:1", "partition: unknown 'dirichlt'; did you mean 'dirichlet'?"),
    ("simulate --partition by-domain", "partition: by-domain needs images in domains"),
    ("simulate --quantity odd", "quantity: unknown 'odd'"),
    ("simulate --imbalance odd", "imbalance: unknown 'odd'"),
    ("simulate --shift corruption:3", "shift: 'corruption:3' is not of the form"),
    ("simulate --benchmark mnist", "data-root: mnist is read from a folder and none is given"),
    ("simulate --benchmark mnist --data-root no-such", "data-root: no-such is no folder"),
    ("simulate --benchmark folder:no-such", "folder:no-such: no such folder"),
    ("simulate --benchmark folder:empty", "folder:empty: holds no images"),
    ("simulate --weights none.pth", "weights: no file 'none.pth'"),
    ("simulate --weights notes.txt", "'notes.txt' is neither imagenet nor a .safetensors or .pth"),
    ("simulate --resume misspelt --out x", "out: a run goes on where it is, in misspelt"),
    ("simulate --resume no-such", "resume: no-such/config.toml is not there"),
    ("simulate --resume empty", "resume: empty/config.toml is not there"),
    ("simulate --resume misspelt", "unknown key 'clinets'; did you mean 'clients'?"),
    ("simulate --resume broken", "broken/config.toml: Invalid value (at line 1"),
    ("simulate --resume nan", "nan/config.toml: lr: nan is not a finite number"),
    ("simulate --out taken", "out: taken holds a run already; name another folder"),
    ("simulate --out notes.txt", "out: notes.txt: File exists"),
    ("simulate --out notes.txt/below", "out: notes.txt/below: Not a directory"),
    ("compare --strategies fedagv", "strategy: unknown 'fedagv'"),
    ("compare --strategies ;", "strategies: nothing given"),
    ("compare --strategies fedavg;fedavg", "strategies: fedavg is given twice"),
    ("compare --seeds 1,x", "seeds: '1,x'; give whole numbers separated by commas"),
    ("compare --seeds 1,1", "seeds: 1 is given twice"),
    ("compare --seeds -1", "seed: -1 is out of range"),
    ("compare --strategy fedavg", "No such option '--strategy'. Did you mean '--strategies'?"),
    ("report", "Missing argument 'FOLDER..."),
    ("report no-such", "no-such: no such folder"),
    ("repor taken", "No such command 'repor'"),
]  # fmt: skip
LOADING = {
    line
    for line, what in REFUSED
    if "-args" in line
    or "does not use it" in what
    or line.startswith(("simulate --out", "simulate --adapt adabn"))
}
"""Refused by a class of ours, by what it uses or after it, and loading it loads torch."""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with what may lie in the way."""
    for name in ("empty", "taken/checkpoint", "misspelt", "broken", "nan"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "misspelt/config.toml").write_text("clinets = 3\n")
    (tmp_path / "broken/config.toml").write_text("clients = \n")
    (tmp_path / "nan/config.toml").write_text("lr = nan\n")
    monkeypatch.delenv("FEDADAPT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def say(line: str, **settings):
    return CliRunner().invoke(main, line.split(), **settings)


@pytest.mark.parametrize(("line", "reason"), REFUSED, ids=[line for line, _ in REFUSED])
def test_bad_input_is_one_line_and_exit_code_2(place, line, reason):
    result = say(line)
    assert result.exit_code == 2
    assert result.stdout == ""
    [only] = result.stderr.splitlines()
    assert only.startswith("fedadapt: ")
    assert reason in only
    assert not (place / "runs").exists()  # refused before anything was made


def test_help_and_refusals_load_no_torch(place):
    """All of them in one other process, since this one has loaded torch long ago."""
    lines = [""] + [f"{command} --help" for command in COMMANDS]
    lines += ["--help", "--version", "models", "benchmarks"]
    lines += [line for line, _ in REFUSED if line not in LOADING]
    program = f"""
import sys
from click.testing import CliRunner
from fedadapt.cli import main
for line in {lines!r}:
    CliRunner().invoke(main, line.split())
    heavy = {{"torch", "flwr", "ray", "matplotlib", "pyarrow", "sklearn"}} & sys.modules.keys()
    if heavy:
        sys.exit(f"{{line}} loads {{sorted(heavy)}}")
"""
    other = tiny.python("-c", program, cwd=place)
    _, trouble = other.communicate(timeout=60)
    assert (other.returncode, trouble) == (0, "")


def test_the_module_is_the_command(place):
    other = tiny.python("-m", "fedadapt", "simulate", "--rounds", "0", cwd=place)
    out, trouble = other.communicate(timeout=60)
    assert other.returncode == 2
    assert (out, trouble) == ("", "fedadapt: rounds: 0 is out of range; it must be >= 1\n")


@pytest.mark.parametrize("line", ["", "--help", "-h", *(f"{c} -h" for c in COMMANDS)])
def test_help_is_help(line):
    result = say(line)
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")
    assert result.stderr == ""


def test_the_overview_names_every_command():
    shown = say("").stdout
    assert all(command in shown for command in COMMANDS)


def test_every_key_is_an_option_with_its_default():
    shown = " ".join(say("simulate --help", terminal_width=200).stdout.split())
    for key, value in RunConfig().to_mapping().items():
        assert f"--{key} " in shown
        if value != "":
            default = str(value).lower() if isinstance(value, bool) else value
            assert f"[{default}]" in shown.partition(f"--{key} ")[2]


def test_the_version_is_the_package_s():
    assert say("--version").stdout == f"fedadapt, version {__version__}\n"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("models", ["mlp", "vgg11", "mobilenetv2-0.25", "resnet18"]),
        ("strategies", ["fedavg", "fedadam", "krum", "module:Class"]),
        ("adaptations", ["none", "adabn-s", "fedadapt adaptations NAME", "module:Class"]),
        ("adaptations kd", ["the teacher", "It needs labels.", "kd.share", "0.95", "> 0"]),
        ("adaptations none", ["It needs no labels.", "It takes no --adapt-args."]),
        ("benchmarks", ["digits-classes", "mnist", "folder:/path", "task after task"]),
        ("benchmarks mnist", ["60,000 + 10,000", "dirichlet:0.3", "MNIST/raw/"]),
    ],
)
def test_lists_name_what_there_is(place, command, words):
    result = say(command, env={"COLUMNS": "300"})
    assert result.exit_code == 0
    assert [word for word in words if word not in result.stdout] == []


def test_what_torch_finds_out_is_one_line_too_and_leaves_no_folder(place):
    """A strategy's arguments are known only once it is loaded."""
    result = say("simulate --strategy fedadam --strategy-args etta=1 --clients 3 --examples 30")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith(
        "fedadapt: strategy-args: fedadam has no argument 'etta'; did you mean 'eta'?"
    )
    assert not (place / "runs").exists()


def test_names_and_paths_are_printed_as_they_are(place, monkeypatch):
    """Neither emoji (:b:) nor markup ([bold]) is read into them."""
    tiny.without_pictures(monkeypatch)
    folder = "[bold]x:b:[/nothing]"
    result = CliRunner().invoke(main, ["simulate", *tiny.options(rounds=1, out=folder)])
    assert result.exit_code == 0, result.output
    assert f"-> {folder}" in result.stderr
    assert f"{folder}/report.html" in result.stdout


def test_runs_without_a_folder_get_one_each(place, monkeypatch):
    tiny.without_pictures(monkeypatch)
    for _ in range(2):
        result = CliRunner().invoke(main, ["simulate", *tiny.options(rounds=1)])
        assert result.exit_code == 0, result.output
    found = sorted(p.name for p in (place / "runs").iterdir())
    assert found == ["digits-classes-fedavg-1", "digits-classes-fedavg-2"]


def test_a_resumed_run_keeps_its_settings_and_refuses_others(place, monkeypatch):
    tiny.without_pictures(monkeypatch)
    tiny.run_interrupted(Path("cut"))
    refused = say("simulate --resume cut --lr 0.1 --seed 2")
    assert refused.exit_code == 2
    assert refused.stderr.splitlines()[-1] == (
        "fedadapt: resume: other settings than the run began with: lr was 0.05, is 0.1; "
        "seed was 1, is 2; give the former values or start a new run"
    )
    result = say("simulate --resume cut")
    assert result.exit_code == 0, result.output
    assert json.loads(Path("cut/summary.json").read_text())["rounds"] == tiny.SETTINGS["rounds"]


def test_a_report_is_written_again(place, monkeypatch):
    with monkeypatch.context() as patch:
        tiny.without_pictures(patch)
        tiny.run(place / "done", rounds=1)
    assert not (place / "done/report.html").exists()
    result = say("report done")
    assert result.exit_code == 0, result.output
    assert result.stdout == "done/report.html\n"
    assert "<html" in Path("done/report.html").read_text()


def test_a_folder_without_a_run_has_no_report(place):
    result = say("report empty")
    assert result.exit_code == 2
    assert result.stderr.startswith("fedadapt: empty: holds no run")


def test_the_settings_in_a_run_folder_are_the_ones_given(place, monkeypatch):
    tiny.without_pictures(monkeypatch)
    result = CliRunner().invoke(main, ["simulate", *tiny.options(rounds=1, out="here", seed=7)])
    assert result.exit_code == 0, result.output
    saved = tomllib.loads(Path("here/config.toml").read_text())
    assert saved == RunConfig().to_mapping() | tiny.SETTINGS | {
        "rounds": 1, "out": "here", "seed": 7,
    }  # fmt: skip


def test_compare_makes_one_table_of_many_runs(place, monkeypatch):
    tiny.without_pictures(monkeypatch)
    given = [word for word in tiny.options(rounds=1, adapt="none") if word]
    given = given[: given.index("--adapt-args")]
    line = ["compare", *given, "--strategies", "fedavg; fedprox mu=1", "--seeds", "1,2"]
    result = CliRunner().invoke(main, [*line, "--out", "all"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    folders = sorted(p.name for p in Path("all").iterdir() if p.is_dir())
    assert folders == [
        f"{name}-seed{seed}" for name in ("fedavg", "fedprox-mu=1") for seed in (1, 2)
    ]
    manifests = {
        seed: {json.loads((p / "summary.json").read_text())["manifest"]
               for p in Path("all").glob(f"*seed{seed}")}
        for seed in (1, 2)
    }  # fmt: skip
    assert [len(found) for found in manifests.values()] == [1, 1]  # the same clients for both
    *files, page = result.stdout.split()[-4:]
    assert {Path(f).suffix for f in files} == {".md", ".tex", ".csv"}
    assert all(Path(f).read_text().count("mu=1") == 1 for f in files)
    assert Path(page).name == "report.html"

    def never(*_, **__):
        raise AssertionError("a finished run was run again")

    monkeypatch.setattr("fedadapt.simulations.run.simulate", never)
    again = CliRunner().invoke(main, [*line, "--out", "all"], env={"COLUMNS": "200"})
    assert again.exit_code == 0, again.output
    assert again.stdout == result.stdout
    other = CliRunner().invoke(main, [*line, "--out", "all", "--lr", "0.1"])
    assert other.exit_code == 2
    assert "holds a run with other settings (lr)" in other.stderr.splitlines()[-1]


def test_ctrl_c_before_the_first_round_is_no_traceback(place, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("fedadapt.simulations.run.simulate", stopped)
    result = CliRunner().invoke(main, ["simulate", *tiny.options()])
    assert result.exit_code == 5
    assert result.stderr.splitlines()[-1] == "fedadapt: interrupted"
