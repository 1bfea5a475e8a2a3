"""Clients behind a Flower ``Grid``: simulated by ``flwr run``, or real."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fedadapt.config import RunConfig
from fedadapt.errors import InputError, one_line
from fedadapt.flower import records
from fedadapt.flower.egress import WITHHELD
from fedadapt.flower.nodes import wait_for_nodes
from fedadapt.flower.replies import Reply, ReplyError, checked_reply
from fedadapt.flower.riding import EVALUATE, parted, with_rider
from fedadapt.flower.roll_call import RollCall
from fedadapt.flower.run_facts.announced import Announcements
from fedadapt.flower.run_facts.memory import asked_at_once
from fedadapt.messages import Answers, Config, Failure, Sent, Update, bytes_up
from fedadapt.records import HELD_OUT, Confidence, Evaluation, EvaluationFailure, Outcome
from fedadapt.server.checks import Expected
from fedadapt.server.client_pool import EvaluationAnswers, EvaluationRequest, result_bytes
from fedadapt.weights import Weights, is_shared, num_bytes, row

COUNT = "query.count"
OF_SUPERLINK: dict[int, Outcome] = {
    ErrorCode.MESSAGE_UNAVAILABLE: "late",  # it was not fetched, or not answered, before its end
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "late",
    ErrorCode.NODE_UNAVAILABLE: "lost",  # no heartbeat
}
"""What became of a client, by the code of an error that the SuperLink made in its stead."""

log = logging.getLogger(__name__)


def count_clients(grid: Grid, config: RunConfig) -> int:
    """How many clients there are: any node of a Flower simulation knows.

    Raises:
        QuorumLostError: no node appeared within ``node-wait``.
        InputError: the nodes do not know; ``clients`` must be given.

    """
    nodes = wait_for_nodes(grid, 1, config.node_wait)
    message = Message(records.request({}, {}), min(nodes), COUNT)
    replies = list(grid.send_and_receive([message], timeout=config.round_deadline))
    if not replies:
        why = "no answer by the deadline"
    elif replies[0].has_error():
        why = one_line(replies[0].error.reason or "") or "no reason"
    else:
        clients = records.settings(replies[0].content).get("clients")
        if type(clients) is int and clients > 0:
            return clients
        why = f"they say {clients!r}"
    raise InputError(f"clients: 0, and the nodes do not know how many ({why}); give their number")


class GridClients:
    """Flower nodes, known by the partition they hold or by their key: node ids are random."""

    keeps_models = True
    evaluates_in_background = False

    def __init__(
        self,
        grid: Grid,
        config: RunConfig,
        roll_call: RollCall,
        kinds: Sequence[str],
        settings: Callable[[int], Config] = lambda client: {},
    ) -> None:
        """Prepare for clients that ``roll_call`` will find.

        Args:
            kinds: By client, what tables call its kind: clients do not say it.
            settings: By client, what every message to it says beside its own settings.

        """
        self._grid = grid
        self._config = config
        self._roll_call = roll_call
        self._kinds = kinds
        self._settings = settings
        self._nodes: dict[int, int] = {}  # client -> node id
        self._announced = Announcements(config.max_weight_factor)
        self._waiting: _Trial | None = None  # to ride on the next message

    def ready(self) -> Sequence[int]:
        """Find out which node is which client.

        Raises:
            QuorumLostError: Too few clients fit the run.

        """
        self._nodes = dict(self._roll_call.present())
        self._announced.clients = {d: self._roll_call.announced[d] for d in self._nodes}
        self._announced.log()
        return sorted(self._nodes)

    @property
    def withheld(self) -> Mapping[str, int]:
        return self._announced.withheld

    def ask(self, action: str, round: int, sent: Sent, expected: Weights) -> Iterator[Answers]:
        shape = Expected.of(expected)
        contents = models_by_client({records.ARRAYS: sent.weights}, len(sent.clients))
        asked = (
            records.request(models, {**sent.config, **self._settings(client)})
            for client, models in zip(sent.clients, contents, strict=True)
        )
        up = num_bytes(expected)
        trial, self._waiting = self._waiting, None
        exchanged: Iterable[tuple[int, Message | Failure]]
        if trial is not None and asked_at_once(up) >= len(sent.clients):
            pairs = zip(sent.clients, asked, strict=True)
            exchanged = self._with_trial(trial, action, round, list(pairs))
        else:
            exchanged = self._exchange(action, round, sent.clients, asked, up)
        return self._updates(action, exchanged, shape)

    def _updates(
        self, action: str, exchanged: Iterable[tuple[int, Message | Failure]], shape: Expected
    ) -> Iterator[Answers]:
        for client, reply in exchanged:
            if isinstance(reply, Failure):
                yield Answers((), None, {client: reply})
                continue
            try:
                counted = self._announced.is_counted(client)
                update = stacked(checked_reply(reply, shape, counted=counted))
                if action != "evaluate":  # of other images, and no weight in any model
                    update = self._announced.bounded(client, update)
            except ReplyError as error:
                yield Answers((), None, {client: Failure("rejected", str(error))})
                continue
            yield Answers((client,), update, {}, bytes_up(update, (client,)))

    def evaluate(self, request: EvaluationRequest) -> Iterator[EvaluationAnswers]:
        models = {
            (records.ARRAYS if name == "base" else name): weights
            for name, weights in request.models.items()
        }
        pooled = {
            f"{records.POOLED}{adaptation}": records.array_record(weights)
            for adaptation, weights in request.pooled.items()
        }
        config: Config = {
            "server-round": request.round,
            "adaptations": list(request.adaptations),
            "on-global": request.on_global,
            "curves": request.curves,
            "held-out": request.held_out,
            "confidence": request.confidence,
            "task": request.task,
            "on-client": list(request.on_client),
        }
        if request.collect:
            config = {**config, "collect": list(request.collect)}
        contents = models_by_client(models, len(request.clients))
        asked = (
            records.request({**arrays, **pooled}, {**config, **self._settings(client)})
            for client, arrays in zip(request.clients, contents, strict=True)
        )
        trial = _Trial(request, asked)
        # One model for all is all that is tried between rounds; more is asked for at once.
        if not request.collect and all(map(is_shared, request.models.values())):
            self._waiting = trial
        return self._results(trial)

    def _results(self, trial: "_Trial") -> Iterator[EvaluationAnswers]:
        request = trial.request
        if self._waiting is trial:
            self._waiting = None
        exchanged: Iterable[tuple[int, Message | Failure]] = trial.replies.items()
        if not trial.has_been_asked:
            exchanged = self._exchange(EVALUATE, request.round, request.clients, trial.contents)
        for client, reply in exchanged:
            if isinstance(reply, Failure):
                yield EvaluationAnswers((), [], {client: reply})
                continue
            try:
                rows = [
                    row._replace(kind=self._kinds[client])
                    for row in records.rows(reply.content, request.round, client)
                ]
                failed = records.failures(reply.content, request.round, client)
                confidences = records.confidences(reply.content, request.round, client)
                check_as_asked(rows, failed, request)
                check_confidences(rows, confidences, request)
            except ValueError as error:
                yield EvaluationAnswers((), [], {client: Failure("rejected", str(error))})
                continue
            up = result_bytes(rows, confidences)
            yield EvaluationAnswers((client,), rows, {}, up, failed=failed, confidences=confidences)

    def states(self) -> dict[int, dict[str, Weights]]:
        return {}  # on the clients' own disks

    def restore(self, states: Mapping[int, Mapping[str, Weights]]) -> None:
        pass

    def _with_trial(
        self, trial: "_Trial", action: str, round: int, asked: list[tuple[int, RecordDict]]
    ) -> list[tuple[int, Message | Failure]]:
        """Ask for an action and for the results of a trial at once; see ``riding``.

        Each node gets one message: with both, or with that one of them that is for its client.
        """
        clients = [client for client, _ in asked]
        tried = trial.request.clients
        trials = dict(zip(tried, trial.contents, strict=True))
        silent, untried = self._silent(action, clients), self._silent(EVALUATE, tried)
        riding = (trials.keys() & {*clients}) - silent.keys() - untried.keys()
        messages = []
        for client, content in asked:
            if client not in silent:
                both = with_rider(content, trials[client]) if client in riding else content
                messages.append(self._message(action, round, client, both))
        number = trial.request.round
        messages += [
            self._message(EVALUATE, number, client, content)
            for client, content in trials.items()
            if client not in riding and client not in untried
        ]
        received = self._received(messages, self._config.round_deadline)
        by_node = {message.metadata.dst_node_id: reply for message, reply in received}
        replies = {client: by_node.get(self._nodes.get(client, 0)) for client in (*clients, *tried)}
        parts = {
            client: parted(reply) for client in riding if (reply := replies[client]) is not None
        }
        alone = (None, None)
        own = {client: parts.get(client, alone)[0] for client in riding}
        riders = {client: parts.get(client, alone)[1] for client in riding}
        trial.replies = {d: untried.get(d) or told(d, {**replies, **riders}[d]) for d in tried}
        trial.has_been_asked = True
        return [(d, silent.get(d) or told(d, {**replies, **own}[d])) for d in clients]

    def _exchange(
        self,
        action: str,
        round: int,
        clients: Sequence[int],
        contents: Iterable[RecordDict],
        answer: int = 0,
    ) -> Iterator[tuple[int, Message | Failure]]:
        """Send each client its content; its reply, or why there is none, in client order.

        Args:
            answer: Bytes of a reply. Of large ones only some are asked for at once.

        """
        end = time.monotonic() + self._config.round_deadline
        pairs = zip(clients, contents, strict=True)
        while portion := list(islice(pairs, asked_at_once(answer))):
            yield from self._portion(action, round, portion, max(0.0, end - time.monotonic()))

    def _portion(
        self, action: str, round: int, asked: list[tuple[int, RecordDict]], seconds: float
    ) -> Iterator[tuple[int, Message | Failure]]:
        clients = [client for client, _ in asked]
        silent = self._silent(action, clients)
        messages = [
            self._message(action, round, client, content)
            for client, content in asked
            if client not in silent
        ]
        received = self._received(messages, seconds)
        replies = {message.metadata.dst_node_id: reply for message, reply in received}
        for client in clients:
            if client in silent:
                yield client, silent[client]
            else:
                yield client, told(client, replies.get(self._nodes[client]))

    def _silent(self, action: str, clients: Sequence[int]) -> dict[int, Failure]:
        """Clients that are not asked, and why."""
        absent = Failure("late", "its node is not there")
        return self._announced.refusals(action, clients) | {
            client: absent for client in clients if client not in self._nodes
        }

    def _message(self, action: str, round: int, client: int, content: RecordDict) -> Message:
        deadline = self._config.round_deadline
        return Message(content, self._nodes[client], action, group_id=str(round), ttl=deadline)

    def _received(
        self, messages: Sequence[Message], seconds: float
    ) -> Iterator[tuple[Message, Message]]:
        """Messages that were answered, by the client or in its stead, with their answers."""
        if not messages:
            return
        replies = list(self._grid.send_and_receive(messages, timeout=seconds))
        by_number = {m.metadata.message_id: m for m in messages if m.metadata.message_id}
        by_node = {m.metadata.dst_node_id: m for m in messages}
        for reply in replies:
            # An error that the SuperLink made comes from no client; its number says whose it is.
            metadata = reply.metadata
            message = by_number.get(metadata.reply_to_message_id)
            message = message or by_node.get(metadata.src_node_id)
            if message is not None:
                yield message, reply


@dataclass
class _Trial:
    """An evaluation that was begun."""

    request: EvaluationRequest
    contents: Iterable[RecordDict]  # a message for each client of the request
    has_been_asked: bool = False  # on the way, with the messages of something else
    replies: dict[int, Message | Failure] = field(default_factory=dict)  # in the clients' order


def told(client: int, reply: Message | None) -> Message | Failure:
    """Return an answer, or why there is none."""
    if reply is None:
        return Failure("late", "no answer by the deadline")
    if reply.has_error():
        outcome = OF_SUPERLINK.get(reply.error.code, "error")
        return Failure(outcome, one_line(reply.error.reason or "") or "no reason")
    if WITHHELD in reply.content.config_records:
        log.warning("client %d: its device withheld what nobody declares", client)
    return reply


def models_by_client(
    stacked: Mapping[str, Weights], count: int
) -> Iterator[dict[str, ArrayRecord]]:
    """For each client, its records. A model that is the same for all is serialised once."""
    shared = {
        name: records.array_record(row(weights, 0))
        for name, weights in stacked.items()
        if is_shared(weights)
    }
    for d in range(count):
        per_client = {
            name: records.array_record(row(weights, d))
            for name, weights in stacked.items()
            if name not in shared
        }
        yield {**shared, **per_client}


def check_as_asked(
    rows: list[Evaluation], failures: list[EvaluationFailure], request: EvaluationRequest
) -> None:
    """Refuse answers that are not of the models and adaptations in the request, each once.

    Raises:
        ValueError: they are not; in the tables, two of a kind would end the run.

    """

    def of(split: str) -> set[tuple[str, str, str]]:
        return {(model, method, split) for model in request.names for method in request.adaptations}

    every = Counter((row.model, row.adaptation, row.split, row.epoch) for row in rows)
    evaluated = {(*words,) for *words, epoch in every if epoch == 0}
    failed = Counter((failure.model, failure.adaptation, "test") for failure in failures)
    allowed = of("test") | (of("global") if request.on_global else set())
    if request.curves:
        allowed |= of("adapt")
    if request.held_out:
        allowed |= of(HELD_OUT)
    on_the_way = {(*words,) for *words, epoch in every if epoch != 0}
    if (
        not evaluated <= allowed
        or of("test") & evaluated != of("test") - failed.keys()
        or not failed.keys() <= of("test")
        or every.total() > len(every)
        or failed.total() > len(failed)
        or not on_the_way <= (evaluated if request.curves else set())
    ):
        raise ValueError("evaluation results are not of the models and adaptations asked for")


def check_confidences(
    rows: list[Evaluation], confidences: list[Confidence], request: EvaluationRequest
) -> None:
    """Refuse what was not asked for, or does not fit the results on the same test images.

    Raises:
        ValueError: it is not of the models in the results, each once, or of other images.

    """
    images = {row.label: row.num_examples for row in rows if row.split == "test" and not row.epoch}
    counted = Counter(confidence.label for confidence in confidences)
    if (
        (confidences and not request.confidence)
        or counted.total() > len(counted)
        or any(images.get(c.label) != len(c.right) for c in confidences)
    ):
        raise ValueError("confidences are not of the models and images asked for")


def stacked(reply: Reply) -> Update:
    """One client's answer as a cohort of one's."""
    return Update(
        weights={n: t.unsqueeze(0) for n, t in reply.weights.items()},
        num_examples=torch.tensor([reply.num_examples], dtype=torch.float64),
        metrics={n: torch.tensor([v], dtype=torch.float64) for n, v in reply.metrics.items()},
        report={n: t.unsqueeze(0) for n, t in reply.report.items()},
    )
