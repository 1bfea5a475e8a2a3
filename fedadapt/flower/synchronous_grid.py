"""A Flower ``Grid`` that can only send messages and wait for the answers."""

from collections.abc import Iterable
from typing import Never

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedadapt.errors import InputError


class SynchronousGrid(Grid):
    """Refuses to push and pull messages one by one; a subclass answers the rest."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self._refuse()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self._refuse()

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    @property
    def run(self) -> Never:
        self._refuse()

    def set_run(self, run: object) -> None:
        pass

    def _refuse(self) -> Never:
        raise InputError("strategy: only grid.send_and_receive and grid.get_node_ids are there")
