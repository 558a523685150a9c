"""Makes the log's tables, and brings those of older versions up to date without losing a record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from llmops.production_log.record import identity_in
from llmops.production_log.tables import feedback, log_records, metadata

_SCHEMA_LOCK = 0x6C6C6D01  # one of PostgreSQL's advisory locks, which are named by numbers
_BATCH = 1000
_LATER_COLUMNS = ("route", "caller", "user", "text_deleted_at")
_GROWN = (log_records, feedback)
"""Tables that older versions have with fewer columns."""


def is_complete(connection: sa.Connection) -> bool:
    """Whether every table is there and none is of an older version."""
    names = set(sa.inspect(connection).get_table_names())
    return names.issuperset(metadata.tables) and not any(
        _missing(connection, table) or _wrongly_required(connection, table) for table in _GROWN
    )


def bring_up_to_date(connection: sa.Connection) -> None:
    """Several workers may open a new log, or one of an older version, at the same moment: one does it, all wait.

    Takes about 15 s for each million records of an older version.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")
    missing = _missing(connection, log_records)
    required = _wrongly_required(connection, log_records)
    copied = ("seq" in missing or bool(required)) and connection.dialect.name == "sqlite"
    if copied:
        connection.exec_driver_sql("ALTER TABLE log_records RENAME TO log_records_before")
    else:
        _add_columns(connection, log_records, missing)
        for name in sorted(required):
            connection.exec_driver_sql(f'ALTER TABLE log_records ALTER COLUMN "{name}" DROP NOT NULL')
    _add_columns(connection, feedback, _missing(connection, feedback))
    for table in metadata.sorted_tables:
        connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
    if copied:
        _copy_older(connection, missing)
    if missing.intersection(_LATER_COLUMNS):
        _fill_from_details(connection)
    for table in metadata.sorted_tables:
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))


def _missing(connection: sa.Connection, table: sa.Table) -> set[str]:
    """Columns that the table has not in a log of an older version; empty where the table itself is missing."""
    inspector = sa.inspect(connection)
    if not inspector.has_table(table.name):
        return set()
    return set(table.columns.keys()) - {column["name"] for column in inspector.get_columns(table.name)}


def _wrongly_required(connection: sa.Connection, table: sa.Table) -> set[str]:
    """Columns that may be null here, and may not in a log of an older version."""
    inspector = sa.inspect(connection)
    if not inspector.has_table(table.name):
        return set()
    columns = table.columns
    return {
        column["name"]
        for column in inspector.get_columns(table.name)
        if not column["nullable"] and column["name"] in columns and columns[column["name"]].nullable
    }


def _add_columns(connection: sa.Connection, table: sa.Table, names: set[str]) -> None:
    for name in sorted(names):
        kind = table.columns[name].type.compile(connection.dialect)
        kind = "BIGSERIAL UNIQUE" if name == "seq" else kind
        connection.exec_driver_sql(f'ALTER TABLE {table.name} ADD COLUMN "{name}" {kind}')


def _copy_older(connection: sa.Connection, missing: set[str]) -> None:
    # SQLite can neither add a primary key to a table nor let a column be null.
    last = 0
    if "seq" not in missing:
        # The highest number ever given may be that of a record which was erased since.
        query = "SELECT seq FROM sqlite_sequence WHERE name = 'log_records_before'"
        last = connection.exec_driver_sql(query).scalar() or 0
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
    table = log_records.c
    names = ("route", "caller", "user")
    values: dict[Any, Any] = {table[name]: sa.bindparam(f"new_{name}") for name in names}
    update = sa.update(log_records).where(table.seq == sa.bindparam("this")).values(values)
    for rows in _details_in_batches(connection):
        found = [(number, identity_in(details)) for number, details in rows]
        changes = [
            {"this": number, **{f"new_{name}": identity.get(name) for name in names}}
            for number, identity in found
            if identity
        ]
        if changes:
            connection.execute(update, changes)


def _details_in_batches(connection: sa.Connection) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    # As text: what one database or version takes for JSON is not what Python does.
    table, last = log_records.c, 0
    details = sa.cast(table.details, sa.Text)
    while True:
        query = sa.select(table.seq, details).where(table.seq > last).order_by(table.seq).limit(_BATCH)
        rows = [(int(seq), _object(text)) for seq, text in connection.execute(query)]
        if not rows:
            return
        yield rows
        last = rows[-1][0]


def _object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
