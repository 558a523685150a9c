"""Copies tables from one database to another one, SQLite or PostgreSQL, and compares both by counts and hashes."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from llmops.errors import CannotRun, StoreUnavailable, first_line
from llmops.production_log.database import database_url
from llmops.production_log.tables import json_or_text
from llmops.state_files import make_private_folder, shown, sqlite_path

_BATCH = 200
_WAIT_SECONDS = 5
_MODULUS = 2**256
Progress = Callable[[str, int, int], None]
"""Called with a table's name, the rows that are copied, and the rows that there are."""


@dataclass(frozen=True, slots=True)
class TableContent:
    """rows: how many. sha256: the sum of all rows' hashes, so that the order in which a database gives them does not
    matter. Equal values have equal hashes on both databases; JSON is compared as values."""

    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class CopiedTable:
    """source, target: what each side holds. replaced: values that the target's database cannot hold, and that stand
    there as llmops would have written them: in PostgreSQL U+FFFD for a zero byte in a text, null for NaN in JSON, and a
    JSON text for damaged JSON; in SQLite null for a NaN. The source is hashed with these replaced."""

    name: str
    source: TableContent
    target: TableContent
    replaced: int

    @property
    def is_equal(self) -> bool:
        return self.source == self.target

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "equal": self.is_equal}


@contextmanager
def opened_alone(url: str, *, make: bool = False) -> Iterator[sa.Connection]:
    """A transaction in a database that nobody else of llmops uses meanwhile. It is rolled back unless it is committed.

    On SQLite nobody else can open the file until the block ends. On PostgreSQL other sessions of llmops are looked for,
    and those that come later wait for what `lock_tables` locks. make: whether to make a SQLite file that is missing.

    Raises StoreUnavailable: it cannot be opened. CannotRun: another process has it open.
    """
    path, parsed = sqlite_path(url), database_url(url)
    if path is None and parsed.get_backend_name() != "postgresql":
        raise StoreUnavailable(f"{shown(url)}: must be a SQLite file or PostgreSQL")
    engine = sa.create_engine(parsed, poolclass=sa.NullPool)
    try:
        if path is not None and make:
            make_private_folder(path.parent)
            os.close(os.open(path, os.O_CREAT, 0o600))
        elif path is not None and not path.exists():
            raise StoreUnavailable(f"{path} does not exist")
        with engine.connect() as connection:
            if path is None:
                connection.execution_options(isolation_level="REPEATABLE READ")
                refuse_others(connection)
            else:
                _begin_alone(connection)
            yield connection
    except (sa.exc.SQLAlchemyError, OSError) as error:
        raise StoreUnavailable(f"{shown(url)}: {first_line(error)}") from error
    finally:
        engine.dispose()


def _begin_alone(connection: sa.Connection) -> None:
    driver: Any = connection.connection.driver_connection
    driver.isolation_level = None
    # In this mode SQLite needs the file for itself alone, also against connections that do nothing.
    driver.execute("PRAGMA locking_mode=EXCLUSIVE")
    driver.execute(f"PRAGMA busy_timeout={_WAIT_SECONDS * 1000}")
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    except sa.exc.OperationalError as error:
        if "locked" not in str(error.orig):
            raise
        raise CannotRun(f"{connection.engine.url.database} is in use: stop the gateway and everything else") from error


def refuse_others(connection: sa.Connection) -> None:
    """Raises CannotRun while llmops has other sessions in a PostgreSQL database: a gateway, a monitor, a pipeline."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_stat_clear_snapshot()")  # what was seen is kept for the transaction
        query = """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
            AND application_name IN ('llmops', 'dbos_transact')"""
        if sessions := connection.exec_driver_sql(query).scalar_one():
            where = shown(str(connection.engine.url))
            raise CannotRun(f"{where} is in use, by {sessions} sessions: stop the gateways and everything else")


def lock_tables(connection: sa.Connection, tables: Sequence[sa.Table]) -> None:
    """Nobody writes to the tables of a PostgreSQL database until the transaction ends."""
    if connection.dialect.name == "postgresql":
        names = ", ".join(connection.dialect.identifier_preparer.format_table(table) for table in tables)
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_WAIT_SECONDS}s'")
        connection.exec_driver_sql(f"LOCK TABLE {names} IN SHARE MODE")


def copy_tables(
    source: sa.Connection, target: sa.Connection, tables: Mapping[sa.Table, sa.Table], progress: Progress
) -> list[CopiedTable]:
    """Copies all rows, the next number that each table gives, and reads them back.

    A target that holds the same already, as after an earlier call, is only compared.

    tables: of the source, each with the one of the target, which has the same columns.

    Raises CannotRun: the target holds something else, or cannot take a row.
    """
    any_row = {table.name: sa.select(sa.literal(1)).select_from(table).limit(1) for table in tables.values()}
    filled = [name for name, query in any_row.items() if target.execute(query).first()]
    if filled:
        found = [
            CopiedTable(table.name, content(source, table), content(target, of_target), 0)
            for table, of_target in tables.items()
        ]
        if all(table.is_equal for table in found):
            return found
        where = shown(str(target.engine.url))
        raise CannotRun(f"{where} holds other data already, in {', '.join(filled)}: name an empty database")
    return [_copy(source, target, table, of_target, progress) for table, of_target in tables.items()]


def content(connection: sa.Connection, table: sa.Table) -> TableContent:
    """How many rows the table has, and their hash."""
    rows = total = 0
    for batch in _batches(connection, table):
        rows, total = rows + len(batch), total + sum(_hash(table, row) for row in batch)
    return TableContent(rows, f"{total % _MODULUS:064x}")


def _copy(
    source: sa.Connection, target: sa.Connection, table: sa.Table, of_target: sa.Table, progress: Progress
) -> CopiedTable:
    columns, is_postgresql = list(of_target.columns), target.dialect.name == "postgresql"
    total = source.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
    rows = hashes = replaced = 0
    # Columns without types: values go in as they came out.
    insert = sa.insert(sa.table(of_target.name, *(sa.column(c.name) for c in columns), schema=of_target.schema))
    for batch in _batches(source, table):
        written = []
        for row in batch:
            changed = dict(row)
            for column in columns:
                value = row[column.name]
                taken = _for_postgresql(column, value) if is_postgresql else _for_sqlite(value)
                if taken is not value:
                    changed[column.name] = taken
                    replaced += 1
            hashes += _hash(of_target, changed)
            written.append({c.name: _as_kind(c, changed[c.name]) for c in columns})
        _insert(target, insert, written, of_target)
        rows += len(batch)
        progress(table.name, rows, total)
    _go_on_counting(source, target, table, of_target)
    return CopiedTable(
        table.name, TableContent(rows, f"{hashes % _MODULUS:064x}"), content(target, of_target), replaced
    )


def _batches(connection: sa.Connection, table: sa.Table) -> Iterator[list[dict[str, Any]]]:
    """The rows as the database holds them, in the order of their keys; JSON as its text."""
    columns = [
        sa.cast(sa.column(c.name), sa.Text).label(c.name) if isinstance(_kind(c), sa.JSON) else sa.column(c.name)
        for c in table.columns
    ]
    keys: list[sa.ColumnElement[Any]] = [sa.column(c.name) for c in table.primary_key.columns]
    query = sa.select(*columns).select_from(sa.table(table.name, schema=table.schema)).order_by(*keys)
    with connection.execute(query, execution_options={"yield_per": _BATCH}) as result:
        for rows in result.mappings().partitions():
            yield [dict(row) for row in rows]


def _for_postgresql(column: sa.Column[Any], value: Any) -> Any:
    """The value itself, or what stands for it where PostgreSQL cannot hold it."""
    if not isinstance(value, str):
        return value
    if isinstance(_kind(column), sa.JSON):
        try:
            json.loads(value, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return json.dumps(json_or_text(value)).replace("\\u0000", "\\ufffd")
        return value
    return value.replace("\x00", "\ufffd") if "\x00" in value else value


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _for_sqlite(value: Any) -> Any:
    """As `_for_postgresql`."""
    return None if isinstance(value, float) and value != value else value


def _kind(column: sa.Column[Any]) -> sa.types.TypeEngine[Any]:
    """The column's type as the database knows it."""
    return column.type.impl_instance if isinstance(column.type, sa.TypeDecorator) else column.type


def _as_kind(column: sa.Column[Any], value: Any) -> Any:
    """SQLite keeps booleans as numbers, and a driver takes a number for what it is."""
    return bool(value) if isinstance(_kind(column), sa.Boolean) and value is not None else value


def _hash(table: sa.Table, row: Mapping[str, Any]) -> int:
    digest = hashlib.sha256()
    for column in table.columns:
        value, kind = _as_kind(column, row[column.name]), _kind(column)
        if isinstance(kind, sa.JSON) and isinstance(value, str):
            value = json.dumps(json_or_text(value), sort_keys=True)
        elif isinstance(kind, sa.Float) and isinstance(value, (int, float)):
            value = float(value) + 0.0  # SQLite has no negative zero
        data = bytes(value) if isinstance(value, (bytes, memoryview)) else repr(value).encode()
        digest.update(b"%d:" % len(data) + data)
    return int.from_bytes(digest.digest())


def _insert(target: sa.Connection, insert: sa.Insert, rows: list[dict[str, Any]], table: sa.Table) -> None:
    try:
        with target.begin_nested():
            target.execute(insert, rows)
    except (sa.exc.DataError, sa.exc.IntegrityError) as error:
        if len(rows) > 1:  # one of them; which one?
            for row in rows:
                _insert(target, insert, [row], table)
        named = ", ".join(f"{c.name}={rows[0][c.name]!r}" for c in table.primary_key.columns)
        raise CannotRun(f"{table.name}: the row with {named} cannot be copied: {first_line(error)}") from error


def _go_on_counting(source: sa.Connection, target: sa.Connection, table: sa.Table, of_target: sa.Table) -> None:
    """Has the target give the numbers that the source would have given: none of a row that was deleted comes again."""
    column = table.autoincrement_column
    if column is None:
        return
    last = source.execute(sa.select(sa.func.max(column))).scalar() or 0
    given = 0
    if source.dialect.name == "postgresql":
        if name := _sequence(source, table, column):
            query = f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {name}"  # noqa: S608
            given = source.exec_driver_sql(query).scalar_one()
    elif sa.inspect(source).has_table("sqlite_sequence"):
        query = "SELECT seq FROM sqlite_sequence WHERE name = ?"
        given = source.exec_driver_sql(query, (table.name,)).scalar() or 0
    if not (last := max(last, given)):
        return
    if target.dialect.name == "postgresql":
        if name := _sequence(target, of_target, column):
            target.exec_driver_sql("SELECT setval(%s, %s)", (name, last))
    elif of_target.dialect_options["sqlite"]["autoincrement"]:
        target.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = ?", (of_target.name,))
        target.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (of_target.name, last))


def _sequence(connection: sa.Connection, table: sa.Table, column: sa.Column[Any]) -> str | None:
    name = connection.dialect.identifier_preparer.format_table(table)
    return connection.exec_driver_sql("SELECT pg_get_serial_sequence(%s, %s)", (name, column.name)).scalar()
