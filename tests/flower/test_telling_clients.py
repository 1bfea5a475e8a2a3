"""What ``flwr log`` and ``fedadapt deploy run`` show of a run, line by line."""

import torch

from fedadapt.flower.real_clients.telling_clients import TellingClients
from fedadapt.messages import Answers, Failure, Sent, Update
from fedadapt.records import Evaluation
from fedadapt.server.client_pool import EvaluationAnswers, EvaluationRequest


class Pool:
    """Three clients: one answers, one does not, one fails."""

    keeps_models = True
    evaluates_in_background = False

    def ready(self):
        return [0, 1, 2]

    def ask(self, action, round, sent, expected):
        loss = {"loss": torch.tensor([0.25], dtype=torch.float64)}
        yield Answers((0,), Update({}, torch.ones(1), loss), {})
        yield Answers((), None, {1: Failure("late", "no answer by the deadline")})
        yield Answers((2,), Update({}, torch.ones(1)), {})

    def evaluate(self, request):
        for client, accuracy in ((0, 0.5), (1, 1.0)):
            row = Evaluation(2, client, "k", True, "base", "none", "test", 4, accuracy, 1.0)
            on_the_way = row._replace(epoch=1, accuracy=0.0)
            elsewhere = row._replace(split="global", accuracy=0.0)
            yield EvaluationAnswers((client,), [row, on_the_way, elsewhere], {})
        yield EvaluationAnswers((), [], {2: Failure("error", "timeout incident=1")})

    def states(self):
        return {1: {}}

    def restore(self, states):
        self.restored = states


def test_clients_are_asked_at_once_and_not_when_the_first_answer_is_wanted():
    """A trial that is under way may ride on it."""
    asked = []

    class Asked(Pool):
        def ask(self, action, round, sent, expected):
            asked.append(action)
            return super().ask(action, round, sent, expected)

    clients = TellingClients(Asked(), lambda line: None)
    clients.ask("train", 2, Sent((0, 1, 2), {}, {}), {})
    assert asked == ["train"]


def test_answers_pass_unchanged_and_each_is_a_line():
    said = []
    pool = Pool()
    clients = TellingClients(pool, said.append)
    assert clients.keeps_models
    assert clients.ready() == [0, 1, 2]
    answers = list(clients.ask("train", 2, Sent((0, 1, 2), {}, {}), {}))
    assert [a.clients for a in answers] == [(0,), (), (2,)]
    request = EvaluationRequest(2, (0, 1, 2), {}, ("none",))
    assert len(list(clients.evaluate(request))) == 3
    assert clients.states() == {1: {}}
    clients.restore({2: {}})
    assert pool.restored == {2: {}}
    assert said == [
        "3 clients are there: 0, 1, 2",
        "round 2, train: asking 3 clients",
        "round 2, train: client 0 answered, loss 0.2500",
        "round 2, train: client 1: late, no answer by the deadline",
        "round 2, train: client 2 answered",
        "round 2, train: 2 of 3 answered",
        "round 2, evaluate: asking 3 clients",
        "round 2, evaluate: client 2: error, timeout incident=1",
        "round 2, evaluate: 2 of 3 answered; base 75.0 %",
    ]
