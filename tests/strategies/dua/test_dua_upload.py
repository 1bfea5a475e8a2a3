"""DUA's uploads: what each costs, and that personal models are nearly what they would be."""

import numpy as np
import pytest
import tiny

from fedadapt.server.checks import Expected
from fedadapt.simulations.assembly import assemble, server_side
from fedadapt.simulations.check import check
from fedadapt.simulations.results.parquet import read_communication, read_evaluations
from fedadapt.strategies.dua.strategy import IMPORTANCE, DuaState
from fedadapt.weights import num_bytes, row

SOME = {
    **tiny.UNTRAINED,
    "benchmark": "digits-tasks",
    "clients": 3,
    "rounds": 2,
    "examples": 30,
    "adapt": "none",
}
VARIANTS = ["fp32", "fp16", "log8", "difference share=0.2", "difference share=0.01", "difference"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("uploads")


def settings(folder, upload: str) -> dict:
    words = f"epochs=4 lr=0.02 expert_folder={folder / 'experts'} upload={upload}"
    return {**SOME, "strategy": "mas-racl", "strategy_args": words}


@pytest.fixture
def sides(folder):
    """The server's side, and the users' worker."""

    def make(upload: str):
        made = tiny.config(**settings(folder, upload))
        assembly = assemble(made)
        server = assembly.worker.strategy.prepare(server_side(assembly, folder))
        return server, assembly.worker

    return make


@pytest.mark.parametrize("upload", VARIANTS)
def test_what_is_expected_of_a_user_is_what_it_answers(sides, upload):
    server, worker = sides(upload)
    for task in range(2):
        sent = server.send(DuaState(task, (0, 1)), IMPORTANCE, task + 1, (0, 1))
        update = worker.answer(IMPORTANCE, task + 1, sent)
        expected = Expected.of(server.expected(IMPORTANCE, row(sent.weights, 0)))
        assert Expected.of(row(update.weights, 0)) == expected
        assert server.validation_errors(IMPORTANCE, update) == {}


def test_shared_importances_are_the_servers_own_and_the_client_needs_no_other(sides):
    """Nobody but the server has the images they are of."""
    server, worker = sides("difference share=0.2")
    assert worker.strategy.server_importances == ()
    code = server.importance_request.code(
        row(server.send(DuaState(0, (0,)), IMPORTANCE, 1, (0,)).weights, 0)
    )
    for n, t in server.server_importances[0].items():
        told = code.shared[n].double()
        assert ((told - t).abs() <= 0.0561 * t).all()
    assert num_bytes(row(server.send(DuaState(0, (0,)), IMPORTANCE, 1, (0,)).weights, 0)) == (
        num_bytes(server.experts[0].weights)
        + sum(t.numel() + 16 for t in server.server_importances[0].values())
    )


def run(folder, upload: str):
    """Losses of the personal models in the end, and bytes up of every answer."""
    out = folder / upload.replace(" ", "-")
    if not (out / "summary.json").exists():
        tiny.run(out, **settings(folder, upload))
    rows = [r for r in read_evaluations(out) if r.round == 2 and r.model == "personal"]
    asked = [r for r in read_communication(out) if r.action == IMPORTANCE]
    assert {r.outcome for r in asked} == {"accepted"}
    [up] = {r.bytes_up for r in asked}
    return np.array([r.loss for r in sorted(rows)]), up


@pytest.mark.parametrize(
    ("upload", "tolerance"),
    [("fp16", 1e-3), ("log8", 0.03), ("difference share=1", 0.03), ("difference share=0.5", 0.1)],
)
def test_a_smaller_upload_gives_nearly_the_same_models(folder, monkeypatch, upload, tolerance):
    tiny.without_pictures(monkeypatch)
    wanted, most = run(folder, "fp32")
    found, fewer = run(folder, upload)
    assert fewer < 0.55 * most
    assert np.abs(found - wanted).max() < tolerance


def test_the_less_travels_the_nearer_a_model_is_to_the_base(folder, monkeypatch):
    """And with next to nothing it is the base, but for how much the layers are excited."""
    tiny.without_pictures(monkeypatch)
    whole, _ = run(folder, "fp32")
    half, bytes_half = run(folder, "difference share=0.5")
    none, bytes_none = run(folder, "difference share=0.0001")
    assert np.abs(none - whole).sum() > 2 * np.abs(half - whole).sum()
    assert bytes_none < 200 < bytes_half


def test_uploads_are_written_down_byte_by_byte(folder, sides, monkeypatch):
    tiny.without_pictures(monkeypatch)
    server, _ = sides("fp32")
    sizes = [t.numel() for t in server.server_importances[0].values()]
    entries, some = sum(sizes), round(0.2 * sum(sizes))
    costs = {
        "fp32": 4 * entries,
        "fp16": 2 * entries + 2 * len(sizes),
        "log8": entries + 16 * len(sizes),
        "difference share=0.2": some + 16 + -(-entries // 8) + 8 * len(sizes),
    }
    for upload, cost in costs.items():
        assert run(folder, upload)[1] == cost + 8  # and a weight, of one for everybody


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("upload=diff", "strategy-args: upload: unknown 'diff'"),
        ("share=0.1", "strategy-args: share: goes with upload=difference; leave one out"),
        ("upload=log8 share=0.1", "strategy-args: share: goes with upload=difference"),
        ("upload=difference share=0", "share: 0.0 is out of range; it must be > 0 and <= 1"),
        ("upload=difference share=1.5", "share: 1.5 is out of range"),
        ("upload=difference share=true", "share: expected float, got bool True"),
        ("upload=difference share=nan", "share: nan is not a finite number"),
        ("upload=difference share=few", "share: expected float, got str 'few'"),
        ("merge_on=client upload=log8", "upload: with merge_on=client nothing is uploaded"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(arguments, said):
    with pytest.raises(Exception, match=said) as caught:
        check(tiny.config(**{**SOME, "strategy": "mas-racl", "strategy_args": arguments}))
    assert "\n" not in str(caught.value)
