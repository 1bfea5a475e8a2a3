"""The nodes of a Flower federation, as they appear."""

import time
from collections.abc import Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from fedadapt.errors import QuorumLostError

POLL = 0.5  # seconds between looks for clients that have not appeared yet


def wait_for_nodes(grid: Grid, wanted: int, seconds: float, least: int = 0) -> list[int]:
    """Wait for nodes, which Flower registers one by one while the server already runs.

    Args:
        wanted: Come back as soon as so many are there; 0: wait for all the time.
        seconds: How long to wait at most.
        least: So many are enough after that time; 0: all that are wanted.

    Raises:
        QuorumLostError: There are too few.

    """
    deadline = time.monotonic() + seconds
    enough = least or wanted
    while len(nodes := list(grid.get_node_ids())) < wanted or not wanted:
        if time.monotonic() > deadline:
            if len(nodes) >= enough:
                break
            raise QuorumLostError(
                f"{len(nodes)} of {wanted or 'some'} clients after {seconds:g} s"
                + (f", {enough} needed" if enough != wanted else "")
                + "; start the others, or set their number (with `flwr run`: --federation-config "
                f'"num-supernodes={wanted}")'
            )
        time.sleep(POLL)
    return nodes


def nodes_by_message(messages: Sequence[Message]) -> dict[str, int]:
    """The nodes that messages went to, by the numbers that Flower gave the messages."""
    asked = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
    return {number: node for number, node in asked.items() if number}
