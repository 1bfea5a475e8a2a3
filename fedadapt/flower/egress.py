"""The last thing that a client's answer passes: what is declared and allowed leaves, nothing else.

The outermost mod of the ClientApp. What an answer may consist of is declared by the strategy or the
adaptation that asks, what may leave is the owner's policy, and what leaves is in the ledger before
it is sent. Whatever goes wrong here, an error of fixed words leaves and no content.
"""

import atexit
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict

from fedadapt.client.differential_privacy import KEPT, charge_of
from fedadapt.client.egress.budget import PrivacyBudget
from fedadapt.client.egress.ledger import Ledger, Part
from fedadapt.client.egress.policy import NOMINAL, EgressError, Policy, rule_of
from fedadapt.client.failures import CODES
from fedadapt.flower import records
from fedadapt.flower.replies import ReplyError, honest_header
from fedadapt.server.checks import Expected
from fedadapt.weights import Weights

COST = "cost"  # a record of an answer that stays on the client: what privacy the answer has cost
WITHHELD = "withheld"  # a record of an answer: how much of it was not declared

DECIMALS = 2  # of accuracies and losses where numbers of images are not told exactly

_ERROR = re.compile(
    r"egress: '[\w-]{1,60}' (is|cannot be) [a-z ]{1,40}"
    r"|[a-z-]{1,30}(:[\w-]{1,60})?( incident=[0-9a-f]{12})?"
)
"""All that an error may say: fixed words, the type of an exception, a random number."""

DELTA = 1e-5
"""At which epsilon is told of a client whose owner sets no budget."""

log = logging.getLogger(__name__)


class Device(NamedTuple):
    """What is the owner's."""

    policy: Policy
    ledger: Ledger | None  # None: nobody owns the client, Flower simulates it


@dataclass(frozen=True)
class Declared:
    """What an answer may consist of."""

    records: Mapping[str, Expected] = field(default_factory=dict)  # arrays, report
    metrics: frozenset[str] = frozenset()
    facts: frozenset[str] = frozenset()  # of the server's own queries, ``query.hello`` say


class Egress:
    """A Flower mod; see the top of this file."""

    def __init__(
        self,
        device: Callable[[Context], Device],
        declared: Callable[[Message, Context], Declared],
    ) -> None:
        """Make the mod.

        Args:
            device: Reads the owner's policy, and finds the ledger, for each message anew.
            declared: What an answer to a message may consist of.

        """
        self._device = device
        self._declared = declared

    def __call__(
        self,
        message: Message,
        context: Context,
        call_next: Callable[[Message, Context], Message],
    ) -> Message:
        """Answer, or refuse to; never raises."""
        confirm_handed_over()
        ledger: Ledger | None = None
        withheld: list[str] = []
        epsilon = 0.0
        try:
            policy, ledger = self._device_of(context)
            kind = message.metadata.message_type
            if not policy.allows(kind):
                raise EgressError.rule(rule_of(kind))
            reply = call_next(message, context)
            if reply.has_error():
                outcome = _error_text(reply.error.reason)
                reply = _error(message, reply.error.code, outcome)
            else:
                outcome, content = "answer", reply.content
                epsilon = _cost(content)
                withheld = self._reduce(message, context, content, policy)
        except EgressError as refusal:
            log.warning("%s", refusal.reason)
            outcome = refusal.reason
            reply = _error(message, CODES["egress"], outcome)
        except BaseException:  # Ctrl-C as well: a node that heard nothing would wait for ever
            log.exception("egress: the answer could not be checked; nothing of it leaves")
            outcome = "egress: 'answer' cannot be checked on this device"
            reply = _error(message, CODES["egress"], outcome)
        try:
            if ledger is not None:
                number = _enter(ledger, message, context, reply, outcome, epsilon, withheld)
                _HANDED_OVER.append((ledger, number))
        except BaseException:
            log.exception("egress: the ledger cannot be written; nothing leaves")
            outcome = "egress: 'ledger' cannot be written on this device"
            reply = _error(message, CODES["egress"], outcome)
        return reply

    def _device_of(self, context: Context) -> Device:
        try:
            return self._device(context)
        except (OSError, ValueError):
            log.exception("egress: the policy or the ledger's place cannot be read; nothing leaves")
            raise EgressError("egress: 'policy' cannot be read on this device") from None

    def _reduce(
        self, message: Message, context: Context, content: RecordDict, policy: Policy
    ) -> list[str]:
        """Take out of ``content`` what may not leave; names of what nobody declared."""
        if is_evaluation(message):
            withheld = _only(content, _RESULTS)
            _reduce_rows(content, message.content, policy)
            return _noted(content, withheld)
        declared = self._declared(message, context)
        if declared.facts:
            withheld = _only(content, {records.CONFIG: ConfigRecord})
            return withheld + _reduce_facts(content, declared.facts, policy)
        arrays = dict.fromkeys(declared.records, ArrayRecord)
        withheld = _only(content, {**arrays, records.METRICS: MetricRecord})
        withheld += _check_arrays(content, declared.records)
        withheld += _reduce_metrics(content, declared.metrics, policy)
        if message.metadata.message_type == "evaluate" and not policy.metrics:
            raise EgressError.rule("metrics")
        return _noted(content, withheld)


_HANDED_OVER: list[tuple[Ledger, int]] = []
"""Entries whose messages this process has given to Flower since it last confirmed any."""


def confirm_handed_over() -> None:
    """Confirm in the ledger what this process lived to hand over.

    Called when the next message comes and when the process ends in its own time; a process that is
    killed confirms nothing.
    """
    while _HANDED_OVER:
        ledger, number = _HANDED_OVER.pop()
        try:
            ledger.confirm(number)
        except (OSError, ValueError):
            log.exception("%s: entry %d could not be confirmed", ledger.path, number)


atexit.register(confirm_handed_over)


def is_evaluation(message: Message) -> bool:
    """Whether a message asks for the results of models; a stock strategy's asks for metrics."""
    kind = message.metadata.message_type
    return kind == "evaluate" and "adaptations" in records.settings(message.content)


def debited(
    action: str,
    before: Mapping[str, Weights],
    after: Mapping[str, Weights],
    policy: Policy,
    budget: PrivacyBudget | None,
) -> float:
    """Debit what an answer reveals, before it is kept or sent; by how much epsilon grows.

    Args:
        before: The client's state before the answer.
        after: What the answer adds to it; a noisy answer has what it was there.
        budget: None: nobody owns the client.

    Raises:
        EgressError: The budget is spent, or the owner's policy demands noise and there is none.

    """
    limit = policy.privacy
    charge = charge_of(before, after)
    if limit is not None and action in limit.messages and not is_noisy(after):
        raise EgressError(f"egress: {rule_of(action)!r} is not allowed without noise")
    if not charge or budget is None:
        return 0.0
    return budget.spend(charge, limit, DELTA if limit is None else limit.delta).added


def is_noisy(states: Mapping[str, Weights]) -> bool:
    """Whether an answer, of which a client keeps ``states``, has noise."""
    return KEPT in states


def costing(content: RecordDict, epsilon: float) -> RecordDict:
    """Return an answer with what it has cost, for the ledger; that record never leaves."""
    if epsilon:
        content[COST] = MetricRecord({"epsilon": epsilon})
    return content


def _cost(content: RecordDict) -> float:
    if COST not in content.metric_records:
        return 0.0
    return float(content.metric_records.pop(COST)["epsilon"])  # type: ignore[arg-type]


def _error(message: Message, code: int, reason: str) -> Message:
    return Message(Error(code=code, reason=reason), reply_to=message)


def _error_text(reason: str | None) -> str:
    if reason is not None and _ERROR.fullmatch(reason):
        return reason
    return "crash:Exception"


_RESULTS = {
    records.ROWS: MetricRecord,
    records.LABELS: ConfigRecord,
    records.FAILURES: ConfigRecord,
    records.CONFIDENCES: ConfigRecord,
}


def _only(content: RecordDict, types: Mapping[str, type]) -> list[str]:
    """Take out the records that are not of these names and types; their names."""
    extra = [name for name, record in content.items() if type(record) is not types.get(name)]
    for name in extra:
        del content[name]
    return extra


def _noted(content: RecordDict, withheld: list[str]) -> list[str]:
    if withheld:
        content[WITHHELD] = ConfigRecord({"parts": len(withheld)})
    return withheld


def _check_arrays(content: RecordDict, declared: Mapping[str, Expected]) -> list[str]:
    """Take out arrays that are not declared; one that is, but otherwise, refuses the answer."""
    withheld = []
    for name, record in content.array_records.items():
        specs = declared[name].arrays
        extra = [array for array in record if array not in specs]
        withheld += [f"{name}/{array}" for array in extra]
        for array in extra:
            del record[array]
        for array, value in record.items():
            try:
                honest_header(value, specs[array])
            except ReplyError as error:
                log.warning("%s %r: %s", name, array, error)
                raise EgressError.rule("undeclared") from None
    return withheld


def _reduce_metrics(content: RecordDict, declared: Collection[str], policy: Policy) -> list[str]:
    record = content.metric_records.get(records.METRICS)
    if record is None:
        return []
    extra = [
        name
        for name, value in record.items()
        if name not in (*declared, records.NUM_EXAMPLES) or not isinstance(value, int | float)
    ]
    for name in extra:
        del record[name]
    for name in list(record):
        if name == records.NUM_EXAMPLES:
            _reduce_count(record, policy)
        elif not policy.metrics:
            del record[name]
        elif policy.num_examples != "exact":
            record[name] = round(float(record[name]), DECIMALS)  # type: ignore[arg-type]
    return [f"{records.METRICS}/{name}" for name in extra]


def _reduce_count(record: MetricRecord | ConfigRecord, policy: Policy) -> None:
    images: int | float = record[records.NUM_EXAMPLES]  # type: ignore[assignment]
    told = policy.count(images)
    if told is None:
        del record[records.NUM_EXAMPLES]
    else:
        record[records.NUM_EXAMPLES] = int(told) if isinstance(images, int) else told


def _reduce_facts(content: RecordDict, facts: Collection[str], policy: Policy) -> list[str]:
    record = content.config_records[records.CONFIG]
    extra = [name for name in record if name not in facts]
    for name in extra:
        del record[name]
    if records.NUM_EXAMPLES in record:
        _reduce_count(record, policy)
    return [f"{records.CONFIG}/{name}" for name in extra]


_WORDS = ("model", "adaptation", "split", "kind", "seen")
_NUMBERS = (records.NUM_EXAMPLES, "accuracy", "loss", "epoch", *records.BY_CLASS)
_FAILED = ("model", "adaptation", "reason")
_SURENESS = ("seen", "model", "adaptation", "temperature", "images", "right", "raw", "calibrated")


def _reduce_rows(content: RecordDict, asked: RecordDict, policy: Policy) -> None:
    """Bring the results of models down to what the policy allows.

    Raises:
        EgressError: No metrics may leave, or the results are of something that was not asked.

    """
    if not policy.metrics:
        raise EgressError.rule("metrics")
    settings = records.settings(asked)
    models = {"base" if n == records.ARRAYS else n for n in asked.array_records}
    models |= {*settings.get("on-client", ())}  # type: ignore[misc]
    allowed = {
        "model": models,
        "adaptation": {*settings["adaptations"]},  # type: ignore[misc]
        "split": {"test", "adapt", "global", "held-out"},
    }
    rows, words = content.metric_records[records.ROWS], content.config_records[records.LABELS]
    failed = content.config_records[records.FAILURES]
    sure = content.config_records.get(records.CONFIDENCES)
    tables: list[tuple[Mapping[str, Any], Sequence[str]]] = [
        (rows, _NUMBERS), (words, _WORDS), (failed, _FAILED)
    ]  # fmt: skip
    if sure is not None:
        tables.append((sure, _SURENESS))
    for table, columns in tables:
        told = {n: set(table[n]) for n in allowed if n in columns and n in table}
        if {*table} != {*columns} or any(not told[n] <= allowed[n] for n in told):
            raise EgressError.rule("undeclared")
    reasons: list[str] = failed["reason"]  # type: ignore[assignment]
    failed["reason"] = [_error_text(reason) for reason in reasons]
    words["kind"] = [""] * len(words["kind"])  # type: ignore[arg-type]
    if sure is not None and not (policy.each_image and policy.num_examples == "exact"):
        del content[records.CONFIDENCES]
    if policy.num_examples == "exact":
        return
    counts: list[float] = rows[records.NUM_EXAMPLES]  # type: ignore[assignment]
    rows[records.NUM_EXAMPLES] = [int(policy.count(n) or NOMINAL) for n in counts]
    for name in ("accuracy", "loss", *records.BY_CLASS):
        column: list[float] = rows[name]  # type: ignore[assignment]
        rows[name] = [round(value, DECIMALS) for value in column]


def _enter(
    ledger: Ledger,
    message: Message,
    context: Context,
    reply: Message,
    outcome: str,
    epsilon: float,
    withheld: Sequence[str],
) -> int:
    settings = records.settings(message.content)
    round = settings.get("server-round", 0)
    return ledger.write(
        run=str(settings.get("experiment", context.run_id)),
        round=round if type(round) is int else 0,
        type=message.metadata.message_type,
        outcome=outcome,
        parts=() if reply.has_error() else list(_parts(reply.content)),
        epsilon=epsilon,
        withheld=withheld,
    )


def _parts(content: RecordDict) -> Iterable[Part]:
    """All that a message consists of."""
    for name, record in content.items():
        for key, value in record.items():
            if isinstance(record, ArrayRecord):
                array = record[key]
                shape, size = tuple(array.shape), len(array.data)
                yield Part(record=name, name=key, dtype=array.dtype, shape=shape, bytes=size)
                continue
            listed = value if isinstance(value, list) else [value]
            shape = (len(listed),) if isinstance(value, list) else ()
            word = type(listed[0]).__name__ if listed else "nothing"
            size = sum(_size(each) for each in listed)
            yield Part(record=name, name=key, dtype=word, shape=shape, bytes=size)


def _size(value: object) -> int:
    """Bytes of a number, a word or a flag."""
    if isinstance(value, str):
        return len(value.encode())
    return len(value) if isinstance(value, bytes) else 1 if isinstance(value, bool) else 8
