"""`fedadapt reproduce` of PFA, whole, on scikit-learn's digits."""

import json
from dataclasses import replace

import pytest
import tiny

from fedadapt.errors import InputError
from fedadapt.reproductions.pfa_command import reproduce, run
from fedadapt.reproductions.pfa_plan import PAPER, Experiment, Rounds


def test_runs_tables_and_picture_of_a_small_experiment(tmp_path, capsys, monkeypatch):
    tiny.without_pictures(monkeypatch)
    base = replace(PAPER, benchmark="digits-classes", devices=4, examples=40, model="mlp",
                   local_epochs=1, normalization="auto")  # fmt: skip
    wanted = Experiment(name="pfa-digits", base=base, groups=2, rounds=Rounds(1, 2), random=True)
    run(wanted, [1], tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    for word in ("Baseline", "Fine-tune", "PFA", "Random", "Groups", "reproduction.md"):
        assert word in said
    facts = json.loads((tmp_path / "reproduction.json").read_text())
    assert facts["seeds"] == [1]
    assert len(facts["accuracy"]["PFA"]["last"][0]) == 4
    assert (tmp_path / "reproduction.png").exists()


@pytest.mark.parametrize("arguments", ["leyer=8", "layer=8 layer=9", "q=0", "groups=4"])
def test_arguments_that_are_none_are_refused_before_any_run(tmp_path, arguments):
    given = {"strategy_args": arguments, "data_root": str(tmp_path), "out": tmp_path / "runs"}
    with pytest.raises(InputError, match="strategy-args"):
        reproduce("pfa-cifar10", given)
    assert not (tmp_path / "runs").exists()
