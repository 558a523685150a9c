"""Predictions of tabular models as the production log holds them, with the truths that came later.

A prediction's record has the route `predict`; its input is the rows as JSON, its output the predicted values, and its
details `rows`, how many, and `probabilities`, where the model is a classifier.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from llmops.errors import Corrupted
from llmops.production_log.record import LogRecord

if TYPE_CHECKING:
    from llmops.production_log.log import ProductionLog

PREDICT = "predict"
"""The route of a prediction's record."""

_RECORDS_AT_ONCE = 50  # each may hold ten thousand rows


@dataclass(frozen=True, slots=True)
class PredictionBatch:
    """The rows of one request, and what was predicted of them.

    at: when the request came. model: such as `bike@2`. probabilities: of each row, by class; None where the model is no
    classifier. truth: of each row, None as long as nobody has said it; of several that were said the last one counts.
    """

    at: datetime
    request_id: str
    model: str
    rows: Sequence[Mapping[str, Any]]
    predictions: Sequence[Any]
    probabilities: Sequence[Mapping[str, float]] | None
    truth: Sequence[Any]

    def __len__(self) -> int:
        return len(self.rows)


def is_prediction(record: LogRecord) -> bool:
    """Whether the record is of a prediction that was made."""
    return record.route == PREDICT and record.outcome == "ok"


def row_count(record: LogRecord) -> int:
    """Rows of a prediction; known also when retention has taken them."""
    return int(record.details.get("rows", 0))


def values_of(record: LogRecord) -> Sequence[Any]:
    """The predicted values; empty when retention has taken them. Raises Corrupted."""
    return () if record.text_deleted_at is not None else prediction_of(record).predictions


def read_predictions(
    log: ProductionLog,
    name: str,
    since: datetime | None = None,
    until: datetime | None = None,
    *,
    request_id: str | None = None,
) -> Iterator[PredictionBatch]:
    """The predictions of a tabular model, all versions, with `since <= at < until`, oldest first;
    with a request_id, only those of that request.

    Those whose rows retention has taken are left out. Memory is bounded for any number of them.

    Raises:
        StoreUnavailable: the log cannot be read.
        Corrupted: a record says that it is a prediction, and holds none; names the record.
    """
    window = {"app": name, "since": since, "until": until, "request_id": request_id}
    for record in log.iterate(batch=_RECORDS_AT_ONCE, feedback=True, **window):
        if is_prediction(record) and record.text_deleted_at is None:
            yield prediction_of(record)


def prediction_of(record: LogRecord) -> PredictionBatch:
    """What the record of a prediction holds. Raises Corrupted."""
    try:
        rows, predictions = json.loads(record.input), json.loads(record.output)
    except ValueError as error:
        raise Corrupted(f"record {record.key} of the production log: is no prediction: {error}") from error
    probabilities = record.details.get("probabilities")
    if not _match(rows, predictions) or not (probabilities is None or _match(rows, probabilities)):
        raise Corrupted(f"record {record.key} of the production log: is no prediction: rows and values do not match")
    said = [feedback.truth for feedback in record.feedback if feedback.truth is not None]
    truth = list(said[-1]) if said else [None] * len(rows)
    return PredictionBatch(record.at, record.request_id, record.model or "", rows, predictions, probabilities, truth)


def _match(rows: Any, values: Any) -> bool:
    return isinstance(rows, list) and isinstance(values, list) and len(rows) == len(values)
