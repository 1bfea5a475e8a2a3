"""Plain values <-> Flower records: the only place that knows how messages are laid out.

| record | holds |
| --- | --- |
| ``arrays`` | the model, or the answer's arrays |
| ``personal`` | the client's own model, beside it in ``evaluate`` |
| ``pooled.<adaptation>`` | in ``evaluate``: the pooled answers to the adaptation's query |
| ``config`` | settings of the message, ``server-round`` among them |
| ``metrics`` | ``num-examples``, ``loss``, ... |
| ``report`` | further arrays of an answer, where the strategy has any |
| ``rows``, ``labels`` | results of ``evaluate``, one list a column |
| ``failures`` | what of ``evaluate`` has no result, one list a column |
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedadapt.messages import Config, Sent, Update
from fedadapt.records import Confidence, Evaluation, EvaluationFailure
from fedadapt.weights import Weights, repeat

ARRAYS, CONFIG, METRICS, REPORT, ROWS, LABELS, FAILURES, CONFIDENCES = (
    "arrays",
    "config",
    "metrics",
    "report",
    "rows",
    "labels",
    "failures",
    "confidences",
)
POOLED = "pooled."
NUM_EXAMPLES = "num-examples"
REASON = 200  # characters of what a client says of a failure
COLUMNS = list(get_type_hints(Evaluation).values())
BY_CLASS = ("balanced_accuracy", "f1", "auc")


def array_record(weights: Mapping[str, Tensor]) -> ArrayRecord:
    """One model, [...]."""
    return ArrayRecord({n: t.detach().contiguous() for n, t in weights.items()})


def tensors(record: ArrayRecord) -> Weights:
    """The inverse of ``array_record``."""
    return {n: torch.from_numpy(array.numpy().copy()) for n, array in record.items()}


def config_record(config: Config) -> ConfigRecord:
    """Settings as they travel."""
    record = ConfigRecord()
    for name, value in config.items():
        record[name] = value
    return record


def metric_record(numbers: Mapping[str, float]) -> MetricRecord:
    """Numbers as they travel."""
    record = MetricRecord()
    for name, number in numbers.items():
        record[name] = number
    return record


def settings(content: RecordDict) -> Config:
    """All settings of a message; anything but numbers, words and lists of them is left out."""
    values: dict[str, bool | int | float | str | list[int] | list[float] | list[str]] = {}
    for record in content.config_records.values():
        for name, value in record.items():
            if isinstance(value, bool | int | float | str) or (
                isinstance(value, list) and not any(isinstance(v, bytes) for v in value)
            ):
                values[name] = value  # type: ignore[assignment]
    return values


def request(weights: Mapping[str, ArrayRecord], config: Config) -> RecordDict:
    """A message to a client: named models and settings."""
    return RecordDict({**weights, CONFIG: config_record(config)})


def received(content: RecordDict, client: int) -> Sent:
    """What one client got, as a cohort of one. Takes the one model there is, whatever its key."""
    models = content.array_records
    record = models[ARRAYS] if ARRAYS in models else next(iter(models.values()))
    return Sent((client,), repeat(tensors(record), 1), settings(content))


def answer(update: Update) -> RecordDict:
    """The part of a cohort of one's update that travels."""
    content = RecordDict(
        {
            ARRAYS: array_record({n: t[0] for n, t in update.weights.items()}),
            METRICS: metric_record(
                {n: float(t[0]) for n, t in update.metrics.items()}
                | {NUM_EXAMPLES: float(update.num_examples[0])}
            ),
        }
    )
    if update.report:
        content[REPORT] = array_record({n: t[0] for n, t in update.report.items()})
    if not update.weights:
        del content[ARRAYS]
    return content


def rows_record(
    rows: Sequence[Evaluation],
    failures: Sequence[EvaluationFailure] = (),
    confidences: Sequence[Confidence] = (),
) -> RecordDict:
    """Results of one client, without its number: the server knows whom it asked."""
    content = RecordDict(
        {
            ROWS: MetricRecord(
                {
                    NUM_EXAMPLES: [row.num_examples for row in rows],
                    "accuracy": [row.accuracy for row in rows],
                    "loss": [row.loss for row in rows],
                    "epoch": [row.epoch for row in rows],
                    **{name: [getattr(row, name) for row in rows] for name in BY_CLASS},
                }
            ),
            LABELS: ConfigRecord(
                {
                    "model": [row.model for row in rows],
                    "adaptation": [row.adaptation for row in rows],
                    "split": [row.split for row in rows],
                    "kind": [row.kind for row in rows],
                    "seen": [row.seen for row in rows],
                }
            ),
            FAILURES: ConfigRecord(
                {
                    "model": [failure.model for failure in failures],
                    "adaptation": [failure.adaptation for failure in failures],
                    "reason": [failure.reason for failure in failures],
                }
            ),
        }
    )
    if confidences:
        content[CONFIDENCES] = ConfigRecord(
            {
                "seen": [c.seen for c in confidences],
                "model": [c.model for c in confidences],
                "adaptation": [c.adaptation for c in confidences],
                "temperature": [c.temperature for c in confidences],
                "images": [len(c.right) for c in confidences],
                # Of all images of all models, one after the other.
                "right": [right for c in confidences for right in c.right],
                "raw": [sure for c in confidences for sure in c.raw],
                "calibrated": [sure for c in confidences for sure in c.calibrated],
            }
        )
    return content


def confidences(content: RecordDict, round: int, client: int) -> list[Confidence]:
    """How sure a client's models are; [] where it was not asked. The inverse of ``rows_record``.

    Raises:
        ValueError: Columns are missing, of different length or not of their types, or a
            probability or a temperature is none.

    """
    if CONFIDENCES not in content.config_records:
        return []
    try:
        columns: dict[str, Any] = dict(content.config_records[CONFIDENCES])
        heads = [columns[n] for n in ("seen", "model", "adaptation", "temperature", "images")]
        images = [columns[n] for n in ("right", "raw", "calibrated")]
        parsed, first = [], 0
        for *words, count in zip(*heads, strict=True):
            parts = [column[first : first + count] for column in images]
            if not count > 0 or any(len(part) != count for part in parts):
                raise ValueError("images")
            parsed.append(Confidence(round, client, *words, *parts))
            first += count
        if any(len(column) != first for column in images):
            raise ValueError("images")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"confidences are malformed: {type(error).__name__}") from None
    for confidence in parsed:
        sure = [*confidence.raw, *confidence.calibrated]
        types = [type(value) for value in confidence[2:6]] == [bool, str, str, float]
        flags = all(type(right) is bool for right in confidence.right)
        if not types or not flags or not all(type(p) is float and 0 <= p <= 1 for p in sure):
            raise ValueError("confidences are malformed: values of other types")
        if not 0 < confidence.temperature < math.inf:
            raise ValueError(f"temperature {confidence.temperature}")
    return parsed


def failures(content: RecordDict, round: int, client: int) -> list[EvaluationFailure]:
    """What a client says it could not compute; the inverse of ``rows_record``.

    Raises:
        ValueError: the columns are missing, of different length or not words.

    """
    try:
        columns = [content.config_records[FAILURES][n] for n in ("model", "adaptation", "reason")]
        parsed = [EvaluationFailure(round, client, *words) for words in zip(*columns, strict=True)]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"evaluation failures are malformed: {type(error).__name__}") from None
    if not all(isinstance(word, str) for failure in parsed for word in failure[2:5]):
        raise ValueError("evaluation failures are malformed: values of other types")
    return [failure._replace(reason=failure.reason[:REASON]) for failure in parsed]


def rows(content: RecordDict, round: int, client: int) -> list[Evaluation]:
    """The inverse of ``rows_record``.

    Raises:
        ValueError: the columns are missing, of different length or not of their types.

    """
    try:
        numbers: Any = content.metric_records[ROWS]
        words: Any = content.config_records[LABELS]
        columns = (
            words["kind"],
            words["seen"],
            words["model"],
            words["adaptation"],
            words["split"],
            numbers[NUM_EXAMPLES],
            numbers["accuracy"],
            numbers["loss"],
            numbers["epoch"],
            [0] * len(words["model"]),  # the task: clients of Flower learn none
            # NaN is always the same object: rows with equal numbers are equal.
            *([math.nan if x != x else x for x in numbers[name]] for name in BY_CLASS),
        )
        evaluations = [Evaluation(round, client, *row) for row in zip(*columns, strict=True)]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"evaluation results are malformed: {type(error).__name__}") from None
    for row in evaluations:
        if [type(value) for value in row] != COLUMNS:
            raise ValueError("evaluation results are malformed: values of other types")
        if not 0 <= row.accuracy <= 1 or row.num_examples < 1:
            raise ValueError(f"accuracy {row.accuracy} over {row.num_examples} images")
        if any(value < 0 or value > 1 for value in (row.balanced_accuracy, row.f1, row.auc)):
            raise ValueError("evaluation results are malformed: a metric outside [0, 1]")
    return evaluations
