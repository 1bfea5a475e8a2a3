"""The federated loop: what it leaves behind, when it gives up, and that a killed run goes on."""

import json
import math
import time
from dataclasses import replace

import pytest
import torch
from third_party_adaptations import Asks
from toy_run import METHODS, SETTINGS, SPLITS, START, Faulty, Run, assert_same_run, corrupted
from toys import assert_close, assert_same_bits, cohort, conv

from fedadapt.client.adaptations.ewc import Ewc
from fedadapt.config import RunConfig
from fedadapt.errors import DivergedError, QuorumLostError
from fedadapt.records import CommunicationEntry, Evaluation, RoundLoss
from fedadapt.server.checkpoint import Checkpoints, load_latest
from fedadapt.server.sampling import sample
from fedadapt.weights import num_bytes, repeat


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run nobody disturbs."""
    return Run(tmp_path_factory.mktemp("whole")).go()


def test_evaluations_are_of_everybody_at_the_start_now_and_then_and_at_the_end(whole):
    rows = whole.rows(Evaluation)
    own = [r for r in rows if r.split == "test"]
    assert {r.round for r in own} == {0, 2, 4}
    assert {(r.round, r.label) for r in own} == {
        *((r, "base") for r in (0, 2, 4)),
        *((4, f"base+{a}") for a in ("adabn", "fine-tune", "ewc")),
        (4, "local"),
    }
    for number, label in {(r.round, r.label) for r in own}:
        clients = [r.client for r in own if (r.round, r.label) == (number, label)]
        assert clients == list(range(6))
    assert {r.client for r in own if not r.seen} == {5}
    everywhere = [r for r in rows if r.split == "global"]
    assert [(r.round, r.client, r.label) for r in everywhere] == [(4, -1, "base")]


def test_the_communication_log_has_a_line_for_every_message(whole):
    communication = whole.rows(CommunicationEntry)
    for number in range(1, 5):
        asked = [e.client for e in communication if (e.action, e.round) == ("train", number)]
        assert tuple(asked) == sample((0, 1, 2, 3, 4), 0.5, 5, number)
        assert len(asked) == 3
    assert {e.outcome for e in communication} == {"accepted"}
    fishers = [e.client for e in communication if e.action == "query.ewc_fisher"]
    assert fishers == [0, 1, 2, 3, 4]
    model = num_bytes(START)
    parameters = sum(num_bytes({n: START[n]}) for n, _ in conv().named_parameters())
    down = {(e.action, e.round): {e.bytes_down} for e in communication if e.round < 4}
    assert down[("evaluate", 0)] == down[("train", 1)] == {model}
    last = [e.bytes_down for e in communication if (e.action, e.round) == ("evaluate", 4)]
    # The Fisher goes down for EWC; nothing goes down to clients that train alone.
    assert sorted(last) == [0] * 6 + [model + parameters] * 6


def test_evaluation_is_apart_from_training_in_the_log(whole):
    phases = {(e.action, e.phase) for e in whole.rows(CommunicationEntry)}
    assert phases == {
        ("train", "training"), ("evaluate", "evaluation"), ("query.ewc_fisher", "evaluation"),
    }  # fmt: skip


def test_losses_are_of_the_clients_that_trained(whole):
    losses = whole.rows(RoundLoss)
    assert [r.round for r in losses] == [1, 2, 3, 4]
    assert {r.num_clients for r in losses} == {3}
    assert all(math.isfinite(r.loss) for r in losses)


def test_the_same_settings_give_the_same_run(whole, tmp_path):
    assert_same_run(Run(tmp_path).go(), whole)


def test_stacking_changes_only_rounding(whole, tmp_path):
    stacked = Run(tmp_path / "stacked", execution="stacked-kernels", cohort_size=3).go()
    assert_close(stacked.state, whole.state)
    for found, wanted in zip(stacked.rows(Evaluation), whole.rows(Evaluation), strict=True):
        assert found[:9] == wanted[:9]
        assert found.loss == pytest.approx(wanted.loss, rel=1e-7)


@pytest.mark.parametrize(
    "stop",
    [
        ("train", 1),
        ("train", 3),
        ("train", 4),
        ("evaluate", 2),
        ("evaluate", 4),
        ("query.ewc_fisher", 4),
    ],
)
def test_a_run_that_was_killed_goes_on_as_if_nothing_had_happened(whole, tmp_path, stop):
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path, stop=stop).go()
    resumed = Run(tmp_path)
    assert_same_run(resumed.go(resume=True), whole)


def test_a_run_killed_twice_goes_on(whole, tmp_path):
    for resume, stop in [(False, ("train", 2)), (True, ("train", 4))]:
        with pytest.raises(KeyboardInterrupt):
            Run(tmp_path, stop=stop).go(resume)
    assert_same_run(Run(tmp_path).go(resume=True), whole)


def test_a_finished_run_can_be_finished_again(whole, tmp_path):
    Run(tmp_path).go()
    assert_same_run(Run(tmp_path).go(resume=True), whole)


def test_more_rounds_go_on_from_fewer(tmp_path):
    six = replace(SETTINGS, rounds=6)
    longer = Run(tmp_path / "longer", six).go()
    Run(tmp_path / "shorter").go()
    found = Run(tmp_path / "shorter", six).go(resume=True)
    assert_same_bits(found.state, longer.state)
    assert found.rows(RoundLoss) == longer.rows(RoundLoss)
    # What was the end of the shorter one is evaluated on the way, too.
    assert found.rows(Evaluation) == longer.rows(Evaluation)
    assert found.rows(CommunicationEntry) == longer.rows(CommunicationEntry)


def test_a_failed_round_leaves_the_model_as_it_was_and_the_run_goes_on(tmp_path):
    config = RunConfig(rounds=2, max_failed_rounds=2, min_replies=0.6, evaluate_every=1)
    found = Run(tmp_path, config, batch_norm="shared", lose={1: 3}, adaptations=METHODS[:1]).go()
    rows = [r for r in found.rows(Evaluation) if r.split == "test"]
    losses = {n: [r.loss for r in rows if r.round == n] for n in (0, 1, 2)}
    assert losses[0] == losses[1] != losses[2]
    lost = [(e.round, e.client) for e in found.rows(CommunicationEntry) if e.outcome == "lost"]
    assert lost == [(1, 0), (1, 1), (1, 2)]


def test_a_failed_round_in_between_does_not_end_the_run(tmp_path):
    # Two failed rounds in all, but never two in a row.
    config = RunConfig(rounds=4, max_failed_rounds=2, min_replies=0.6)
    found = Run(tmp_path, config, lose={1: 3, 3: 3}, adaptations=METHODS[:1]).go()
    assert {e.round for e in found.rows(CommunicationEntry) if e.outcome == "lost"} == {1, 3}


@pytest.mark.parametrize("resume", [False, True])
def test_too_many_failed_rounds_in_a_row_end_the_run(tmp_path, resume):
    config = RunConfig(rounds=5, max_failed_rounds=2, min_replies=0.6, checkpoint_every=1)
    run = Run(tmp_path, config, lose={2: 3, 3: 3}, stop=("train", 3) if resume else None)
    if resume:  # the count is in the checkpoint
        with pytest.raises(KeyboardInterrupt):
            run.go()
        run = Run(tmp_path, config, lose={3: 3})
    with pytest.raises(QuorumLostError) as caught:
        run.go(resume)
    assert caught.value.exit_code == 3
    assert "round 3: train: 2 of 5 clients gave a usable answer, 3 needed" in str(caught.value)
    assert f"--resume {tmp_path}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_that_gave_up_can_go_on_when_the_clients_are_back(tmp_path):
    config = RunConfig(rounds=3, min_replies=0.6)
    with pytest.raises(QuorumLostError):
        Run(tmp_path / "gave up", config, lose={2: 3}).go()
    assert load_latest(tmp_path / "gave up").round == 1
    found = Run(tmp_path / "gave up", config).go(resume=True)
    wanted = Run(tmp_path / "never", config).go()
    assert_same_bits(found.state, wanted.state)
    assert found.rows(Evaluation) == wanted.rows(Evaluation)
    outcomes = [
        e.outcome for e in found.rows(CommunicationEntry) if (e.action, e.round) == ("train", 2)
    ]
    assert outcomes.count("lost") == 3  # what went wrong stays on record


@pytest.mark.parametrize("engine", [{}, {"execution": "stacked-kernels", "cohort_size": 3}])
def test_everybody_diverging_ends_the_run_as_such(tmp_path, engine):
    run = Run(tmp_path, splits=[corrupted(s) for s in SPLITS], **engine)
    with pytest.raises(DivergedError, match="a lower lr may help") as caught:
        run.go()
    assert caught.value.exit_code == 4
    assert load_latest(tmp_path).round == 0
    assert_same_bits(load_latest(tmp_path).tensors, START)


def test_everybody_failing_ends_the_run_as_lost(tmp_path):
    unreadable = [s if d == 5 else OSError("no such file") for d, s in enumerate(SPLITS)]
    with pytest.raises(QuorumLostError, match="0 of 3 clients"):
        Run(tmp_path, splits=unreadable).go()


def test_clients_that_diverge_are_rejected_and_the_others_train_on(tmp_path):
    run = Run(tmp_path, splits=[corrupted(SPLITS[0]), *SPLITS[1:]], adaptations=METHODS[:2]).go()
    rejected = {e.client for e in run.rows(CommunicationEntry) if e.outcome == "rejected"}
    assert rejected == {0}
    assert all(t.isfinite().all() for t in run.state.values())
    lost = {(r.client, r.label) for r in run.rows(Evaluation) if not math.isfinite(r.loss)}
    assert lost == {(0, "local")}  # which trains on its own images alone
    assert "norms" not in run.states.get(0, {})


def test_answers_to_a_query_are_pooled_by_examples(tmp_path):
    """Of the clients that train, at the last base model; none but the last evaluation has them."""
    config, ewc, requests = RunConfig(rounds=2, local=False), Ewc(epochs=1, lam=1.0), []

    class Recording(Faulty):
        def evaluate(self, request):
            requests.append(request)
            return super().evaluate(request)

    run = Run(tmp_path, config, batch_norm="shared", adaptations=(Asks(), ewc))
    run.client_pool.__class__ = Recording
    run.go()
    assert [bool(request.pooled) for request in requests] == [False, False, True]
    pooled = requests[-1].pooled
    assert list(pooled) == ["third_party_adaptations:Asks", "ewc"]
    seen, examples = SPLITS[:5], torch.tensor([5.0, 12, 10, 7, 9], dtype=torch.float64)
    assert [len(split.train) for split in seen] == examples.tolist()
    share = examples / examples.sum()
    wanted = torch.stack([share @ torch.arange(5.0).double(), share @ examples])
    assert_close(pooled["third_party_adaptations:Asks"], {"sizes": wanted})
    members = cohort(conv(), seen, clients=range(5), seed=config.seed, round=2)
    fishers = ewc.own_fisher(members, repeat(run.state, 5))
    assert_close(pooled["ewc"], {n: torch.tensordot(share, t, 1) for n, t in fishers.items()})


def test_without_the_federations_fisher_each_client_takes_its_own(tmp_path):
    config = RunConfig(rounds=1, min_replies=1.0)
    found = Run(tmp_path / "own", config, adaptations=(Ewc(epochs=1, fisher="own"),)).go()

    class Deaf(Faulty):
        def ask(self, action, round, sent, expected):
            if action == "query.ewc_fisher":
                return iter(())
            return super().ask(action, round, sent, expected)

    other = Run(tmp_path / "deaf", config, adaptations=(Ewc(epochs=1),))
    other.client_pool.__class__ = Deaf
    other.go()
    assert found.rows(Evaluation) == other.rows(Evaluation)
    lost = [e for e in other.rows(CommunicationEntry) if e.outcome == "lost"]
    assert [e.client for e in lost] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("word", "rows"), [("none", 0), ("base", 1), ("all", 6 * 5)])
def test_the_global_test_is_of_the_models_asked_for(tmp_path, word, rows):
    config = RunConfig(rounds=2, evaluate_every=1, global_test=word)
    found = [r for r in Run(tmp_path, config).go().rows(Evaluation) if r.split == "global"]
    assert len(found) == rows


def test_the_checkpoint_says_what_it_is_of(whole):
    checkpoint = load_latest(whole.folder)
    assert checkpoint.round == 4
    assert checkpoint.config == SETTINGS.to_mapping()
    assert json.dumps(checkpoint.metadata)
    assert_same_bits(checkpoint.tensors, whole.state)


@pytest.mark.parametrize(("every", "saved"), [(1, [0, 1, 2, 3, 4]), (3, [0, 3, 4]), (9, [0, 4])])
def test_a_run_is_saved_as_often_as_asked_and_at_both_ends(tmp_path, monkeypatch, every, saved):
    found, save = [], Checkpoints.save

    def noting(self, checkpoint):
        found.append(checkpoint.round)
        return save(self, checkpoint)

    monkeypatch.setattr(Checkpoints, "save", noting)
    Run(tmp_path, replace(SETTINGS, checkpoint_every=every)).go()
    assert found == saved


def test_if_not_told_otherwise_saving_costs_a_small_share_of_the_time(tmp_path, monkeypatch):
    def slow(self, checkpoint):
        time.sleep(0.05)  # twenty times that, and the run is over
        found.append(checkpoint.round)

    found: list[int] = []
    monkeypatch.setattr(Checkpoints, "save", slow)
    Run(tmp_path, replace(SETTINGS, checkpoint_every=0)).go()
    assert found == [0, 4]


class Watched(Faulty):
    """Notes what begins and ends when; a trial begins at the call."""

    def ask(self, action, round, sent, expected):
        self.seen.append(("asks", round))
        return self._until_answered(super().ask(action, round, sent, expected), round)

    def _until_answered(self, stream, round):
        for position, answers in enumerate(stream):
            self.seen += [("answers", round)] if position == 0 else []
            yield answers

    def evaluate(self, request):
        self.seen.append(("tries", request.round))
        return self._until_tried(super().evaluate(request))

    def _until_tried(self, stream):
        tried = list(stream)
        yield from tried
        self.seen.append(("tried", tried[0].rows[0].round))


@pytest.mark.parametrize("every", [9, 1])
def test_clients_train_on_while_the_last_models_are_tried_but_for_checkpoints(
    tmp_path, whole, every
):
    run = Run(tmp_path, replace(SETTINGS, checkpoint_every=every))
    run.client_pool.__class__, run.client_pool.seen = Watched, []
    run.go()
    around = [("tries", 2), ("asks", 3), ("tried", 2), ("answers", 3)]
    if every == 1:  # what a checkpoint says has been evaluated has been
        around[1:3] = around[2], around[1]
    first = run.client_pool.seen.index(around[0])
    assert run.client_pool.seen[first : first + 4] == around
    assert_same_run(run, whole)


@pytest.mark.parametrize("batch_norm", ["local", "shared"])
def test_evaluations_in_worker_processes_see_the_states_of_their_own_round(tmp_path, batch_norm):
    """While the next one has begun: what clients keep is as it was, too."""
    config = replace(SETTINGS, evaluate_every=1, checkpoint_every=9)
    of = {"batch_norm": batch_norm, "adaptations": METHODS[:2]}
    found = Run(tmp_path / "found", config, num_workers=2, cohort_size=1, **of).go()
    assert_same_run(found, Run(tmp_path / "wanted", config, **of).go())


def test_rounds_after_the_last_save_are_done_again(tmp_path, whole):
    config = replace(SETTINGS, checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path, config, stop=("train", 4)).go()
    assert load_latest(tmp_path).round == 2
    found = Run(tmp_path, config).go(resume=True)
    assert_same_bits(found.state, whole.state)
    assert found.rows(Evaluation) == whole.rows(Evaluation)


def test_clients_without_an_evaluation_are_lost_and_failures_are_errors_of_that_round(tmp_path):
    class Mute(Faulty):
        def evaluate(self, request):
            return (a for a in super().evaluate(request) if 3 not in a.clients)

    splits = [OSError("gone") if d == 5 else s for d, s in enumerate(SPLITS)]
    run = Run(tmp_path, replace(SETTINGS, local=False), splits=splits, adaptations=METHODS[:1])
    run.client_pool.__class__ = Mute
    found = [e for e in run.go().rows(CommunicationEntry) if e.action == "evaluate"]
    assert [(e.round, e.client) for e in found if e.outcome == "lost"] == [(0, 3), (2, 3), (4, 3)]
    assert [(e.round, e.client) for e in found if e.outcome == "error"] == [(0, 5), (2, 5), (4, 5)]


def test_personal_models_are_tried_before_the_next_round_begins(tmp_path):
    run = Run(tmp_path, replace(SETTINGS, checkpoint_every=9), adaptations=METHODS[:1])
    models_by_task = run.method.models_by_task
    run.method.models_by_task = lambda some: (
        (t, m | {"personal": m["base"]}) for t, m in models_by_task(some)
    )
    run.client_pool.__class__, run.client_pool.seen = Watched, []
    seen = run.go().client_pool.seen
    assert seen.index(("tried", 2)) < seen.index(("asks", 3))
