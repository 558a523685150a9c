"""What the monitor keeps of the log, in the log's database: segments, hourly summaries, how far it has come."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from llmops.errors import StoreUnavailable, first_line
from llmops.production_log import PREDICT, insert_into, make_tables, open_engine

metadata = sa.MetaData()
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""Of rows that the database numbers."""
_LOCK = 0x6C6C6D0B  # advisory locks of PostgreSQL are named by numbers; this one is the monitor's


class UtcTime(sa.TypeDecorator[datetime]):
    """A time with its zone, stored in seconds since the epoch."""

    impl = sa.Float
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> float | None:  # noqa: ARG002
        return None if value is None else value.timestamp()

    def process_result_value(self, value: float | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else datetime.fromtimestamp(value, UTC)


# Described rows of one app, in the order of the log: those with after_seq < seq <= through_seq, or some of them where
# the next segment begins in the same batch. data: an Arrow stream, see `segments`. at_min, at_max: of its rows.
descriptor_segments = sa.Table(
    "descriptor_segments",
    metadata,
    sa.Column("id", NUMBER, primary_key=True),
    sa.Column("app", sa.String(255), nullable=False),
    sa.Column("version", sa.String(16), nullable=False),
    sa.Column("after_seq", sa.BigInteger, nullable=False),
    sa.Column("through_seq", sa.BigInteger, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("at_min", sa.Float, nullable=False),
    sa.Column("at_max", sa.Float, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Index("descriptor_segments_window", "version", "app", "at_max"),
    sa.Index("descriptor_segments_place", "version", "through_seq"),
    sqlite_autoincrement=True,
)

# hour: whole hours since the epoch. value: of the dimension; empty for the whole app. rows: as in data.
hourly_summaries = sa.Table(
    "hourly_summaries",
    metadata,
    sa.Column("version", sa.String(16), primary_key=True),
    sa.Column("app", sa.String(255), primary_key=True),
    sa.Column("dimension", sa.String(32), primary_key=True),
    sa.Column("hour", sa.BigInteger, primary_key=True),
    sa.Column("value", sa.String(512), primary_key=True),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)

# How far each version has come. version: of the storage, over the descriptors and what they are sliced by. revision:
# grows with every change to what is kept, so that whoever prepares a change can tell that another came first.
# described, unfit: rows with values, and feedback that belongs to none.
ingest_cursors = sa.Table(
    "ingest_cursors",
    metadata,
    sa.Column("id", NUMBER, primary_key=True),
    sa.Column("version", sa.String(16), nullable=False, unique=True),
    sa.Column("descriptors", sa.String(16), nullable=False),
    sa.Column("slices", sa.JSON, nullable=False),
    sa.Column("cursor", sa.BigInteger, nullable=False),
    sa.Column("feedback_cursor", sa.BigInteger, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("described", sa.BigInteger, nullable=False),
    sa.Column("unfit", sa.BigInteger, nullable=False),
    sa.Column("caught_up", sa.Boolean, nullable=False),
    sqlite_autoincrement=True,
)

# Values that could not be computed. hour: of the newest row of the batch. reason: why the first one failed.
ingest_failures = sa.Table(
    "ingest_failures",
    metadata,
    sa.Column("version", sa.String(16), primary_key=True),
    sa.Column("app", sa.String(255), primary_key=True),
    sa.Column("hour", sa.BigInteger, primary_key=True),
    sa.Column("descriptor", sa.String(255), primary_key=True),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)

# Files of archives whose rows are all described, by the hour since the epoch. content: of the hash in their names.
archived_files = sa.Table(
    "archived_files",
    metadata,
    sa.Column("version", sa.String(16), primary_key=True),
    sa.Column("app", sa.String(255), primary_key=True),
    sa.Column("hour", sa.BigInteger, primary_key=True),
    sa.Column("content", sa.String(16), primary_key=True),
)

MOST_LISTED = 500
"""Values in one query; databases bound how many it may list."""

# Of the log itself only these are read here, to find rows again; everything else goes through ProductionLog.
log_places = sa.table("log_records", *map(sa.column, ("seq", "key", "app", "at", "route")))
feedback_given = sa.table("feedback", sa.column("seq"), sa.column("record_key"), sa.column("score"), sa.column("label"))


def open_database(url: str) -> sa.Engine:
    """Connects to the production log's database and makes the monitor's tables when absent. Raises StoreUnavailable."""
    with translated("open"):
        engine = open_engine(url)
        with writing(engine) as connection:
            make_tables(connection, metadata)
    return engine


def writing(engine: sa.Engine) -> AbstractContextManager[sa.Connection]:
    """A transaction that may write: on SQLite it waits for other writers when it begins, instead of failing later."""
    return engine.execution_options(writes=True).begin()


@contextmanager
def writing_alone(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that no other of these runs beside: what it reads stays so until it has written. SQLite lets one
    writer at a time in anyway. Raises StoreUnavailable."""
    with translated("write"), writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        yield connection


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that sees one moment of the database, whatever others write meanwhile. Raises StoreUnavailable."""
    with translated("read"), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


def forestall_ingest(connection: sa.Connection) -> None:
    """Whoever has prepared to add rows begins again, and sees what this transaction has changed."""
    connection.execute(sa.update(ingest_cursors).values(revision=ingest_cursors.c.revision + 1))


def upsert(
    connection: sa.Connection,
    table: sa.Table,
    rows: Sequence[Mapping[str, Any]],
    replaced: Iterable[str],
    added: Iterable[str] = (),
) -> None:
    """Inserts rows; where one with the same primary key stands, its columns `replaced` are, and the numbers of its
    columns `added` grow by those of the new row."""
    if not rows:
        return
    insert = insert_into(connection.dialect, table)
    changed = {name: insert.excluded[name] for name in replaced}
    changed |= {name: table.c[name] + insert.excluded[name] for name in added}
    statement = insert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=changed)
    connection.execute(statement, list(rows))


def apps_in_log(engine: sa.Engine) -> list[str]:
    """Names of the apps that have records, sorted; raw models (no app) and tabular models are left out."""
    table = log_places.c
    names = sa.select(table.app).distinct().where(table.app != "").order_by(table.app)
    newest = sa.select(table.route).order_by(table.at.desc()).limit(1)
    with translated("read"), engine.connect() as connection:
        # By the newest record alone, which an index finds: no name is an app's and a tabular model's.
        return [
            app
            for app in connection.execute(names).scalars().all()
            if connection.execute(newest.where(table.app == app)).scalar_one_or_none() != PREDICT
        ]


def newest_record_at(connection: sa.Connection, app: str | None = None) -> float | None:
    """The time of the record that the log took last, of the app or of all; None without any."""
    query = sa.select(log_places.c.at).order_by(log_places.c.seq.desc()).limit(1)
    at = connection.execute(query if app is None else query.where(log_places.c.app == app)).scalar()
    return None if at is None else float(at)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turns a database's errors into StoreUnavailable."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, ImportError) as error:
        problem = f"production log, cannot {doing} the monitor's tables: {first_line(error)}"
        raise StoreUnavailable(problem) from error
