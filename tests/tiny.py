"""Whole runs of seconds: six clients with sixty handwritten digits each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedadapt.config import RunConfig
from fedadapt.errors import InterruptedRunError
from fedadapt.simulations import run as runs
from fedadapt.simulations.assembly import assemble
from fedadapt.simulations.worker import Worker
from fedadapt.weights import Weights

ROOT = Path(__file__).parents[1]

SETTINGS = {
    "clients": 6,
    "examples": 60,
    "rounds": 3,
    "local-epochs": 1,
    "checkpoint-every": 1,
    "adapt": "none,fine-tune",
    "adapt-args": "fine-tune.epochs=2",
}

UNTRAINED = {"local_epochs": RunConfig().local_epochs}
"""For strategies whose clients do not train: they refuse settings of training."""

NORM_MLP = "third_party:norm_mlp"
"""A network with batch norm that trains in milliseconds."""


def config(**changes: object) -> RunConfig:
    """A run of a second; keys are written as the fields of ``RunConfig``."""
    given = {name.replace("_", "-"): value for name, value in changes.items()}
    if "adapt" in given:
        given = {"adapt-args": "", **given}
    return RunConfig.from_mapping(SETTINGS | given)


def options(**changes: object) -> list[str]:
    """The same as options of the command line."""
    given = SETTINGS | {name.replace("_", "-"): value for name, value in changes.items()}
    return [word for key, value in given.items() for word in (f"--{key}", str(value))]


def run(folder: Path, resume: bool = False, **changes: object) -> dict:
    """Run in this process without anything that another run left behind; the summary."""
    assemble.cache_clear()
    folder.mkdir(parents=True, exist_ok=True)
    return runs.simulate(config(**changes), folder, resume=resume)


def base(folder: Path) -> Weights:
    return load_file(folder / "models" / "base.safetensors")


def timeless(summary: dict) -> dict:
    return {k: v for k, v in summary.items() if k not in ("seconds", "client_seconds")}


def same_bits(found: Weights, wanted: Weights) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[n], wanted[n]) for n in wanted)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, round: int, client: int) -> None:
    """Ctrl-C while ``client`` trains in ``round``."""
    answer = Worker.answer

    def answer_or_stop(self, action, number, sent, states=()):
        if action == "train" and number == round and client in sent.clients:
            raise KeyboardInterrupt
        return answer(self, action, number, sent, states)

    monkeypatch.setattr(Worker, "answer", answer_or_stop)


def run_interrupted(folder: Path, round: int = 2, **changes: object) -> None:
    """A run that is cut off in ``round``."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, round, client=3)
        with pytest.raises(InterruptedRunError, match="go on with: fedadapt simulate --resume"):
            run(folder, **changes)


def python(*arguments: object, **settings: object) -> subprocess.Popen:
    """Another Python that finds fedadapt and what lies beside the tests."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **settings,
    )


def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most runs are not looked at; drawing takes longer than they do."""

    def nothing(*_: object, **__: object) -> None:
        pass

    monkeypatch.setattr(runs, "picture", nothing)
    monkeypatch.setattr(runs, "write_report", nothing)
