"""A strategy of ours as a Flower ``Strategy``: for anybody's ServerApp, over any Grid.

The clients may run any ClientApp that answers ``train`` with one ArrayRecord of the same names and
a MetricRecord with ``num-examples``; a strategy that asks further questions (``query.sparsity``)
needs a ClientApp that answers those too, such as ``fedadapt.flower.client_app``.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as Flower

from fedadapt.errors import QuorumLostError
from fedadapt.flower import records
from fedadapt.flower.clients_over_grid import models_by_client, stacked
from fedadapt.flower.nodes import wait_for_nodes
from fedadapt.flower.replies import ReplyError, checked_reply
from fedadapt.messages import Answers, Failure, Sent, Update
from fedadapt.server.checks import Expected
from fedadapt.server.sampling import sample
from fedadapt.strategies.base import Strategy

log = logging.getLogger(__name__)

QUERY_SECONDS = 3600.0


def as_flower(
    strategy: Strategy[Any], *, fraction: float = 1.0, seed: int = 1, min_nodes: int = 1
) -> "FlowerStrategy":
    """Return a strategy of ours as a ``flwr.serverapp.strategy.Strategy``, for anybody's ServerApp.

    Args:
        fraction: Share of the nodes that train in a round, drawn from (seed, round).
        seed: Of the draws.
        min_nodes: A round waits for so many nodes.

    """
    return FlowerStrategy(strategy, fraction=fraction, seed=seed, min_nodes=min_nodes)


class FlowerStrategy(Flower):
    """Runs ``strategy`` through Flower's five hooks; ``start()`` is Flower's own.

    Every reply is checked before it is used; a bad one is left out, by node and reason, and the
    rest goes on. A round without a usable reply leaves the model as it was.

    Args:
        strategy: Any of ours; its server state lives here.
        fraction: Share of the nodes that train in a round, drawn from (seed, round).
        min_nodes: A round waits for so many nodes.

    """

    def __init__(
        self,
        strategy: Strategy[object],
        *,
        fraction: float = 1.0,
        seed: int = 1,
        min_nodes: int = 1,
    ) -> None:
        self._strategy = strategy
        self._fraction = fraction
        self._seed = seed
        self._min_nodes = min_nodes
        self._state: object = None
        self._grid: Grid | None = None
        self._sampled: tuple[int, ...] = ()
        self._expected = Expected.of({})
        self._asked = ""
        self._main: str | None = "train"  # the exchange that Flower calls training

    @property
    def state(self) -> object:
        """What the server knows, for the strategy's own methods; None before the first round."""
        return self._state

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        nodes = sorted(wait_for_nodes(grid, self._min_nodes, QUERY_SECONDS))
        if self._state is None or server_round == 1:  # start() again begins again
            self._state = self._strategy.begin(records.tensors(arrays), nodes)
        self._grid = grid
        self._sampled = sample(nodes, self._fraction, self._seed, server_round)
        actions = self._strategy.actions(self._state, server_round)
        self._main = "train" if "train" in actions else next(iter(actions), None)
        for action in self._actions(server_round, before=True):
            self._query(action, server_round)
        if self._main is None:
            return []
        sent = self._strategy.send(self._state, self._main, server_round, self._sampled)
        return self._messages(self._main, sent, dict(config))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        answers = list(self._checked(replies))
        usable = [answer.update for answer in answers if answer.update is not None]
        if not usable and self._main is not None:
            log.warning("round %d: no usable reply; the model stays as it was", server_round)
            return None, None
        if self._main is not None:
            self._state = self._strategy.merge(self._state, self._main, server_round, iter(answers))
        for action in self._actions(server_round, before=False):
            self._query(action, server_round)
        self._state = self._strategy.end(self._state, server_round)
        base = self._strategy.models(self._state, self._sampled[:1])["base"]
        metrics = MetricRecord({"num-replies": len(usable)})
        means = _means(usable)
        if "loss" in means:
            metrics["train-loss"] = means["loss"]
        return records.array_record({n: t[0] for n, t in base.items()}), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        nodes = sorted(grid.get_node_ids())
        *_, (task, models) = self._strategy.models_by_task(
            self._state, nodes
        )  # the newest, of several
        made = self._strategy.made_on_client  # of more than what is sent to be evaluated
        best = models["base"] if made else models.get("personal", models["base"])
        sent = Sent(tuple(nodes), dict(best), {"server-round": server_round, "task": task})
        return list(self._messages("evaluate", sent, dict(config)))

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        answers = list(self._checked(replies))
        means = _means([answer.update for answer in answers if answer.update is not None])
        return records.metric_record(means) if means else None

    def summary(self) -> None:
        log.info("%s, fraction %g", type(self._strategy).__name__, self._fraction)

    def _actions(self, round: int, *, before: bool) -> list[str]:
        """The round's exchanges before, or after, its training."""
        actions = self._strategy.actions(self._state, round)
        at = actions.index(self._main) if self._main in actions else 0
        return list(actions[:at] if before else actions[at + 1 :])

    def _query(self, action: str, round: int) -> None:
        assert self._grid is not None
        sent = self._strategy.send(self._state, action, round, self._sampled)
        messages = list(self._messages(action, sent, {}))
        replies = self._grid.send_and_receive(messages, timeout=QUERY_SECONDS)
        answers = list(self._checked(replies))
        if messages and not any(answer.update for answer in answers):
            raise QuorumLostError(f"round {round}: no client answered {action!r} usably")
        self._state = self._strategy.merge(self._state, action, round, iter(answers))

    def _messages(self, action: str, sent: Sent, config: Mapping[str, object]) -> Iterator[Message]:
        model = {n: t[0] for n, t in sent.weights.items()}
        arrays = self._strategy.expected(action, model) if action != "evaluate" else {}
        self._expected, self._asked = Expected.of(arrays), action
        contents = models_by_client({records.ARRAYS: sent.weights}, len(sent.clients))
        for node, models in zip(sent.clients, contents, strict=True):
            content = records.request(models, {**config, **sent.config})  # type: ignore[dict-item]
            yield Message(content, node, action)

    def _checked(self, replies: Iterable[Message]) -> Iterator[Answers]:
        """Usable replies in node order; the others with the reason why not."""
        for reply in sorted(replies, key=lambda r: r.metadata.src_node_id):
            node = reply.metadata.src_node_id
            if reply.has_error():
                log.warning("node %d: %s", node, reply.error.reason)
                yield Answers((), None, {node: Failure("error", reply.error.reason or "no reason")})
                continue
            try:
                answer = checked_reply(reply, self._expected)
            except ReplyError as error:
                log.warning("node %d: rejected: %s", node, error)
                yield Answers((), None, {node: Failure("rejected", str(error))})
                continue
            update = stacked(answer)
            wrong = self._strategy.validation_errors(self._asked, update)
            if wrong:
                log.warning("node %d: rejected: %s", node, wrong[0])
                yield Answers((), None, {node: Failure("rejected", wrong[0])})
                continue
            yield Answers((node,), update)


def _means(updates: Sequence[Update]) -> dict[str, float]:
    """Each metric's mean over the examples of the clients that told it."""
    sums, examples = defaultdict[str, float](float), defaultdict[str, float](float)
    for update in updates:
        for name, value in update.metrics.items():
            sums[name] += float((value * update.num_examples).sum())
            examples[name] += float(update.num_examples.sum())
    return {name: sums[name] / examples[name] for name in sums}
