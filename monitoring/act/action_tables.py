"""The tables of what the monitor tells and does, in the production log's database, beside the monitor's others.

They hold no text that a user wrote; of requests only their ids, which `monitoring.deletion` takes out.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import sqlalchemy as sa

from monitoring.store.database import make_tables, writing_alone

metadata = sa.MetaData()

# Advisory locks of PostgreSQL are named by numbers; this one is ours. SQLite lets one writer at a time in anyway.
_LOCK = 0x6C6C6D0B
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# open_key is the identity while the alarm lasts, and NULL afterwards: at most one open entry for each identity.
alarm_book = sa.Table(
    "alarm_book",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("open_key", sa.String(64), unique=True),
    sa.Column("identity", sa.String(64), nullable=False, index=True),
    sa.Column("app", sa.String(255), nullable=False, index=True),
    sa.Column("release", sa.String(255)),
    sa.Column("what", sa.String(255), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("side", sa.String(16), nullable=False),
    sa.Column("severity", sa.String(16), nullable=False),
    sa.Column("slice", sa.JSON, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("rows", sa.JSON, nullable=False),
    sa.Column("cure", sa.JSON),
    sa.Column("run_id", sa.String(64)),
    sa.Column("source", sa.String(255), nullable=False),
    sa.Column("first_at", sa.Float, nullable=False),
    sa.Column("last_at", sa.Float, nullable=False),
    sa.Column("times", sa.Integer, nullable=False),
    sa.Column("told", sa.Integer, nullable=False),
    sa.Column("told_at", sa.Float),
    sa.Column("acknowledged_at", sa.Float),
    sa.Column("acknowledged_by", sa.String(255)),
    sa.Column("resolved_at", sa.Float),
    sqlite_autoincrement=True,
)

# One row for each alert and channel: a channel that is down holds up no other.
alert_outbox = sa.Table(
    "alert_outbox",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("alert_id", sa.String(255), nullable=False),
    sa.Column("channel", sa.String(255), nullable=False),
    sa.Column("payload", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("next_try_at", sa.Float, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("sent_at", sa.Float),
    sa.Column("given_up_at", sa.Float),
    sa.Column("last_error", sa.Text),
    sa.UniqueConstraint("alert_id", "channel"),
    sa.Index("alert_outbox_due", "sent_at", "given_up_at", "next_try_at"),
    sqlite_autoincrement=True,
)

# status: claimed → acted (the effect is there) → done (and recorded); or failed; dry runs are done at once.
# first_alarm, through: ids of the book's entries that this action answers, from the oldest to the newest.
monitor_actions = sa.Table(
    "monitor_actions",
    metadata,
    sa.Column("key", sa.String(512), primary_key=True),
    sa.Column("app", sa.String(255), nullable=False, index=True),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("release", sa.String(255), nullable=False),
    sa.Column("dry_run", sa.Boolean, nullable=False),
    sa.Column("first_alarm", _ID, nullable=False),
    sa.Column("through", _ID, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("evidence", sa.JSON, nullable=False),
    sa.Column("outcome", sa.JSON),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("decided_at", sa.Float, nullable=False),
    sa.Column("claimed_by", sa.String(255), nullable=False),
    sa.Column("claimed_until", sa.Float, nullable=False),
    sa.Column("finished_at", sa.Float),
    sa.Column("run_id", sa.String(64)),
)

monitor_leases = sa.Table(
    "monitor_leases",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("holder", sa.String(255), nullable=False),
    sa.Column("until", sa.Float, nullable=False),
)

# Windows that the daemon has tested, so that each is tested once. result: the verdict as JSON.
tested_windows = sa.Table(
    "tested_windows",
    metadata,
    sa.Column("app", sa.String(255), primary_key=True),
    sa.Column("until", sa.Float, primary_key=True),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("tested_at", sa.Float, nullable=False),
    sa.Column("state", sa.String(32), nullable=False),
    sa.Column("run_id", sa.String(64)),
    sa.Column("result", sa.JSON, nullable=False),
)

# How often each part of a tick ran and failed, over all daemons.
daemon_stages = sa.Table(
    "daemon_stages",
    metadata,
    sa.Column("stage", sa.String(64), primary_key=True),
    sa.Column("runs", sa.BigInteger, nullable=False),
    sa.Column("failures", sa.BigInteger, nullable=False),
    sa.Column("last_run_at", sa.Float, nullable=False),
    sa.Column("last_failure_at", sa.Float),
    sa.Column("last_error", sa.Text),
)

# One row: the time that was last believed by what deletes texts, and since when a leap of it has been doubted.
retention_clock = sa.Table(
    "retention_clock",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("seen_at", sa.Float),
    sa.Column("doubted_at", sa.Float),
)

# Where request ids stand.
ID_COLUMNS = {
    alarm_book: ("rows",),
    alert_outbox: ("payload",),
    monitor_actions: ("evidence", "outcome"),
    tested_windows: ("result",),
}


def ensure_tables(engine: sa.Engine) -> None:
    """Makes these tables when absent; several processes may do so at once. Raises StoreUnavailable."""
    with alone(engine) as connection:
        make_tables(connection, metadata)


def alone(engine: sa.Engine) -> AbstractContextManager[sa.Connection]:
    """A transaction that no other of these runs beside. Raises StoreUnavailable."""
    return writing_alone(engine, _LOCK)
