"""The tables of the production log, their rows as records and feedback, and how those of older versions are brought up
to date without losing a record."""

import dataclasses
import importlib
import json
import math
import operator
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPICursor

from llmops.production_log.record import Feedback, LogRecord, identity_in, in_batches

metadata = sa.MetaData()

# Numbers rows in the order of their writing, and never gives a number twice: what readers that follow the log count in.
_SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def json_or_text(text: str) -> Any:
    """The value of a JSON text; of what is none the text itself, so that one damaged row does not hide the others."""
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return text


class _Object(sa.TypeDecorator[Any]):
    """A JSON object, also where a row holds something else."""

    impl = sa.JSON
    cache_ok = True

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:  # noqa: ARG002 - SQLAlchemy's signature
        return value if isinstance(value, dict) else {"unreadable": value}


log_records = sa.Table(
    "log_records",
    metadata,
    sa.Column("seq", _SEQUENCE, primary_key=True),
    sa.Column("key", sa.String(32), nullable=False, unique=True),
    sa.Column("request_id", sa.String(255), nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False, index=True),
    sa.Column("app", sa.String(255), nullable=False),
    sa.Column("release", sa.String(255)),
    sa.Column("prompt", sa.String(255)),
    sa.Column("model", sa.String(255)),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("outcome", sa.String(32), nullable=False),
    sa.Column("input", sa.Text, nullable=False),
    sa.Column("output", sa.Text, nullable=False),
    sa.Column("tokens_in", sa.BigInteger),
    sa.Column("tokens_out", sa.BigInteger),
    sa.Column("latency_ms", sa.Float),
    sa.Column("first_token_ms", sa.Float),
    sa.Column("details", _Object, nullable=False),
    sa.Column("route", sa.String(32)),
    sa.Column("caller", sa.String(255)),
    sa.Column("user", sa.String(512)),
    sa.Column("text_deleted_at", sa.Float),
    sa.Index("log_records_app_at", "app", "at"),
    sqlite_autoincrement=True,
)
# Most records name no user, and then cost no entry. Of the user alone: with the app's name beside it, an entry could
# outgrow what PostgreSQL takes.
sa.Index("log_records_user", log_records.c.user, sqlite_where=log_records.c.user.is_not(None))

# record_key, release, app and their counterparts are copies from the log: votes are counted without reading it.
feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("seq", _SEQUENCE, primary_key=True),
    sa.Column("key", sa.String(32), nullable=False, unique=True),
    sa.Column("record_key", sa.String(32), nullable=False, index=True),
    sa.Column("request_id", sa.String(255), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("app", sa.String(255), nullable=False, index=True),
    sa.Column("release", sa.String(255)),
    sa.Column("caller", sa.String(255), nullable=False),
    sa.Column("user", sa.String(255)),
    sa.Column("score", sa.Float),
    sa.Column("label", sa.String(255)),
    sa.Column("comment", sa.Text),
    sa.Column("compared_to", sa.String(255)),
    sa.Column("compared_key", sa.String(32)),
    sa.Column("compared_release", sa.String(255)),
    sa.Column("truth", sa.JSON(none_as_null=True)),
    sqlite_autoincrement=True,
)

# A row without a status is a claim: the request that the key came with is still running.
idempotent_replies = sa.Table(
    "idempotent_replies",
    metadata,
    sa.Column("caller", sa.String(255), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("token", sa.String(32), nullable=False),
    sa.Column("process", sa.String(255), nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False, index=True),
    sa.Column("request_id", sa.String(255)),
    sa.Column("status", sa.Integer),
    sa.Column("headers", sa.JSON),
    sa.Column("body", sa.LargeBinary),
)

# What keys have used of their token budgets. window: minute or day; begun: of a day its number, of a minute the seconds
# of the clock that measures it.
token_counts = sa.Table(
    "token_counts",
    metadata,
    sa.Column("key_id", sa.String(32), primary_key=True),
    sa.Column("window", sa.String(8), primary_key=True),
    sa.Column("clock", sa.String(64), nullable=False),
    sa.Column("begun", sa.Float, nullable=False),
    sa.Column("used", sa.BigInteger, nullable=False),
)

token_reservations = sa.Table(
    "token_reservations",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("key_id", sa.String(32), nullable=False, index=True),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("process", sa.String(255), nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
)


# Folders and buckets that records were archived to: deleting must reach them.
log_archives = sa.Table("log_archives", metadata, sa.Column("url", sa.Text, primary_key=True))

_COLUMNS = tuple(column.name for column in log_records.columns if column.name != "seq")
_AT, _DETAILS, _DELETED_AT = (_COLUMNS.index(name) for name in ("at", "details", "text_deleted_at"))
_values_of = operator.attrgetter(*_COLUMNS)
_FIELDS = tuple(name for name in _COLUMNS if name != "app")
_MEASURED = ("tokens_in", "tokens_out", "latency_ms", "first_token_ms")
_ROWS_AT_ONCE = 500  # of 20 values; SQLite takes 32,766 in a statement
# A day inside of what Python's calendar holds, so that every time zone can show them.
_EARLIEST, _LATEST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)


class RecordInsert:
    """Inserts records with the driver's own cursor: on SQLite in one statement, whatever their number."""

    def __init__(self, dialect: sa.Dialect) -> None:
        # No driver takes half of a surrogate pair; PostgreSQL's text holds every character but NUL.
        self._nul = "\ufffd" if dialect.name == "postgresql" else "\x00"
        self._at_once = 1 if dialect.name == "postgresql" else _ROWS_AT_ONCE
        mark = "%s" if dialect.name == "postgresql" else "?"
        names = ", ".join(f'"{name}"' for name in _COLUMNS)
        self._marks = f"({', '.join([mark] * len(_COLUMNS))})"
        self._statement = f"INSERT INTO log_records ({names}) VALUES "  # noqa: S608

    def __call__(self, cursor: DBAPICursor, records: Sequence[LogRecord]) -> None:
        """Inserts all of them, in order; at least one."""
        rows = [self._row(record) for record in records]
        if self._at_once == 1:
            cursor.executemany(self._statement + self._marks, rows)
            return
        for part in in_batches(rows, self._at_once):
            cursor.execute(self._statement + ", ".join([self._marks] * len(part)), list(chain.from_iterable(part)))

    def takes_one_statement(self, records: int) -> bool:
        """Whether so many records are inserted by one statement."""
        return records <= self._at_once

    def _row(self, record: LogRecord) -> Sequence[Any]:
        row = list(_values_of(record))
        row[_AT], row[_DETAILS] = record.at.timestamp(), json_text(record.details)
        if record.text_deleted_at is not None:
            row[_DELETED_AT] = record.text_deleted_at.timestamp()
        texts = "".join([value for value in row if isinstance(value, str)])
        if texts.isascii() and "\x00" not in texts:
            return row
        return [storable(value, nul=self._nul) if isinstance(value, str) else value for value in row]


def storable(text: str, *, nul: str = "") -> str:
    """The text as databases take it: half a surrogate pair becomes `?`, and a zero byte, which PostgreSQL refuses,
    `nul`."""
    return text.encode(errors="replace").decode().replace("\x00", nul)


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
    for name in _MEASURED:
        value = values[name]
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
            values[name] = None
    values["at"] = stored_time(values["at"])
    if values["text_deleted_at"] is not None:
        values["text_deleted_at"] = stored_time(values["text_deleted_at"])
    return LogRecord(**values)


def feedback_of_row(row: sa.RowMapping) -> Feedback:
    values = {field.name: row[field.name] for field in dataclasses.fields(Feedback)}
    truth = None if row["truth"] is None else tuple(row["truth"])
    return Feedback(**{**values, "truth": truth, "at": stored_time(row["at"])})


def stored_time(seconds: Any) -> datetime:
    """The time that a row holds as seconds since the epoch."""
    try:
        return min(max(datetime.fromtimestamp(seconds, UTC), _EARLIEST), _LATEST)
    except (ValueError, OverflowError, OSError, TypeError):
        return _LATEST if isinstance(seconds, (int, float)) and seconds > 0 else _EARLIEST


_SCHEMA_LOCK = 0x6C6C6D01  # one of PostgreSQL's advisory locks, which are named by numbers
_BATCH = 1000


def insert_into(dialect: sa.Dialect, table: sa.TableClause) -> Any:
    """An insert that can say what to do where a row stands already, as each dialect has its own."""
    return importlib.import_module(f"sqlalchemy.dialects.{dialect.name}").insert(table)


def is_complete(connection: sa.Connection, tables: sa.MetaData = metadata) -> bool:
    """Whether every table is there and none is of an older version."""
    there = _columns(connection, tables)
    return len(there) == len(tables.tables) and not any(
        any(_outdated(there, table)) for table in tables.tables.values()
    )


def make_tables(connection: sa.Connection, tables: sa.MetaData) -> None:
    """Makes the tables, columns and indexes that are absent; several processes may do so at once, and all but one wait.

    So a table of ours may get a column in a later version, if that may be null or has a default of the server.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")
    there = _columns(connection, tables)
    for table in tables.sorted_tables:
        if table.name not in there:
            connection.execute(sa.schema.CreateTable(table))
        _add_columns(connection, table, _outdated(there, table)[0])
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            # What an index leaves out, tables say for SQLite: to name PostgreSQL's options there loads all its drivers.
            if connection.dialect.name == "postgresql":
                index.dialect_options["postgresql"]["where"] = index.dialect_options["sqlite"]["where"]
            connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))


def migrate_schema(connection: sa.Connection) -> None:
    """As `make_tables`, for the log's own, of which older versions had other keys and kept more in `details`.

    Takes about 15 s for each million records of an older version.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")
    missing, required = _outdated(_columns(connection, metadata), log_records)
    copied = ("seq" in missing or bool(required)) and connection.dialect.name == "sqlite"
    if copied:
        connection.exec_driver_sql("ALTER TABLE log_records RENAME TO log_records_before")
    else:
        _add_columns(connection, log_records, missing)
        for name in sorted(required):
            connection.exec_driver_sql(f'ALTER TABLE log_records ALTER COLUMN "{name}" DROP NOT NULL')
    if copied:
        connection.execute(sa.schema.CreateTable(log_records))
        _copy_older(connection, missing)
    if missing.intersection(("route", "caller", "user", "text_deleted_at")):
        _fill_from_details(connection)
    make_tables(connection, metadata)


def _columns(connection: sa.Connection, tables: sa.MetaData) -> dict[str, dict[str, bool]]:
    """Of those tables that are there, the columns, and whether each may be null."""
    by_table = sa.inspect(connection).get_multi_columns(filter_names=list(tables.tables))
    return {name: {each["name"]: each["nullable"] for each in columns} for (_, name), columns in by_table.items()}


def _outdated(there: Mapping[str, Mapping[str, bool]], table: sa.Table) -> tuple[set[str], set[str]]:
    """Of a log of an older version, the columns that its table has not, and those that may not be null there and may
    be here; none where the table itself is missing."""
    columns, ours = there.get(table.name), table.columns
    if columns is None:
        return set(), set()
    required = {name for name, nullable in columns.items() if not nullable and name in ours and ours[name].nullable}
    return set(ours.keys()) - columns.keys(), required


def _add_columns(connection: sa.Connection, table: sa.Table, names: set[str]) -> None:
    for name in sorted(names):
        made = sa.schema.CreateColumn(table.columns[name]).compile(dialect=connection.dialect)
        kind = '"seq" BIGSERIAL UNIQUE' if name == "seq" else made
        connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {kind}")


def _copy_older(connection: sa.Connection, missing: set[str]) -> None:
    # SQLite can neither add a primary key to a table nor let a column be null.
    # The highest number ever given may be that of a record which was erased since.
    query = "SELECT seq FROM sqlite_sequence WHERE name = 'log_records_before'"
    last = 0 if "seq" in missing else connection.exec_driver_sql(query).scalar() or 0
    names = ", ".join(f'"{column.name}"' for column in log_records.columns if column.name not in missing)
    connection.exec_driver_sql(
        f"INSERT INTO log_records ({names}) SELECT {names} FROM log_records_before ORDER BY rowid"  # noqa: S608
    )
    connection.exec_driver_sql("DROP TABLE log_records_before")  # and its indexes, whose names are then free
    if last:
        connection.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = 'log_records'")
        connection.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES ('log_records', ?)", (last,))


def _fill_from_details(connection: sa.Connection) -> None:
    """Gives older records the fields that only their details had."""
    table, last, names = log_records.c, 0, ("route", "caller", "user")
    values: dict[Any, Any] = {table[name]: sa.bindparam(f"new_{name}") for name in names}
    update = sa.update(log_records).where(table.seq == sa.bindparam("this")).values(values)
    # As text: what one database or version takes for JSON is not what Python does.
    query = sa.select(table.seq, sa.cast(table.details, sa.Text)).order_by(table.seq).limit(_BATCH)
    while rows := connection.execute(query.where(table.seq > last)).all():
        changes = []
        for seq, text in rows:
            details = json_or_text(text or "{}")
            if identity := identity_in(details) if isinstance(details, dict) else {}:
                changes.append({"this": int(seq), **{f"new_{name}": identity.get(name) for name in names}})
        if changes:
            connection.execute(update, changes)
        last = int(rows[-1][0])
