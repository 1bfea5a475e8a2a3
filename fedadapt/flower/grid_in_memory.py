"""A Flower ``Grid`` in one process: each message is answered by a worker of ours at once."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from flwr.app import Message
from flwr.common.serde import message_from_proto, message_to_proto

from fedadapt.flower import records
from fedadapt.flower.grid_over_clients import flower_identity
from fedadapt.flower.synchronous_grid import SynchronousGrid
from fedadapt.simulations.worker import Worker
from fedadapt.weights import Weights, row


class GridInMemory(SynchronousGrid):
    """Clients of a worker as Flower nodes; node ids are client numbers + 1.

    Every message is serialised on its way, as it would be between machines. For trying a strategy
    out: an error on a client is raised here.
    """

    def __init__(self, worker: Worker, clients: Sequence[int]) -> None:
        self._worker = worker
        self._nodes = [client + 1 for client in clients]
        self._states: dict[int, Mapping[str, Weights]] = {}

    @classmethod
    @contextmanager
    def over(cls, worker: Worker, clients: Sequence[int]) -> Iterator["GridInMemory"]:
        """Open a grid in a process that Flower has not started; Flower logs no rounds meanwhile."""
        logger = logging.getLogger("flwr")
        before = logger.level
        logger.setLevel(logging.ERROR)
        try:
            with flower_identity():
                yield cls(worker, clients)
        finally:
            logger.setLevel(before)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._nodes)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return [_over_the_wire(self._answer(_over_the_wire(message))) for message in messages]

    def _answer(self, message: Message) -> Message:
        client = message.metadata.dst_node_id - 1
        sent = records.received(message.content, client)
        number = int(sent.config.get("server-round", 0))  # type: ignore[arg-type]
        states = self._states.get(client, {})
        update = self._worker.answer(message.metadata.message_type, number, sent, [states])
        new = {part: row(weights, 0) for part, weights in update.states.items()}
        self._states[client] = {**states, **new}
        return Message(records.answer(update), reply_to=message)


def _over_the_wire(message: Message) -> Message:
    return message_from_proto(message_to_proto(message))
