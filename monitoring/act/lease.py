"""A lease in the database: of several daemons one works, and another takes over when it ends.

Times are the database's own, so that machines whose clocks differ agree. A lease that lasts far longer than any does
was taken by a clock that was wrong, and is over. A lease saves double work; nothing rests on it alone: whoever lost it
without noticing finds every window, alarm, alert and action claimed by its successor.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from monitoring.act.action_tables import alone, ensure_tables
from monitoring.act.action_tables import monitor_leases as table
from monitoring.act.clocks import is_due
from monitoring.store.database import reading

_NOW = {
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())::float8",
}


_LONGEST = 10.0
"""No other daemon's lease lasts so many times as long as ours."""


class Lease:
    """A named lease, for one holder. Every method raises StoreUnavailable.

    holder: names one process. seconds: how long it lasts unless it is renewed.
    """

    def __init__(self, engine: sa.Engine, name: str, holder: str, seconds: float) -> None:
        ensure_tables(engine)
        self._engine, self._name = engine, name
        self.holder, self.seconds, self._longest = holder, seconds, _LONGEST * seconds

    def take(self) -> bool:
        """Takes the lease, or renews it; False while another holds it."""
        insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        with alone(self._engine) as connection:
            now = _database_time(connection)
            wanted = {"name": self._name, "holder": self.holder, "until": now + self.seconds}
            statement = insert(table).values(wanted)
            mine_or_over = (table.c.holder == self.holder) | is_due(table.c.until, now, self._longest)
            taken = statement.on_conflict_do_update(
                index_elements=["name"],
                set_={"holder": self.holder, "until": now + self.seconds},
                where=mine_or_over,
            )
            return connection.execute(taken.returning(table.c.holder)).first() is not None

    def held_by(self) -> str | None:
        """Who holds it now; None when nobody does."""
        with reading(self._engine) as connection:
            now = _database_time(connection)
            mine = (table.c.name == self._name, sa.not_(is_due(table.c.until, now, self._longest)))
            row = connection.execute(sa.select(table).where(*mine)).one_or_none()
        return None if row is None else str(row.holder)

    def give_back(self) -> None:
        """Lets another take it at once; nothing when this holder has it no more."""
        with alone(self._engine) as connection:
            mine = (table.c.name == self._name, table.c.holder == self.holder)
            connection.execute(sa.delete(table).where(*mine))


def _database_time(connection: sa.Connection) -> float:
    return float(connection.exec_driver_sql(_NOW[connection.dialect.name]).scalar_one())
