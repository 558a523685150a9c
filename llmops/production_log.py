"""The production log: one record for each request, in a database. Gateway and monitor meet here.

SQLite by default (write-ahead log, full sync: an acknowledged record survives `kill -9` and power loss), any other
database through its SQLAlchemy URL.
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from llmops.errors import StoreUnavailable, UsageError

_metadata = sa.MetaData()
_records = sa.Table(
    "log_records",
    _metadata,
    sa.Column("key", sa.String(32), primary_key=True),
    sa.Column("request_id", sa.String(255), nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False, index=True),
    sa.Column("app", sa.String(255), nullable=False, index=True),
    sa.Column("release", sa.String(255)),
    sa.Column("prompt", sa.String(255)),
    sa.Column("model", sa.String(255)),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("outcome", sa.String(32), nullable=False),
    sa.Column("input", sa.Text, nullable=False),
    sa.Column("output", sa.Text, nullable=False),
    sa.Column("tokens_in", sa.Integer, nullable=False),
    sa.Column("tokens_out", sa.Integer, nullable=False),
    sa.Column("latency_ms", sa.Float, nullable=False),
    sa.Column("first_token_ms", sa.Float),
    sa.Column("details", sa.JSON, nullable=False),
)


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One answered (or refused, failed, cancelled) request.

    at: when the request came. release, prompt, model: refs such as `assistant@3`; None when none was chosen.
    status: the HTTP status, or what it would have been had the reply not begun. outcome: `ok`, `error` or `cancelled`.
    input: the last user message. latency_ms, first_token_ms: from arrival. details: whatever else is known (messages,
    parameters, finish reason, error). key: the record's own identity; request ids may repeat.
    """

    request_id: str
    at: datetime
    status: int
    outcome: str
    input: str = ""
    output: str = ""
    release: str | None = None
    prompt: str | None = None
    model: str | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    latency_ms: float = 0.0
    first_token_ms: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def app(self) -> str:
        """The part of the release before `@`; empty for a raw model."""
        return (self.release or "").partition("@")[0]

    def to_json(self) -> dict[str, Any]:
        """The contract's JSON shape."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**values, "at": self.at.isoformat(), "details": dict(self.details)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LogRecord:
        """Reads `to_json`'s shape; unknown fields go into `details`.

        Raises:
            UsageError: a field is missing or of the wrong type; the text starts with its name.
        """
        known = {f.name for f in fields(cls)}
        extra = {name: value for name, value in values.items() if name not in known}
        given = {name: value for name, value in values.items() if name in known}
        given["at"] = parse_time(given.get("at"), "at")
        given["details"] = {**_mapping(given.get("details")), **extra}
        given = {name: value for name, value in given.items() if value is not None or name in _REQUIRED}
        given.setdefault("status", 200)
        given.setdefault("outcome", "ok" if given["status"] == 200 else "error")
        for name, kind in _KINDS.items():
            if name in given:
                _check_kind(name, given[name], kind)
        for name in _REQUIRED:
            if not given.get(name):
                raise UsageError(f"{name}: is missing")
        return cls(**given)


_NUMBER = (int, float)
_KINDS: dict[str, Any] = {
    "request_id": str, "outcome": str, "input": str, "output": str, "release": str, "prompt": str, "model": str,
    "key": str, "status": int, "tokens_in": int, "tokens_out": int, "latency_ms": _NUMBER, "first_token_ms": _NUMBER,
}  # fmt: skip
_KIND_NAMES: dict[Any, str] = {str: "text", int: "a whole number", _NUMBER: "a number"}
_REQUIRED = ("request_id",)


def _check_kind(name: str, value: Any, kind: Any) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UsageError(f"{name}: must be {_KIND_NAMES[kind]}, not {type(value).__name__}")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UsageError(f"{name}: is too large")


def _mapping(value: Any) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise UsageError(f"details: must be an object, not {type(value).__name__}")
    return value or {}


def parse_time(value: Any, name: str) -> datetime:
    """ISO 8601 text (no zone means UTC) or seconds since the epoch. Raises UsageError starting with `name`."""
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        moment = datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"{name}: {value!r} is not a time such as 2026-01-31T12:00:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def in_batches(records: Iterable[LogRecord], size: int) -> Iterator[list[LogRecord]]:
    """The records in lists of `size`, the last one shorter; never holds more than one list."""
    left = iter(records)
    while batch := list(itertools.islice(left, size)):
        yield batch


class ProductionLog:
    """Appends and reads records. Safe to share between threads; several processes may write to one log."""

    def __init__(self, url: str) -> None:
        """Opens the log and makes its table when absent. Raises StoreUnavailable."""
        self.url = url
        try:
            parsed = make_url(url)
            if parsed.get_backend_name() == "sqlite" and parsed.database:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            self._engine = sa.create_engine(url)
            if parsed.get_backend_name() == "sqlite":
                sa.event.listen(self._engine, "connect", _durable_sqlite)
            with self._engine.begin() as connection:
                # IF NOT EXISTS, because several workers may open a new log at the same moment.
                connection.execute(sa.schema.CreateTable(_records, if_not_exists=True))
                for index in _records.indexes:
                    connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))
        except (sa.exc.SQLAlchemyError, OSError, ImportError) as error:
            raise StoreUnavailable(f"production log {_shown(url)}: {_first_line(error)}") from error

    def append(self, records: Sequence[LogRecord]) -> None:
        """Writes all records in one transaction; returns when they are durable. Raises StoreUnavailable."""
        rows = [_to_row(record) for record in records]
        if rows:
            self._execute(lambda connection: connection.execute(sa.insert(_records), rows))

    def import_records(self, records: Sequence[LogRecord]) -> int:
        """Appends those whose request id is not in the log yet; returns how many. Raises StoreUnavailable."""
        new: dict[str, LogRecord] = {}
        for start in range(0, len(records), 500):
            part = records[start : start + 500]
            ids = [record.request_id for record in part]
            query = sa.select(_records.c.request_id).where(_records.c.request_id.in_(ids))
            known = set(self._execute(lambda connection, query=query: connection.execute(query).scalars().all()))
            new.update({record.request_id: record for record in part if record.request_id not in known})
        self.append(list(new.values()))
        return len(new)

    def count(self, **window: Any) -> int:
        """Number of records in the window; arguments as `read`."""
        query = _within(sa.select(sa.func.count()).select_from(_records), **window)
        return int(self._execute(lambda connection: connection.execute(query).scalar_one()))

    def read(self, *, limit: int | None = None, newest: bool = False, **window: Any) -> list[LogRecord]:
        """Records of the window `since <= at < until`, oldest first.

        app: only that app's. limit: at most so many, from the start, or from the end with `newest`.
        request_id: only those of that id.
        """
        order = (_records.c.at.desc(), _records.c.key.desc()) if newest else (_records.c.at, _records.c.key)
        query = _within(sa.select(_records), **window).order_by(*order).limit(limit)
        rows = self._execute(lambda connection: connection.execute(query).mappings().all())
        found = [_from_row(row) for row in rows]
        return found[::-1] if newest else found

    def iterate(self, *, batch: int = 1000, **window: Any) -> Iterator[LogRecord]:
        """As `read`, but streams in batches: bounded memory for any number of rows."""
        query = _within(sa.select(_records), **window).order_by(_records.c.at, _records.c.key)
        try:
            with self._engine.connect() as connection:
                result = connection.execution_options(yield_per=batch).execute(query)
                for row in result.mappings():
                    yield _from_row(row)
        except sa.exc.SQLAlchemyError as error:
            raise StoreUnavailable(f"production log {_shown(self.url)}: {_first_line(error)}") from error

    def check(self) -> None:
        """Raises StoreUnavailable when the log cannot be reached."""
        self._execute(lambda connection: connection.execute(sa.text("SELECT 1")))

    def close(self) -> None:
        self._engine.dispose()

    def _execute(self, work: Any) -> Any:
        try:
            with self._engine.begin() as connection:
                return work(connection)
        except sa.exc.SQLAlchemyError as error:
            raise StoreUnavailable(f"production log {_shown(self.url)}: {_first_line(error)}") from error


def _durable_sqlite(connection: Any, _record: Any) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")


def _shown(url: str) -> str:
    """The URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        return "(not a database URL)"


def _first_line(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def _within(
    query: sa.Select[Any],
    *,
    app: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    request_id: str | None = None,
) -> sa.Select[Any]:
    if app is not None:
        query = query.where(_records.c.app == app)
    if since is not None:
        query = query.where(_records.c.at >= since.timestamp())
    if until is not None:
        query = query.where(_records.c.at < until.timestamp())
    if request_id is not None:
        query = query.where(_records.c.request_id == request_id)
    return query


def _to_row(record: LogRecord) -> dict[str, Any]:
    values = {f.name: _storable(getattr(record, f.name)) for f in fields(record)}
    # Through JSON once, so that a value the column cannot hold fails here and not inside the driver.
    details = json.loads(json.dumps(dict(record.details)))
    return {**values, "at": record.at.timestamp(), "app": record.app, "details": details}


def _storable(value: Any) -> Any:
    """Half of a surrogate pair becomes `?`: no driver takes it, and it must not cost the batch its other records."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _from_row(row: sa.RowMapping) -> LogRecord:
    values = {str(name): value for name, value in row.items() if name != "app"}
    return LogRecord(**{**values, "at": datetime.fromtimestamp(row["at"], UTC)})
