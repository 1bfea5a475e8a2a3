"""Before a run begins: who is there, who fits, and what all agree on.

No node stops a run. One that does not fit is left out and named with all its differences; the run
begins when a quorum of clients fits.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from flwr.app import Message
from flwr.serverapp import Grid

from fedadapt.client.identity import is_fingerprint
from fedadapt.config import RunConfig
from fedadapt.datasets.own.agreement import agreed_schema, fixed_scaling, pooled_scaling
from fedadapt.datasets.own.own_data import Sums
from fedadapt.datasets.own.pictures import class_name
from fedadapt.datasets.own.schema import MOST_CLASSES, Schema
from fedadapt.datasets.own.server_pictures import ServerPictures
from fedadapt.datasets.own.settings import parse_classes
from fedadapt.datasets.own.tasks import ServerTasks
from fedadapt.errors import REFUSALS, InputError, QuorumLostError, one_line
from fedadapt.flower import records
from fedadapt.flower.nodes import nodes_by_message, wait_for_nodes
from fedadapt.flower.roster import Roster
from fedadapt.flower.run_facts.agreement import Agreement
from fedadapt.flower.run_facts.announced import Announced
from fedadapt.flower.software import differences
from fedadapt.messages import Config

log = logging.getLogger(__name__)

HELLO, CLASSES, NORMALIZATION = "query.hello", "query.classes", "query.normalization"
NAMED = 10  # clients that are left out and named in an error; the log names all
Shape = tuple[int, int, int]


class RollCall(Protocol):
    """Finds out which node is which client, and what each says of itself."""

    announced: dict[int, Announced]

    def present(self) -> Mapping[int, int]:
        """Client -> node of all that take part, ascending; ``announced`` is filled then.

        Raises:
            QuorumLostError: Too few.

        """
        ...


class _Call:
    """Questions to nodes before a run, and the nodes that are left out."""

    def __init__(self, grid: Grid, config: RunConfig) -> None:
        self._grid = grid
        self._config = config
        self.left_out: dict[int, str] = {}  # node -> why
        self._names: dict[int, str] = {}

    def wanted_nodes(self, wanted: int) -> list[int]:
        """Wait for ``wanted`` nodes, at most ``node-wait``; 0: for as many as come in that time.

        Raises:
            QuorumLostError: Fewer than a quorum.

        """
        return sorted(
            wait_for_nodes(self._grid, wanted, self._config.node_wait, least=self.quorum(wanted))
        )

    def ask(
        self, action: str, nodes: Sequence[int], settings: Callable[[int], Config] = lambda _: {}
    ) -> Iterator[tuple[int, Config]]:
        """The answers, in the order of ``nodes``; a node without one is left out from now on."""
        asked = [node for node in nodes if node not in self.left_out]
        messages = [Message(records.request({}, settings(node)), node, action) for node in asked]
        received = self._grid.send_and_receive(messages, timeout=self._config.round_deadline)
        # An error that the SuperLink made in a client's stead comes from the SuperLink.
        node_of = nodes_by_message(messages)
        replies = {
            node_of.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id): reply
            for reply in received
        }
        for node in asked:
            reply = replies.get(node)
            if reply is None:
                self.leave_out(node, "no answer by the deadline")
            elif reply.has_error():
                self.leave_out(node, explained(reply.error.reason))
            else:
                yield node, records.settings(reply.content)

    def call(self, node: int, name: str) -> None:
        """Name a node in messages."""
        self._names[node] = name

    def leave_out(self, node: int, why: str) -> None:
        """Go on without a node."""
        self.left_out[node] = (
            f"client {self._names[node]}" if node in self._names else (f"client at node {node}")
        )
        self.left_out[node] += f": {why}"
        log.warning("left out: %s", self.left_out[node])

    def quorum(self, wanted: int) -> int:
        """How many clients of ``wanted`` are enough to begin."""
        return max(1, math.ceil(round(self._config.min_replies * wanted, 6)))

    def need(self, count: int, wanted: int) -> None:
        """Refuse to begin with ``count`` clients if that is no quorum.

        Raises:
            QuorumLostError: It is none; the message names those that are left out.

        """
        if count >= self.quorum(wanted):
            return
        why = [*self.left_out.values()]
        more = f"; and {len(why) - NAMED} more" if len(why) > NAMED else ""
        raise QuorumLostError(
            f"{count} of {wanted or count} clients can take part, {self.quorum(wanted)} needed; "
            f"{'; '.join(why[:NAMED]) or 'no other node was there'}{more}"
        )


def explained(reason: str | None) -> str:
    """What a client's error says, in words: its fixed word is looked up, nothing else is shown."""
    if not reason:
        return "no reason"
    word = reason.partition(" incident=")[0]
    kind, _, detail = word.partition(":")
    if kind == "refused" and detail in REFUSALS:
        return f"{REFUSALS[detail]} ({reason})" if len(reason) < 100 else REFUSALS[detail]
    return one_line(reason, 80)


class BenchmarkRollCall:
    """Clients of a benchmark: a node is the partition it holds, and has the server's data."""

    def __init__(self, grid: Grid, config: RunConfig, manifest: str) -> None:
        """Prepare; ``manifest`` is the hash of the server's own assignment of data."""
        self._call = _Call(grid, config)
        self._config = config
        self._manifest = manifest
        self.announced: dict[int, Announced] = {}

    def present(self) -> Mapping[int, int]:
        nodes = self._call.wanted_nodes(self._config.clients)
        holders: dict[int, int] = {}
        for node, facts in self._call.ask(HELLO, nodes):
            why = self._misfit(facts)
            client = facts.get("partition-id")
            if why:
                self._call.leave_out(node, why)
            elif type(client) is int and client in holders:
                self._call.leave_out(
                    node,
                    f"holds partition {client}, as node {holders[client]} does; give each client "
                    "its own partition-id",
                )
            elif type(client) is int:
                try:
                    self.announced[client] = Announced.of(facts)
                    holders[client] = node
                except InputError as error:
                    self._call.leave_out(node, str(error))
        self._call.need(len(holders), self._config.clients)
        return dict(sorted(holders.items()))

    def _misfit(self, facts: Config) -> str:
        """All that forbids that a client takes part; empty if nothing does."""
        faults, told = differences(facts)
        client = facts.get("partition-id")
        if type(client) is not int or client < 0:
            faults.append(f"its partition-id is {client!r}; it must be a number >= 0")
        elif client >= self._config.clients:
            faults.append(f"its partition-id {client} is not below clients={self._config.clients}")
        if facts.get("manifest") != self._manifest:
            faults.append(
                f"its data assignment is {facts.get('manifest')!r}, the server's "
                f"{self._manifest!r}; use the same benchmark, seed and files"
            )
        if faults:
            return "; ".join(faults)
        for line in told:
            log.warning("client %s runs %s", client, line)
        return ""


class Member(NamedTuple):
    """A client with own data that is there."""

    node: int
    shape: Shape  # of its pictures


class OwnRollCall:
    """Clients with own data: a client is who its key says, and a schema is what all agree on."""

    def __init__(self, grid: Grid, config: RunConfig, before: Agreement | None = None) -> None:
        """Read the roster, if there is one.

        Args:
            before: Of a run that goes on: clients keep their numbers, and data are used as before.

        """
        self._call = _Call(grid, config)
        self._config = config
        self._before = before
        self._given = Roster.read(Path(config.roster)) if config.roster else None
        if before is not None:
            self._given = before.roster
        self._wanted = config.clients or len(self._given or ())
        self.roster = self._given or Roster((), ())
        self._members: dict[int, Member] = {}
        self.schema: Schema | None = None
        self.announced: dict[int, Announced] = {}

    def agree(self, server: ServerTasks | ServerPictures | None = None) -> Schema:
        """Find the clients and agree on classes, shape and scaling.

        Args:
            server: The server's own pictures, where it trains on some: they say it all.

        Raises:
            QuorumLostError: Too few clients fit.
            InputError: What they have cannot be agreed on.

        """
        self._introduce()
        if self._before is not None:
            self.schema = self._before.schema
            return self.schema
        shapes = [member.shape for member in self._members.values()]
        if server is not None:
            self.schema = server.schema(shapes)
            return self.schema
        classes = parse_classes(self._config.classes)
        named = classes or self._classes()
        self._need()
        shapes = [member.shape for member in self._members.values()]
        scaling = fixed_scaling(self._config, shapes[0][0])
        schema = agreed_schema(named, shapes, scaling)
        if scaling is None:
            sums = self._sums(schema)
            self._need()
            schema = agreed_schema(schema.classes, shapes, pooled_scaling(sums))
        self.schema = schema
        return schema

    def confirm(self, network: Config) -> None:
        """Have every client build its network and open its data; leave out those that differ.

        Args:
            network: The hashes of the server's own, of ``software.network_facts``.

        Raises:
            QuorumLostError: Too few are left.

        """
        for client, facts in self._ask(HELLO):
            if facts.get("network") != network["network"]:
                self._leave_out(client, "its network has other tensors than the server's")
                continue
            try:
                self.announced[client] = Announced.of(facts)
            except InputError as error:
                self._leave_out(client, str(error))
                continue
            if facts.get("initial") != network["initial"]:
                log.warning(
                    "client %s draws other initial weights; it is sent the server's",
                    self.roster.names[client],
                )
        self._need()

    def present(self) -> Mapping[int, int]:
        return {client: member.node for client, member in sorted(self._members.items())}

    def settings(self, client: int) -> Config:
        """What every message to a client says beside its own settings."""
        schema = {} if self.schema is None else {"schema": self.schema.to_text()}
        return {**schema, "client": client}

    def _introduce(self) -> None:
        found: dict[str, list[tuple[int, Shape]]] = {}
        for node, facts in self._call.ask(HELLO, self._call.wanted_nodes(self._wanted)):
            fingerprint, shape = facts.get("client"), _shape(facts.get("image-shape"))
            faults, told = differences(facts)
            if not isinstance(fingerprint, str) or not is_fingerprint(fingerprint):
                faults.append("it does not say who it is")
            if shape is None:
                faults.append("it does not say the shape of its pictures")
            if faults or shape is None:
                self._call.leave_out(node, "; ".join(faults))
                continue
            for line in told:
                log.warning("client at node %d runs %s", node, line)
            found.setdefault(str(fingerprint), []).append((node, shape))
        for fingerprint, nodes in list(found.items()):
            if len(nodes) > 1:  # one of them is not who it says, and nobody knows which
                del found[fingerprint]
                for node, _ in nodes:
                    self._call.leave_out(
                        node,
                        f"says it is {fingerprint[:8]}, as {len(nodes) - 1} other nodes do; give "
                        "each client a key and a state-dir of its own",
                    )
        self.roster = self._given or Roster.of(found, self._config.clients)
        numbers = {fingerprint: n for n, fingerprint in enumerate(self.roster.fingerprints)}
        for fingerprint, [(node, shape)] in found.items():
            if fingerprint in numbers:
                self._members[numbers[fingerprint]] = Member(node, shape)
                self._call.call(node, self.roster.names[numbers[fingerprint]])
            else:
                self._call.leave_out(
                    node,
                    f"{fingerprint[:8]} is not on the roster" if self._given else
                    f"{fingerprint[:8]} is one more than clients={self._config.clients}",
                )  # fmt: skip
        self._need()

    def _classes(self) -> list[str]:
        """The classes of all clients that tell them, in no order."""
        names: list[str] = []
        for client, facts in self._ask(CLASSES):
            told = facts.get("classes")
            try:
                if len(told) > MOST_CLASSES:  # type: ignore[arg-type]
                    raise InputError("too many")
                names += [class_name(str(word)) for word in told]  # type: ignore[union-attr]
            except (TypeError, InputError):
                self._leave_out(client, "it tells no list of classes")
        return names

    def _sums(self, schema: Schema) -> list[Sums]:
        """The sums of the channels of all clients that tell them."""
        self.schema, found = schema, []
        for client, facts in self._ask(NORMALIZATION):
            sums = Sums(facts.get("total"), facts.get("squares"), facts.get("pixels"))  # type: ignore[arg-type]
            if _are_sums(sums, schema.image_shape[0]):
                found.append(sums)
            else:
                self._leave_out(client, "it tells no sums of its channels")
        return found

    def _ask(self, action: str) -> Iterator[tuple[int, Config]]:
        """The answers of the clients that take part, in their order."""
        by_node = {member.node: client for client, member in sorted(self._members.items())}
        answers = self._call.ask(action, list(by_node), lambda node: self.settings(by_node[node]))
        for node, facts in answers:
            yield by_node[node], facts
        for node in self._call.left_out.keys() & by_node.keys():
            self._members.pop(by_node[node], None)

    def _leave_out(self, client: int, why: str) -> None:
        self._call.leave_out(self._members.pop(client).node, why)

    def _need(self) -> None:
        self._call.need(len(self._members), self._wanted)


def _shape(value: object) -> Shape | None:
    """(C, H, W) as a client tells it; None where it does not."""
    if not isinstance(value, list) or len(value) != 3:
        return None
    if not all(type(side) is int and 1 <= side <= 4096 for side in value):
        return None
    return value[0], value[1], value[2]


def _are_sums(sums: Sums, channels: int) -> bool:
    """Whether the sums can be those of bytes: 0 to 255, and no less spread than none."""
    if type(sums.pixels) is not int or sums.pixels < 1:
        return False
    for values, most in ((sums.total, 255), (sums.squares, 255**2)):
        if not isinstance(values, list) or len(values) != channels:
            return False
        if not all(type(v) is int and 0 <= v <= most * sums.pixels for v in values):
            return False
    return all(
        total * total <= square * sums.pixels
        for total, square in zip(sums.total, sums.squares, strict=True)
    )
