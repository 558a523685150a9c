"""The tables of references and accepted windows, in the production log's database, beside the monitor's others.

They hold no text and no request id: of requests only counts.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import sqlalchemy as sa

from monitoring.store.database import make_tables, writing_alone

metadata = sa.MetaData()

# Advisory locks of PostgreSQL are named by numbers; this one is ours. SQLite lets one writer at a time in anyway.
_LOCK = 0x6C6C6D0E
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# Every pinning is kept. frozen: whether its summaries are stored.
pinned_references = sa.Table(
    "pinned_references",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("app", sa.String(255), nullable=False, index=True),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("until", sa.Float, nullable=False),
    sa.Column("pinned_at", sa.Float, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("source", sa.String(32), nullable=False),
    sa.Column("release", sa.String(255)),
    sa.Column("frozen", sa.Boolean, nullable=False),
    sqlite_autoincrement=True,
)

# dimension, value: the slice; both empty for all rows, `stratum` for rows with like questions.
reference_summaries = sa.Table(
    "reference_summaries",
    metadata,
    sa.Column("reference", _ID, primary_key=True),
    sa.Column("dimension", sa.String(32), primary_key=True),
    sa.Column("value", sa.String(255), primary_key=True),
    sa.Column("summary", sa.LargeBinary, nullable=False),
)

# Releases whose first accepted window shall become the reference; the newest of an app counts, until it is pinned.
awaited_references = sa.Table(
    "awaited_references",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("app", sa.String(255), nullable=False, index=True),
    sa.Column("release", sa.String(255), nullable=False),
    sa.Column("since", sa.Float, nullable=False),
    sqlite_autoincrement=True,
)

# Windows whose run ended `ok`. release: the one that answered all of it, or most of it.
accepted_windows = sa.Table(
    "accepted_windows",
    metadata,
    sa.Column("app", sa.String(255), primary_key=True),
    sa.Column("until", sa.Float, primary_key=True),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("release", sa.String(255)),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("accepted_at", sa.Float, nullable=False),
)

# Windows whose run ended with an alarm: no reference is gathered from their rows.
rejected_windows = sa.Table(
    "rejected_windows",
    metadata,
    sa.Column("app", sa.String(255), primary_key=True),
    sa.Column("until", sa.Float, primary_key=True),
)

_BEFORE = "reference_windows"  # where references stood before they were frozen


def ensure_tables(engine: sa.Engine) -> None:
    """Makes these tables when absent, and takes over references of an older database. Raises StoreUnavailable."""
    with alone(engine) as connection:
        make_tables(connection, metadata)
        if sa.inspect(connection).has_table(_BEFORE):
            names = ("app", "since", "until", "pinned_at", "why")
            old = sa.table(_BEFORE, sa.column("id"), *(sa.column(name) for name in names))
            kept = sa.select(*(old.c[name] for name in names), sa.literal("by-hand"), sa.false()).order_by(old.c.id)
            taken_over = sa.insert(pinned_references).from_select([*names, "source", "frozen"], kept)
            connection.execute(taken_over)
            connection.exec_driver_sql(f"DROP TABLE {_BEFORE}")


def alone(engine: sa.Engine) -> AbstractContextManager[sa.Connection]:
    """A transaction that no other of these runs beside. Raises StoreUnavailable."""
    return writing_alone(engine, _LOCK)
