"""What clients said of themselves before the run, and what it binds them to.

A client that says 36 images cannot weigh 10^12 later: what it told first bounds its weight in every
round. Where a client does not tell how many images it has, all clients weigh alike.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from statistics import median_low

import torch

from fedadapt.client.egress.policy import ALWAYS, rule_of
from fedadapt.errors import InputError
from fedadapt.flower.replies import ReplyError
from fedadapt.messages import Config, Failure, Update
from fedadapt.server.checks import MAX_EXAMPLES

GROWTH = 2.0
"""More than so many times what it first told is no growth but a lie; what is below counts as told
first: new images change a client's weight in the next run."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Announced:
    """What one client tells, and what its owner does not let it tell."""

    num_examples: float | None  # None: not told
    messages: frozenset[str] | None = None  # that it answers; None: any
    tells_metrics: bool = True

    @staticmethod
    def of(facts: Config) -> "Announced":
        """Read the answer to ``query.hello``.

        Raises:
            InputError: It is impossible.

        """
        images = facts.get("num-examples")
        if facts.get("egress-num-examples") == "none":
            images = None
        elif isinstance(images, bool) or not isinstance(images, int | float):
            raise InputError("it does not say how many training images it has")
        elif not 0 < images <= MAX_EXAMPLES:
            raise InputError(
                f"it says it has {images:g} training images; it must be above 0 and at most "
                f"{MAX_EXAMPLES:g}"
            )
        messages = facts.get("egress-messages")
        listed = frozenset(map(str, messages)) if isinstance(messages, list) else None
        return Announced(images, listed, facts.get("egress-metrics") is not False)

    def refusal(self, action: str) -> Failure | None:
        """Return why the client will not answer; None if it will."""
        if self.messages is None or action in self.messages or action in ALWAYS:
            return None
        return Failure("error", f"egress: {rule_of(action)!r} is not allowed on this device")


@dataclass
class Announcements:
    """Those of all clients of a run."""

    max_factor: float = 0.0  # times the median that a client can weigh at most; 0: no limit
    clients: dict[int, Announced] = field(default_factory=dict)

    def log(self) -> None:
        """Say what of the clients the run has to do without."""
        for what, count in self.withheld.items():
            log.warning("%d of %d clients: %s", count, len(self.clients), what)
        counts = [c.num_examples for c in self.clients.values() if c.num_examples is not None]
        if self.is_uniform or len(counts) < 3:
            return
        for client, announced in self.clients.items():
            images = min(announced.num_examples or 0.0, self._most)
            if images > sum(min(n, self._most) for n in counts) / 2:
                log.warning(
                    "client %d: says it has %g training images and weighs more than all others "
                    "together; max-weight-factor bounds it",
                    *(client, images),
                )

    @property
    def is_uniform(self) -> bool:
        """Whether all clients weigh alike, since some do not tell how many images they have."""
        return any(c.num_examples is None for c in self.clients.values())

    @property
    def withheld(self) -> dict[str, int]:
        """By what is not told, how many clients do not tell it; {} if they all tell everything."""
        said = {
            "do not tell how many images they have; all clients weigh alike": [
                c.num_examples is None for c in self.clients.values()
            ],
            "tell no metrics; their rows are missing": [
                not c.tells_metrics for c in self.clients.values()
            ],
            "answer only some messages": [c.messages is not None for c in self.clients.values()],
        }
        return {what: sum(flags) for what, flags in said.items() if any(flags)}

    def refusals(self, action: str, clients: Iterable[int]) -> dict[int, Failure]:
        """Return why some of ``clients`` will not answer; they need not be sent the model."""
        known = {d: self.clients[d].refusal(action) for d in clients if d in self.clients}
        return {client: failure for client, failure in known.items() if failure is not None}

    def is_counted(self, client: int) -> bool:
        """Whether a client tells how many images an answer is about."""
        return client not in self.clients or self.clients[client].num_examples is not None

    def bounded(self, client: int, update: Update) -> Update:
        """Return an answer of one client with the weight that it may have.

        Raises:
            ReplyError: It claims far more images than the client has announced.

        """
        if self.is_uniform:
            return replace(update, num_examples=torch.ones_like(update.num_examples))
        announced = self.clients[client].num_examples if client in self.clients else None
        if announced is None:
            return update
        [told] = update.num_examples.tolist()
        if told > GROWTH * announced:
            raise ReplyError(
                f"num-examples: {told:g}, but the client announced {announced:g} before the run"
            )
        most = min(announced, self._most)
        return replace(update, num_examples=update.num_examples.clamp(max=most))

    @property
    def _most(self) -> float:
        counts = [c.num_examples for c in self.clients.values() if c.num_examples is not None]
        if not self.max_factor or not counts:
            return MAX_EXAMPLES
        return self.max_factor * median_low(counts)
