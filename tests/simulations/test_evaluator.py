"""Trials that are under way: how many there are, and in which order their rows are recorded."""

from fedadapt.records import CommunicationEntry
from fedadapt.server.client_pool import EvaluationAnswers, EvaluationRequest
from fedadapt.simulations.evaluation import Evaluator
from fedadapt.simulations.progress import Progress


class Pool:
    def __init__(self):
        self.open = []

    def evaluate(self, request):
        self.open.append(request.round)
        return self._tried(request)

    def _tried(self, request):
        yield EvaluationAnswers(request.clients, [])
        self.open.remove(request.round)


def trained(number):
    return CommunicationEntry(number, 7, "train", "accepted", "", 0, 0, 0.0, "training")


def test_two_trials_are_under_way_at_most_and_what_comes_meanwhile_is_recorded_behind_them():
    pool, rows = Pool(), []
    evaluator = Evaluator(pool, rows.append, Progress())
    evaluator.record(trained(0))
    for number in range(1, 5):
        evaluator.begin(EvaluationRequest(number, (7,), {}, ("none",)))
        evaluator.record(trained(number + 1))
        assert pool.open == [max(1, number - 1), number][-min(2, number) :]
        assert evaluator.round == pool.open[0]
    evaluator.finish()
    assert evaluator.round is None
    assert pool.open == []
    evaluator.record(trained(9))
    assert [(row.action, row.round) for row in rows] == [
        ("train", 0),
        *(row for n in range(1, 5) for row in (("evaluate", n), ("train", n + 1))),
        ("train", 9),
    ]
