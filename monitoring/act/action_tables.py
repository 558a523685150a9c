"""The tables of what the monitor tells and does, in the production log's database, beside the monitor's others.

They hold no text that a user wrote; of requests only their ids, which `monitoring.forgetting` takes out.

A machine's clock may run ahead for a while and come back, or the other way round. Moments that it noted meanwhile must
not hold up work until they come (`is_due`, `was_noted`).
"""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from llmops.production_log import insert_into, make_tables
from monitoring.store.database import NUMBER, writing_alone

metadata = sa.MetaData()

TOLERANCE_SECONDS = 300.0
"""Clocks of two machines may differ by so much."""
_LONGEST_LEASE = 10.0
"""No other daemon's lease lasts so many times as long as ours."""
_NOW = {
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())::float8",
}

# open_key is the identity while the alarm lasts, and NULL afterwards: at most one open entry for each identity.
alarm_book = sa.Table(
    "alarm_book",
    metadata,
    sa.Column("id", NUMBER, primary_key=True),
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
    sa.Column("id", NUMBER, primary_key=True),
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
    sa.Column("first_alarm", NUMBER, nullable=False),
    sa.Column("through", NUMBER, nullable=False),
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
    with writing_alone(engine) as connection:
        make_tables(connection, metadata)


def change(
    connection: sa.Connection, table: sa.Table, values: Mapping[str, Any], *where: sa.ColumnElement[bool]
) -> sa.Row[Any] | None:
    """Changes the row for which the conditions hold: the row as it then is; None where they hold for none.

    With `is_due` among the conditions and a later moment among the values this is a claim, which one process gets.
    """
    return connection.execute(sa.update(table).where(*where).values(values).returning(table)).one_or_none()


def is_due(moment: sa.ColumnElement[float], now: float, longest: float) -> sa.ColumnElement[bool]:
    """Whether a moment has come. longest: seconds that anything is ever put off; one that lies farther ahead was noted
    by a clock that was wrong, and counts as past."""
    return (moment <= now) | (moment > now + longest)


def was_noted(moment: float, now: float) -> bool:
    """Whether a moment that was noted as the present is past: one ahead was noted by a clock that was wrong."""
    return moment <= now + TOLERANCE_SECONDS


class Lease:
    """A named lease, for one holder: of several daemons one works, and another takes over when the lease ends. It goes
    by the database's own time, on which machines agree. Every method raises StoreUnavailable.

    A lease saves double work; nothing rests on it alone: whoever lost it without noticing finds every window, alarm,
    alert and action claimed by its successor.

    holder: names one process. seconds: how long it lasts unless it is renewed.
    """

    def __init__(self, engine: sa.Engine, name: str, holder: str, seconds: float) -> None:
        ensure_tables(engine)
        self._engine, self._name, self.holder, self.seconds = engine, name, holder, seconds

    def take(self) -> bool:
        """Takes the lease, or renews it; False while another holds it."""
        table = monitor_leases
        with writing_alone(self._engine) as connection:
            now = float(connection.exec_driver_sql(_NOW[connection.dialect.name]).scalar_one())
            held = {"holder": self.holder, "until": now + self.seconds}
            mine_or_over = (table.c.holder == self.holder) | is_due(table.c.until, now, _LONGEST_LEASE * self.seconds)
            taken = (
                insert_into(connection.dialect, table)
                .values(name=self._name, **held)
                .on_conflict_do_update(index_elements=["name"], set_=held, where=mine_or_over)
            )
            return connection.execute(taken.returning(table.c.holder)).first() is not None

    def give_back(self) -> None:
        """Lets another take it at once; nothing when this holder has it no more."""
        with writing_alone(self._engine) as connection:
            mine = (monitor_leases.c.name == self._name, monitor_leases.c.holder == self.holder)
            connection.execute(sa.delete(monitor_leases).where(*mine))
