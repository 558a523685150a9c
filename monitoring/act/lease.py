"""A lease in the database: of several daemons one works, and another takes over when it ends.

A lease saves double work; nothing rests on it alone: whoever lost it without noticing finds every window, alarm, alert
and action claimed by its successor.

A machine's clock may run ahead for a while and come back, or the other way round. Moments that it noted meanwhile must
not hold up work until they come (`is_due`, `was_noted`); leases go by the database's own time, on which machines agree.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from monitoring.act.action_tables import alone, ensure_tables
from monitoring.act.action_tables import monitor_leases as table

TOLERANCE_SECONDS = 300.0
"""Clocks of two machines may differ by so much."""
_LONGEST = 10.0
"""No other daemon's lease lasts so many times as long as ours."""
_NOW = {
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())::float8",
}


def is_due(moment: sa.ColumnElement[float], now: float, longest: float) -> sa.ColumnElement[bool]:
    """Whether a moment has come. longest: seconds that anything is ever put off; one that lies farther ahead was noted
    by a clock that was wrong, and counts as past."""
    return (moment <= now) | (moment > now + longest)


def was_noted(moment: float, now: float) -> bool:
    """Whether a moment that was noted as the present is past: one ahead was noted by a clock that was wrong."""
    return moment <= now + TOLERANCE_SECONDS


class Lease:
    """A named lease, for one holder. Every method raises StoreUnavailable.

    holder: names one process. seconds: how long it lasts unless it is renewed.
    """

    def __init__(self, engine: sa.Engine, name: str, holder: str, seconds: float) -> None:
        ensure_tables(engine)
        self._engine, self._name, self.holder, self.seconds = engine, name, holder, seconds

    def take(self) -> bool:
        """Takes the lease, or renews it; False while another holds it."""
        insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        with alone(self._engine) as connection:
            now = float(connection.exec_driver_sql(_NOW[connection.dialect.name]).scalar_one())
            held = {"holder": self.holder, "until": now + self.seconds}
            mine_or_over = (table.c.holder == self.holder) | is_due(table.c.until, now, _LONGEST * self.seconds)
            taken = (
                insert(table)
                .values(name=self._name, **held)
                .on_conflict_do_update(index_elements=["name"], set_=held, where=mine_or_over)
            )
            return connection.execute(taken.returning(table.c.holder)).first() is not None

    def give_back(self) -> None:
        """Lets another take it at once; nothing when this holder has it no more."""
        with alone(self._engine) as connection:
            mine = (table.c.name == self._name, table.c.holder == self.holder)
            connection.execute(sa.delete(table).where(*mine))
