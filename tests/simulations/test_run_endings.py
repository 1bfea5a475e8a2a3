"""What whole runs say at their end when something of their evaluation failed, and what it cost."""

import pytest
import tiny

from fedadapt.errors import EvaluationFailedError
from fedadapt.simulations.results.parquet import read_communication
from fedadapt.simulations.results.run_folder import RunFolder
from fedadapt.simulations.worker import Worker


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    tiny.without_pictures(monkeypatch)


def test_an_adaptation_that_fails_loses_its_own_row_only(tmp_path):
    """AdaBN on one image, after a network whose batch norm sees one number a channel."""
    changes = {"examples": 20, "adapt_share": 0.05, "model": tiny.NORM_MLP, "rounds": 1}
    summary = tiny.run(tmp_path, adapt="none,adabn,fine-tune", **changes)
    counts = {label: found["num_clients"] for label, found in summary["accuracy"].items()}
    assert counts == {"local": 6, "base": 6, "base+adabn": 0, "base+fine-tune": 6}
    assert summary["failed_evaluations"] == {"base+adabn": 6}
    assert summary["evaluated_round"] == 1
    failures = list(RunFolder.read(tmp_path).failures)
    assert [(f.client, f.label) for f in failures] == [(d, "base+adabn") for d in range(6)]


def test_a_run_without_a_final_evaluation_has_no_headline_but_its_model(tmp_path, monkeypatch):
    evaluate = Worker.evaluate

    def not_at_the_end(self, round, *given, **more):
        if round == 3:
            raise OSError("gone")
        return evaluate(self, round, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "evaluate", not_at_the_end)
        with pytest.raises(EvaluationFailedError, match="--resume"):
            tiny.run(tmp_path)
    assert not (tmp_path / "summary.json").exists()
    assert (tmp_path / "models" / "base.safetensors").exists()
    reasons = {e.reason[:13] for e in read_communication(tmp_path) if e.outcome == "error"}
    assert reasons == {"crash:OSError"}
    found = tiny.run(tmp_path, resume=True)
    assert tiny.timeless(found) == tiny.timeless(tiny.run(tmp_path / "whole"))


def test_flowers_fedprox_trains_at_the_price_of_ours(tmp_path):
    """Its own evaluation in the middle of rounds is counted as evaluation, so bytes agree."""
    settings = {"adapt": "none", "rounds": 2}
    ours = tiny.run(tmp_path / "ours", strategy="fedprox", strategy_args="mu=0.1", **settings)
    theirs = tiny.run(
        tmp_path / "theirs", strategy="flower-fedprox", strategy_args="proximal_mu=0.1", **settings
    )
    assert theirs["bytes_down"] == ours["bytes_down"]
    # Integers are not the strategy's business on the way up; this network has none.
    assert theirs["bytes_up"] == ours["bytes_up"]
    assert theirs["evaluation"]["bytes_down"] > ours["evaluation"]["bytes_down"]
    log = read_communication(tmp_path / "theirs")
    in_rounds = [e for e in log if e.action == "evaluate" and e.round == 1]
    assert {e.phase for e in in_rounds} == {"evaluation"}
