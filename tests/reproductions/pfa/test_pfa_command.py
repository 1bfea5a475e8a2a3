"""`fedadapt reproduce` of PFA, whole, on scikit-learn's digits."""

import json
from dataclasses import replace

import pytest
import tiny

from fedadapt.errors import InputError
from fedadapt.reproductions.pfa.command import reproduce, run
from fedadapt.reproductions.pfa.plan import PAPER, Experiment, Rounds
from fedadapt.reproductions.pfa.results import finds_the_same_groups


def test_runs_tables_and_picture_of_a_small_experiment(tmp_path, capsys, monkeypatch):
    tiny.without_pictures(monkeypatch)
    base = replace(PAPER, benchmark="digits-classes", clients=4, examples=40, model="mlp",
                   local_epochs=1, normalization="auto")  # fmt: skip
    wanted = Experiment(name="pfa-digits", base=base, groups=2, rounds=Rounds(1, 2), random=True)
    run(wanted, [1], tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    for word in ("Baseline", "Fine-tune", "PFA", "Random", "Groups", "reproduction.md"):
        assert word in said
    metadata = json.loads((tmp_path / "reproduction.json").read_text())
    assert metadata["seeds"] == [1]
    assert len(metadata["accuracy"]["PFA"]["last"][0]) == 4
    assert len(metadata["accuracy"]["PFA, number found"]["last"][0]) == 4
    assert (tmp_path / "reproduction.png").exists()


@pytest.mark.parametrize("arguments", ["leyer=8", "layer=8 layer=9", "q=0", "groups=4"])
def test_arguments_that_are_none_are_refused_before_any_run(tmp_path, arguments):
    given = {"strategy_args": arguments, "data_root": str(tmp_path), "out": tmp_path / "runs"}
    with pytest.raises(InputError, match="strategy-args"):
        reproduce("pfa-cifar10", given)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("labels", "same"), [([0, 0, 0, 1, 1, 1], True), ([0] * 6, False)])
def test_the_number_of_groups_found_is_run_only_where_the_groups_differ(tmp_path, labels, same):
    vectors = [[0.1, 0.1], [0.11, 0.1], [0.1, 0.11], [0.9, 0.9], [0.9, 0.91], [0.91, 0.9]]
    (tmp_path / "groups.json").write_text(json.dumps({"vectors": vectors, "labels": labels}))
    assert finds_the_same_groups(replace(PAPER, strategy="pfa", out=str(tmp_path))) is same
