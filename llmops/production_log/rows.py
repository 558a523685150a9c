"""Records and feedback as rows of their tables."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPICursor

from llmops.production_log.feedback import Feedback
from llmops.production_log.record import LogRecord

_COLUMNS = (
    "key", "request_id", "at", "app", "release", "prompt", "model", "status", "outcome", "input", "output",
    "tokens_in", "tokens_out", "latency_ms", "first_token_ms", "details",
    "route", "caller", "user", "text_deleted_at",
)  # fmt: skip
_FIELDS = tuple(name for name in _COLUMNS if name != "app")
_MEASURED = ("tokens_in", "tokens_out", "latency_ms", "first_token_ms")
# A day inside of what Python's calendar holds, so that every time zone can show them.
_EARLIEST, _LATEST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)


class RecordInsert:
    """Inserts records with the driver's own cursor."""

    def __init__(self, dialect: sa.Dialect) -> None:
        # No driver takes half of a surrogate pair; PostgreSQL's text holds every character but NUL.
        self._nul = "\ufffd" if dialect.name == "postgresql" else "\x00"
        mark = "%s" if dialect.name == "postgresql" else "?"
        names = ", ".join(f'"{name}"' for name in _COLUMNS)
        marks = ", ".join([mark] * len(_COLUMNS))
        self._statement = f"INSERT INTO log_records ({names}) VALUES ({marks})"  # noqa: S608

    def __call__(self, cursor: DBAPICursor, records: Sequence[LogRecord]) -> None:
        """Inserts all of them, in order; at least one."""
        cursor.executemany(self._statement, [self._row(record) for record in records])

    def _row(self, record: LogRecord) -> tuple[Any, ...]:
        row = (
            record.key,
            record.request_id,
            record.at.timestamp(),
            record.app,
            record.release,
            record.prompt,
            record.model,
            record.status,
            record.outcome,
            record.input,
            record.output,
            record.tokens_in,
            record.tokens_out,
            record.latency_ms,
            record.first_token_ms,
            json_text(record.details),
            record.route,
            record.caller,
            record.user,
            record.text_deleted_at.timestamp() if record.text_deleted_at is not None else None,
        )
        texts = "".join([value for value in row if isinstance(value, str)])
        return row if texts.isascii() and "\x00" not in texts else tuple(map(self._storable, row))

    def _storable(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return value.encode(errors="replace").decode().replace("\x00", self._nul)


def json_text(value: Mapping[str, Any]) -> str:
    """As JSON. What orjson refuses (huge numbers, halves of surrogate pairs) is written the slow way; NaN is null."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        plain = json.loads(json.dumps(dict(value)), parse_constant=lambda _: None)
        return json.dumps(plain)


def record_of_row(row: Mapping[Any, Any]) -> LogRecord:
    """The record of a row, also of one that an older version wrote without a check: what cannot be (a negative count, a
    latency that is no number) is not known, and a time that no calendar has is the nearest that one has."""
    values = {name: row[name] for name in _FIELDS}
    deleted = row["text_deleted_at"]
    return LogRecord(
        **{
            **values,
            "at": moment_of(row["at"]),
            "text_deleted_at": moment_of(deleted) if deleted is not None else None,
            **{name: _possible(row[name]) for name in _MEASURED},
        }
    )


def row_of_feedback(feedback: Feedback) -> dict[str, Any]:
    return {**dataclasses.asdict(feedback), "at": feedback.at.timestamp()}


def feedback_of_row(row: sa.RowMapping) -> Feedback:
    values = {field.name: row[field.name] for field in dataclasses.fields(Feedback)}
    truth = None if row["truth"] is None else tuple(row["truth"])
    return Feedback(**{**values, "truth": truth, "at": moment_of(row["at"])})


def moment_of(seconds: Any) -> datetime:
    """The time that a row holds as seconds since the epoch."""
    try:
        return min(max(datetime.fromtimestamp(seconds, UTC), _EARLIEST), _LATEST)
    except (ValueError, OverflowError, OSError, TypeError):
        return _LATEST if isinstance(seconds, (int, float)) and seconds > 0 else _EARLIEST


def _possible(value: Any) -> Any:
    return value if isinstance(value, (int, float)) and math.isfinite(value) and value >= 0 else None
