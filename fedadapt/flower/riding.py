"""An evaluation that rides on a training message: one exchange with a client in place of two.

Over a network an exchange takes seconds whatever it carries. Its parts stay what they are: on the
client each is a message of its own, which passes the owner's policy and has its entry in the
ledger, and on the server each is an answer of its own, with its own error.
"""

import copy

from flwr.app import ConfigRecord, Error, Message, RecordDict

RIDER = "rider."  # before the names of the records of the evaluation
RIDING = "riding"  # a record of an answer to both: what errors there were
EVALUATE = "evaluate"
MALFORMED = Error(code=0, reason="an answer to two questions in one message has other parts")


def with_rider(content: RecordDict, rider: RecordDict) -> RecordDict:
    """Return what a message holds that asks for training and for an evaluation."""
    return RecordDict({**content, **{f"{RIDER}{name}": record for name, record in rider.items()}})


def split(message: Message) -> tuple[Message, Message | None]:
    """Return the messages in a message: its own, and the evaluation that rides on it, if any."""
    riders = _riders(message.content)
    if not riders:
        return message, None
    own = RecordDict({n: r for n, r in message.content.items() if not n.startswith(RIDER)})
    return _part(message, own, message.metadata.message_type), _part(message, riders, EVALUATE)


def joined(message: Message, own: Message, rider: Message) -> Message:
    """Return the answer to ``message`` that holds the answers to both of its parts."""
    errors: dict[str, int | str] = {}
    content = RecordDict({} if own.has_error() else {**own.content})
    if own.has_error():
        errors |= {"own-code": own.error.code, "own-reason": own.error.reason or ""}
    if rider.has_error():
        errors |= {"rider-code": rider.error.code, "rider-reason": rider.error.reason or ""}
    else:
        content = with_rider(content, rider.content)
    content[RIDING] = ConfigRecord(errors)  # type: ignore[arg-type]
    return Message(content, reply_to=message)


def parted(reply: Message) -> tuple[Message, Message]:
    """Return the two answers in an answer; where there are no two, both are an error."""
    if reply.has_error():
        return reply, reply
    riders = _riders(reply.content)
    own = RecordDict(
        {n: r for n, r in reply.content.items() if not n.startswith(RIDER) and n != RIDING}
    )
    errors = reply.content.config_records.get(RIDING)
    if errors is None:
        return _failed(reply, MALFORMED), _failed(reply, MALFORMED)
    answers = []
    for name, content in (("own", own), ("rider", riders)):
        if f"{name}-code" in errors:
            code, reason = errors[f"{name}-code"], errors.get(f"{name}-reason")
            told = isinstance(code, int) and isinstance(reason, str)
            error = Error(code=code, reason=reason) if told else MALFORMED  # type: ignore[arg-type]
            answers.append(_failed(reply, error))
        else:
            answers.append(_part(reply, content, reply.metadata.message_type))
    return answers[0], answers[1]


def _riders(content: RecordDict) -> RecordDict:
    return RecordDict({n.removeprefix(RIDER): r for n, r in content.items() if n.startswith(RIDER)})


def _part(message: Message, content: RecordDict, kind: str) -> Message:
    metadata = copy.copy(message.metadata)
    metadata.message_type = kind
    return Message(content=content, metadata=metadata)  # type: ignore[call-overload]


def _failed(reply: Message, error: Error) -> Message:
    metadata = copy.copy(reply.metadata)
    return Message(error=error, metadata=metadata)  # type: ignore[call-overload]
