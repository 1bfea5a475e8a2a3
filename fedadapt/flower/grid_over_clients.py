"""A Flower ``Grid`` over our clients: what a third party's strategy sends its messages through."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedadapt.errors import InputError
from fedadapt.flower import records
from fedadapt.flower.synchronous_grid import SynchronousGrid
from fedadapt.messages import Answers, Sent
from fedadapt.server.exchange import Exchange
from fedadapt.weights import Weights, repeat, stack

PATIENCE = 20  # looks at the node list in one round, before a strategy is told to stop waiting
FAILED = 900  # error code of a client without a usable answer


class GridOverClients(SynchronousGrid):
    """The clients sampled for one round, as Flower nodes; node ids are client numbers + 1.

    Messages are answered by the exchange of the round, so third-party strategies get the same
    checks, quorum and communication log as ours. The strategy does not see integer tensors: they go
    down from ``model`` and are left out on the way up. Arrays travel in the types of the model,
    whatever type a strategy computes in.
    """

    def __init__(
        self,
        exchange: Exchange,
        clients: Sequence[int],
        model: Weights,
        patience: int = PATIENCE,
    ) -> None:
        """Stand for the clients of one round.

        Args:
            patience: Looks at the list of nodes before a strategy is told to stop waiting.

        """
        self._patience = patience
        self._exchange = exchange
        self._clients = tuple(clients)
        self._types = {n: t.dtype for n, t in model.items()}
        self._held = {n: t for n, t in model.items() if not t.is_floating_point()}
        self._looks = 0

    def get_node_ids(self) -> Iterable[int]:
        self._looks += 1
        if self._looks > self._patience:
            raise InputError(
                f"strategy: it waits for more than the {len(self._clients)} clients of this round; "
                "lower its min_available_nodes and min_train_nodes, or raise fraction or clients"
            )
        return [client + 1 for client in self._clients]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        replies: list[Message] = []
        by_kind: dict[tuple[str, str], list[Message]] = {}
        for message in messages:
            settings = repr(sorted(records.settings(message.content).items()))
            by_kind.setdefault((message.metadata.message_type, settings), []).append(message)
        for (action, _), alike in by_kind.items():
            replies += self._ask(action, sorted(alike, key=lambda m: m.metadata.dst_node_id))
        return replies

    def _ask(self, action: str, messages: list[Message]) -> Iterator[Message]:
        if action not in ("train", "evaluate"):
            raise InputError(
                f"strategy: it sends {action!r}; clients answer train and evaluate to a third "
                "party's strategy"
            )
        sent = self._sent(messages)
        expected = {n: t[0] for n, t in sent.weights.items()} if action == "train" else {}
        waiting = {m.metadata.dst_node_id - 1: m for m in messages}
        if not waiting.keys() <= set(self._clients) or len(waiting) < len(messages):
            nodes = ", ".join(str(m.metadata.dst_node_id) for m in messages)
            raise InputError(
                f"strategy: it sends {action!r} to the nodes {nodes}; only those that "
                "grid.get_node_ids() names in this round can be asked, and once"
            )
        for answers in self._exchange.ask(action, sent, expected):
            yield from self._replies(answers, waiting)
        for message in waiting.values():
            yield Message(Error(FAILED, "no usable answer"), reply_to=message)

    def _sent(self, messages: list[Message]) -> Sent:
        arrays = [_arrays(message) for message in messages]
        if all(record is arrays[0] for record in arrays):
            weights = repeat(self._model(arrays[0]), len(messages))
        else:
            weights = stack([self._model(record) for record in arrays])
        clients = tuple(m.metadata.dst_node_id - 1 for m in messages)
        return Sent(clients, weights, records.settings(messages[0].content))

    def _model(self, record: ArrayRecord) -> Weights:
        tensors = records.tensors(record)
        return {n: t.to(self._types.get(n, t.dtype)) for n, t in tensors.items()} | self._held

    def _replies(self, answers: Answers, waiting: dict[int, Message]) -> Iterator[Message]:
        update = answers.update
        if update is None:
            return
        for row, client in enumerate(answers.clients):
            message = waiting.pop(client)
            numbers = {n: float(t[row]) for n, t in update.metrics.items()}
            if update.weights and "loss" in numbers:
                numbers["train_loss"] = numbers["loss"]  # what Flower's QFedAvg looks for
            examples = update.num_examples[row].item()
            content = RecordDict(
                {
                    records.METRICS: records.metric_record(
                        numbers | {records.NUM_EXAMPLES: int(examples)}
                    )
                }
            )
            if update.weights:
                floats = {n: t[row] for n, t in update.weights.items() if n not in self._held}
                content[records.ARRAYS] = records.array_record(floats)
            yield Message(content, reply_to=message)


@contextmanager
def flower_identity() -> Iterator[None]:
    """Flower builds messages only in a process that has a task: give this one a task."""
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    if None in before:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = 1, 1, 1
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


def _arrays(message: Message) -> ArrayRecord:
    array_records = list(message.content.array_records.values())
    if len(array_records) != 1:
        raise InputError(
            f"strategy: a message holds {len(array_records)} array records; it must hold one"
        )
    return array_records[0]


def floats(weights: Mapping[str, torch.Tensor]) -> Weights:
    """What a third party's strategy gets to see of a model."""
    return {n: t for n, t in weights.items() if t.is_floating_point()}
