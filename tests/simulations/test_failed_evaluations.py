"""An adaptation that fails on a client loses that result and no other, and is on record."""

from dataclasses import replace

import pytest
from toy_run import METHODS, SETTINGS, SPLITS, Run

from fedadapt.client.adaptations.adabn import AdaBN
from fedadapt.client.adaptations.fine_tune import FineTune
from fedadapt.client.adaptations.none import NoAdaptation
from fedadapt.errors import EvaluationFailedError
from fedadapt.records import Evaluation, EvaluationFailure

CONFIG = replace(SETTINGS, evaluate_every=9, local=False)
ADAPTATIONS = (NoAdaptation(), AdaBN(), FineTune(epochs=1))


def one_adapt_image(client: int):
    """Batch norm takes no statistics of one image that is one pixel after the convolution."""
    whole = SPLITS[client]
    nothing = type(whole.adapt)(whole.adapt.inputs[:0], whole.adapt.labels[:0])
    return whole._replace(adapt=nothing)


@pytest.mark.parametrize(
    "engine",
    [
        {},
        {"execution": "stacked-kernels", "cohort_size": 4},
        {"num_workers": 2, "cohort_size": 3},
    ],
)
def test_only_the_failing_adaptation_of_the_client_is_lost(tmp_path, engine):
    splits = [one_adapt_image(d) if d in (1, 2) else s for d, s in enumerate(SPLITS)]
    run = Run(tmp_path, CONFIG, splits=splits, adaptations=ADAPTATIONS, **engine).go()
    last = [r for r in run.rows(Evaluation) if r.round == 4 and r.split == "test"]
    clients = {
        label: [r.client for r in last if r.label == label] for label in {r.label for r in last}
    }
    assert clients == {
        "base": [0, 1, 2, 3, 4, 5], "base+adabn": [0, 3, 4, 5],
        "base+fine-tune": [0, 1, 2, 3, 4, 5],
    }  # fmt: skip
    failures = run.rows(EvaluationFailure)
    assert [f[:4] for f in failures] == [(4, 1, "base", "adabn"), (4, 2, "base", "adabn")]
    assert all(f.reason.startswith("crash:ValueError incident=") for f in failures)
    run.federation.check_evaluated()


def test_a_model_that_cannot_be_made_is_lost_with_all_its_adaptations(tmp_path):
    nothing = type(SPLITS[3].train)(SPLITS[3].train.inputs[:0], SPLITS[3].train.labels[:0])
    splits = [s._replace(train=nothing) if d == 5 else s for d, s in enumerate(SPLITS)]
    config = replace(CONFIG, local=True)
    run = Run(tmp_path, config, splits=splits, adaptations=METHODS[:1]).go()
    assert [f[:4] for f in run.rows(EvaluationFailure)] == [(4, 5, "local", "none")]
    last = [r for r in run.rows(Evaluation) if r.round == 4 and r.split == "test"]
    assert [r.client for r in last if r.model == "local"] == [0, 1, 2, 3, 4]
    assert [r.client for r in last if r.model == "base"] == [0, 1, 2, 3, 4, 5]


def test_a_run_that_could_not_be_evaluated_does_not_end_as_if_it_had(tmp_path):
    run = Run(tmp_path, CONFIG, adaptations=METHODS[:1])
    evaluate = run.client_pool.evaluate
    run.client_pool.evaluate = lambda r: iter(()) if r.round == 4 else evaluate(r)
    run.go()
    assert {r.round for r in run.rows(Evaluation) if r.client >= 0} == {0}
    with pytest.raises(EvaluationFailedError, match="final evaluation failed on all") as caught:
        run.federation.check_evaluated()
    assert caught.value.exit_code == 6
    again = Run(tmp_path, CONFIG, adaptations=METHODS[:1]).go(resume=True)
    again.federation.check_evaluated()


def test_the_last_round_has_to_be_evaluated_and_not_some_round(tmp_path):
    run = Run(tmp_path, replace(CONFIG, evaluate_every=2), adaptations=METHODS[:1])
    evaluate = run.client_pool.evaluate
    run.client_pool.evaluate = lambda r: iter(()) if r.round == 4 else evaluate(r)
    with pytest.raises(EvaluationFailedError):
        run.go().federation.check_evaluated()


def test_a_deadline_is_of_the_whole_message_and_no_adaptation_swallows_it():
    from fedadapt.client.failures import _DeadlineError, attempted, guarded

    def late():
        raise _DeadlineError

    with pytest.raises(_DeadlineError):
        attempted(late)
    assert guarded(late).reason.startswith("timeout")


def test_failures_survive_the_way_through_a_flower_message():
    from fedadapt.flower.records import failures, rows_record

    told = [EvaluationFailure(3, 7, "base", "adabn", "crash:ValueError incident=0")]
    assert failures(rows_record([], told), 3, 7) == told
    assert failures(rows_record([]), 3, 7) == []


def test_reasons_of_others_are_one_line_in_every_table(tmp_path, caplog):
    """Whatever engine a failure comes from: here one that answers with somebody's own words."""
    from fedadapt.messages import Answers, Failure
    from fedadapt.records import CommunicationEntry
    from fedadapt.server.client_pool import EvaluationAnswers

    run = Run(tmp_path, CONFIG, adaptations=METHODS[:1])
    ask, evaluate = run.client_pool.ask, run.client_pool.evaluate
    evil = "no\n\x1b[2Jline " + "x" * 400

    def asked(action, round, sent, expected):
        yield Answers((), None, {0: Failure("error", evil)})
        yield from (a for a in ask(action, round, sent, expected) if 0 not in a.clients)

    def evaluated(request):
        failed = [EvaluationFailure(request.round, 1, "base", "none", evil)]
        yield EvaluationAnswers((), [], {0: Failure("error", evil)})
        for answers in evaluate(request):
            if 0 not in answers.clients:
                yield replace(answers, failed=failed) if 1 in answers.clients else answers

    run.client_pool.ask, run.client_pool.evaluate = asked, evaluated
    run.go()
    reasons = {e.reason for e in run.rows(CommunicationEntry) if e.reason}
    reasons |= {f.reason for f in run.rows(EvaluationFailure)}
    assert len(reasons) == 1
    [reason] = reasons
    assert reason.startswith("no ?[2Jline xxx")
    assert len(reason) == 300
    assert "\x1b" not in caplog.text
