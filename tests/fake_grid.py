"""Flower without Flower's processes: a Grid that hands each message to a ClientApp and waits."""

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.serverapp import Grid

Fault = Callable[[Message], Message | None]


class FakeGrid(Grid):
    """Nodes with ids in no order, which answer in no order; every message is serialised twice.

    ``faults`` maps (message type, node id) to what becomes of that reply: another one, or None.
    ``run_id`` is Flower's number of the run, another one for each ``flwr run``.
    """

    def __init__(
        self,
        app: ClientApp,
        nodes: Mapping[int, Mapping[str, Any]],
        run_config: Mapping[str, Any] | None = None,
        run_id: int = 1,
    ) -> None:
        self.app = app
        self.nodes = {node: dict(config) for node, config in nodes.items()}
        self.run_config = dict(run_config or {})
        self.run_id = run_id
        self.faults: dict[tuple[str, int], Fault] = {}
        self.sent: list[tuple[str, int]] = []
        self.replies: list[Message] = []

    def get_node_ids(self) -> Iterable[int]:
        return set(self.nodes)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        found = [reply for message in messages if (reply := self._deliver(message)) is not None]
        random.Random(len(self.sent)).shuffle(found)
        self.replies += found
        return found

    def _deliver(self, message: Message) -> Message | None:
        kind, node = message.metadata.message_type, message.metadata.dst_node_id
        self.sent.append((kind, node))
        reply = ask(self.app, message, node, self.nodes[node], self.run_config, self.run_id)
        return self.faults.get((kind, node), lambda r: r)(reply)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise AssertionError("send_and_receive is what is used")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise AssertionError("send_and_receive is what is used")

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None) -> Message:
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    @property
    def run(self) -> Any:
        raise AssertionError("nobody asks a grid for its run")

    def set_run(self, run: Any) -> None:
        raise AssertionError("nobody gives a grid a run")


def ask(
    app: ClientApp,
    message: Message,
    node: int,
    node_config: Mapping[str, Any],
    run_config: Mapping[str, Any],
    run_id: int = 1,
) -> Message:
    """The reply as it arrives. The context is new each time, as after a restart of the node."""
    context = Context(run_id, node, dict(node_config), RecordDict(), dict(run_config))
    return over_the_wire(app(over_the_wire(message), context))


def over_the_wire(message: Message) -> Message:
    return message_from_proto(message_to_proto(message))


def failed(*error: Any) -> Fault:
    """A node that answers with ``Error(*error)``."""

    def fault(reply: Message) -> Message:
        asked = Message(RecordDict(), reply.metadata.src_node_id, reply.metadata.message_type)
        return over_the_wire(Message(Error(*error), reply_to=asked))

    return fault


def edited(change: Callable[[RecordDict], object]) -> Fault:
    """A node that answers something else."""

    def fault(reply: Message) -> Message:
        change(reply.content)
        return reply

    return fault
