"""Token budgets of keys, counted in the log's database: for all workers and machines of one log, and over restarts.

Tokens are known only when an answer has ended. So that many requests at once cannot all find the same room, each sets
aside the most it may take before it begins, and gives back what it did not use. A request is let in while anything is
left beyond what others have set aside: a key overdraws by at most what one request takes (and where a prompt has more
tokens than estimated, by that).

A minute begins with its first token. It is measured by a clock that nobody sets where the database is a file on this
machine; a clock that was set back ends a minute measured by it, and never makes it longer. A day is one of UTC; set
back over midnight, a clock does not bring back the day before.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from llmops.processes import is_dead, this_process
from llmops.production_log.database import LogDatabase
from llmops.production_log.tables import token_counts, token_reservations

MINUTE, DAY = "minute", "day"
MINUTE_SECONDS, DAY_SECONDS = 60.0, 86400.0
CLOCKS_APART_SECONDS = 5.0
"""By how much the clocks of machines may differ: one that is behind by more has been set back."""

LEASED_REQUESTS = 8
"""Requests that a share of a budget must be enough for, to be set aside for them together."""

HELD_SECONDS = 1.0
"""When to ask again where the rest of a budget is set aside by requests under way."""


@dataclass(frozen=True, slots=True)
class ClockReading:
    """Now: `seconds` of a clock named `clock`, and the time of day as seconds since the epoch."""

    clock: str
    seconds: float
    epoch: float


@dataclass(frozen=True, slots=True)
class BudgetState:
    """One budget of a key. used: tokens counted in this window; left: neither used nor set aside by requests under way;
    seconds: until the window ends, or something may be given back."""

    window: str
    limit: int
    used: int
    left: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Reservation:
    """Tokens set aside. budgets: as they were before it."""

    id: str
    key_id: str
    tokens: int
    budgets: tuple[BudgetState, ...]


class TokenBudgets:
    """Counts and reservations. Blocking; several processes may use them at once. Raises StoreUnavailable."""

    def __init__(self, database: LogDatabase, now: Callable[[], ClockReading] | None = None) -> None:
        self._database = database
        self._now = now or (_wall_clock if database.is_postgresql else _machine_clock)

    def reserve(
        self, key_id: str, limits: Mapping[str, int], tokens: int, seconds: float, share: float = 0.0
    ) -> Reservation | BudgetState:
        """Sets tokens aside, or says which budget is used up.

        limits: by window, `minute` or `day`.
        tokens: the most that a request may take.
        seconds: after which the reservation ends should this process vanish where nobody can see it.
        share: of what is left, to be set aside for many requests where it is enough for LEASED_REQUESTS of them.
        """
        with self._writing(key_id) as (connection, now):
            held = _set_aside(connection, key_id, now.epoch)
            states = []
            for window, limit in limits.items():
                used, left_seconds = _used(connection, key_id, window, now)
                rest = max(0, limit - used - held)
                wait = left_seconds if used >= limit else min(left_seconds, HELD_SECONDS)
                states.append(BudgetState(window, limit, used, rest, left_seconds if rest else wait))
                if not rest:
                    return states[-1]
            shared = int(share * min(state.left for state in states))
            if shared >= LEASED_REQUESTS * tokens:
                tokens = shared
            made = Reservation(uuid.uuid4().hex, key_id, tokens, tuple(states))
            values = {"id": made.id, "key_id": key_id, "tokens": tokens, "process": this_process()}
            connection.execute(sa.insert(token_reservations).values(**values, expires_at=now.epoch + seconds))
        return made

    def settle(self, reservation: Reservation, tokens: int, held: int = 0) -> None:
        """Gives back what was set aside, and counts what was used, also beyond the budget's end.

        tokens: used since the reservation was last settled. held: to stay set aside.
        """
        this = token_reservations.c.id == reservation.id
        with self._writing(reservation.key_id) as (connection, now):
            if held:
                connection.execute(sa.update(token_reservations).where(this).values(tokens=held))
            else:
                connection.execute(sa.delete(token_reservations).where(this))
            if tokens > 0:
                for window in (MINUTE, DAY):
                    _count(connection, reservation.key_id, window, tokens, now)

    @contextmanager
    def _writing(self, key_id: str) -> Iterator[tuple[sa.Connection, ClockReading]]:
        """A transaction that alone counts the key's tokens, and when it has begun: in the order of transactions."""
        with self._database.writing() as connection:
            now = self._now()
            if self._database.is_postgresql:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(key_id))))
            yield connection, now


def _set_aside(connection: sa.Connection, key_id: str, epoch: float) -> int:
    """Tokens set aside by requests under way; those of processes that have ended are given back."""
    table = token_reservations.c
    rows = connection.execute(sa.select(token_reservations).where(table.key_id == key_id)).mappings().all()
    dead = {process for process in {row["process"] for row in rows} if is_dead(process)}
    gone = [row["id"] for row in rows if row["process"] in dead or row["expires_at"] <= epoch]
    if gone:
        connection.execute(sa.delete(token_reservations).where(table.id.in_(gone)))
    return sum(row["tokens"] for row in rows if row["id"] not in gone)


def _used(connection: sa.Connection, key_id: str, window: str, now: ClockReading) -> tuple[int, float]:
    """Tokens used in the window, and the seconds until it ends."""
    table = token_counts.c
    query = sa.select(token_counts).where(table.key_id == key_id, table.window == window)
    row = connection.execute(query).mappings().one_or_none()
    if window == DAY:
        today, rest = _today(now), DAY_SECONDS - now.epoch % DAY_SECONDS
        if row is None or not today <= row["begun"] <= today + 1:  # far ahead: that clock was wrong
            return 0, rest
        return row["used"], rest
    if row is None or row["clock"] != now.clock:
        return 0, MINUTE_SECONDS
    elapsed = now.seconds - row["begun"]
    if not -CLOCKS_APART_SECONDS <= elapsed < MINUTE_SECONDS:
        return 0, MINUTE_SECONDS
    return row["used"], MINUTE_SECONDS - max(0.0, elapsed)


def _count(connection: sa.Connection, key_id: str, window: str, tokens: int, now: ClockReading) -> None:
    table = token_counts.c
    this = (table.key_id == key_id, table.window == window)
    used, _ = _used(connection, key_id, window, now)
    if used:
        connection.execute(sa.update(token_counts).where(*this).values(used=used + tokens))
        return
    values = {"clock": now.clock, "begun": float(_today(now)) if window == DAY else now.seconds, "used": tokens}
    connection.execute(sa.delete(token_counts).where(*this))
    connection.execute(sa.insert(token_counts).values(key_id=key_id, window=window, **values))


def _today(now: ClockReading) -> int:
    """The day of UTC, as a number."""
    return datetime.fromtimestamp(now.epoch, UTC).date().toordinal()


def _machine_clock() -> ClockReading:
    """The clock that runs since the machine was started: the same for all its processes, and set by nobody."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return ClockReading(boot, time.clock_gettime(time.CLOCK_BOOTTIME), time.time())
    except (OSError, AttributeError):
        return _wall_clock()


def _wall_clock() -> ClockReading:
    """For a database that machines share."""
    now = time.time()
    return ClockReading("UTC", now, now)
