"""The monitor's two tables, in the production log's database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import sqlalchemy as sa

from llmops.errors import StoreUnavailable
from llmops.production_log import open_engine

_metadata = sa.MetaData()

# at, app, release and request_id are copies from the log: a window is read without touching its texts.
descriptor_values = sa.Table(
    "descriptor_values",
    _metadata,
    sa.Column("key", sa.String(32), primary_key=True),
    sa.Column("version", sa.String(16), primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("app", sa.String(255), nullable=False),
    sa.Column("release", sa.String(255)),
    sa.Column("request_id", sa.String(255), nullable=False),
    sa.Column("values", sa.JSON, nullable=False),
    sa.Index("descriptor_values_window", "app", "version", "at"),
)

# Every pinning is kept; the newest one of an app counts.
reference_windows = sa.Table(
    "reference_windows",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("app", sa.String(255), nullable=False, index=True),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("until", sa.Float, nullable=False),
    sa.Column("pinned_at", sa.Float, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
)

# Of the log itself only the app's name is read here; everything else goes through ProductionLog.
_log_records = sa.table("log_records", sa.column("app"))


def open_database(url: str) -> sa.Engine:
    """Connects to the production log's database and makes the monitor's tables when absent. Raises StoreUnavailable."""
    with translated("open"):
        engine = open_engine(url)
        with writing(engine) as connection:
            for table in _metadata.sorted_tables:  # not create_all: two monitors may start at the same moment
                connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
                for index in sorted(table.indexes, key=lambda index: str(index.name)):
                    connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))
    return engine


def writing(engine: sa.Engine) -> AbstractContextManager[sa.Connection]:
    """A transaction that may write: on SQLite it waits for other writers when it begins, instead of failing later."""
    return engine.execution_options(writes=True).begin()


def apps_in_log(engine: sa.Engine) -> list[str]:
    """Names of the apps that have records, sorted; records of raw models (no app) are left out."""
    query = sa.select(_log_records.c.app).distinct().where(_log_records.c.app != "").order_by(_log_records.c.app)
    with translated("read"), engine.connect() as connection:
        return list(connection.execute(query).scalars())


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turns a database's errors into StoreUnavailable."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, ImportError) as error:
        first_line = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise StoreUnavailable(f"production log, cannot {doing} the monitor's tables: {first_line}") from error
