"""What was noted by a clock that was wrong, and what a clock that may be wrong now must not do.

A machine's clock may run ahead for a while and come back, or the other way round. Moments that it noted meanwhile must
not hold up work until they come, and nothing is deleted because of it.
"""

from __future__ import annotations

import logging

import sqlalchemy as sa

from monitoring.act.action_tables import alone, retention_clock
from monitoring.store.database import newest_record_at

logger = logging.getLogger("llmops.monitoring")

TOLERANCE_SECONDS = 300.0
"""Clocks of two machines may differ by so much."""

_LEAP, _PROBATION = 2 * 86_400.0, 86_400.0


def is_due(moment: sa.ColumnElement[float], now: float, longest: float) -> sa.ColumnElement[bool]:
    """Whether a moment has come. longest: seconds that anything is ever put off; one that lies farther ahead was noted
    by a clock that was wrong, and counts as past."""
    return (moment <= now) | (moment > now + longest)


def was_noted(moment: float, now: float) -> bool:
    """Whether a moment that was noted as the present is past: one ahead was noted by a clock that was wrong."""
    return moment <= now + TOLERANCE_SECONDS


class RetentionClock:
    """Says whether the time may be believed by what deletes texts for good.

    A time that is more than two days after the one believed last (or, at first, after the newest record) is believed
    only when it has gone on for a day. A daemon that was off for some days deletes a day late; a clock that leaps ahead
    and comes back deletes nothing. Raises StoreUnavailable.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def believes(self, now: float) -> bool:
        """Whether texts may be deleted by this time, in seconds since the epoch; notes it."""
        with alone(self._engine) as connection:
            row = connection.execute(sa.select(retention_clock)).one_or_none()
            seen = newest_record_at(connection) if row is None else row.seen_at
            doubted = None if row is None or (row.doubted_at or now) > now else row.doubted_at
            ahead = 0.0 if seen is None else now - seen
            believed = ahead <= _LEAP or (doubted is not None and now - doubted >= _PROBATION)
            noted = (
                {"seen_at": now, "doubted_at": None} if believed else {"seen_at": seen, "doubted_at": doubted or now}
            )
            connection.execute(sa.delete(retention_clock))
            connection.execute(sa.insert(retention_clock).values(id=1, **noted))
        if not believed:
            days = ahead / 86_400
            logger.warning("the clock is %.0f days after the last look: texts are deleted when it has run a day", days)
        return believed
