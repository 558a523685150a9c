"""Sequential detection of a rise of harmful flags: it may look after every micro-batch and keep its budget.

The null hypothesis of a flag: every row, of the reference and since, carries it with one and the same probability,
independently. A detector has *starts*: one when the reference is pinned, one when a new release appears (where changes
come from), and one each day (for a change in the middle of a long-lived release, which older rows would dilute). A
start compares the rows since it with all earlier ones: the reference, and the rows between it and the start. Under the
null these are draws from one urn, so Fisher's one-sided exact test holds for them, sampling error of the reference
included: a small reference makes large p-values, not false alarms.

A start does not look at every row; a look costs a part of its budget, and looks a minute apart say nearly the same. It
looks when its rows reach 8, 16, 32, … (so that a bad release is seen within minutes), and after each day. When it looks
depends on the clock and on numbers of rows, never on what the rows carry, so that the sum over all looks of the error
rate spent on each is a bound for the expected number of false alarms (union bound; "alpha spending"). A look that comes
late because batches are large spends all that fell due.

    alpha of a month: 0.15 / 31 for each day's start; 0.68, 0.136, 0.027 … for those at a pin or release, in turn
    a start's part:   0.15 over 16 doublings of its rows, evenly; 0.85 over its days: 0.3 of it for the first, 0.45 for
                      the second, and 1 / (2 d (d - 1)) for each day d after them

An alarm closes all starts, and the rows from the start that raised it to the next one are not taken for quiet ones. If
the flag stays high, a later start says so again. (After a false alarm the quiet rows are chosen a little too quiet:
strictly, the bound is for the first one of a reference.)

Why not an e-process against an upper confidence bound of the reference's rate: the errors of the reference and of the
current rows then add up, instead of their squares (measured in ADR 13).
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

from monitoring.decide.rules import DAYS, day_start_share, new_start_share
from monitoring.store.summaries import FlagSummary

FIRST_LOOK = 8
DOUBLINGS = 16
EARLY_SHARE = 0.15
FIRST_DAY = 0.3
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class FlagBatch:
    """Rows with since <= at < until (seconds since the epoch) that have a value of the flag; hits carry it."""

    since: float
    until: float
    rows: int
    hits: int


@dataclass(frozen=True, slots=True)
class Start:
    """A moment from which on rows are compared with the ones before it: the reference, and earlier_rows since then.

    share: of the detector's alpha. doublings, days: for how many of them the error rate was spent.
    """

    since: float
    share: float
    earlier_rows: int
    earlier_hits: int
    doublings: int = 0
    days: int = 0


@dataclass(frozen=True, slots=True)
class DetectorState:
    """All that a detector remembers between batches.

    reference: which one it counts against. month: such as 2026-01. counted_until: no row before it is ever counted
    again. rows, hits: since the reference was pinned, without those of an alarm. new_starts: of this month, at pins and
    releases. day: the last one with a start of its own, in days since the epoch.
    """

    reference: str
    month: str
    counted_until: float
    rows: int = 0
    hits: int = 0
    new_starts: int = 0
    day: int = -1
    starts: tuple[Start, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Self:
        """Raises TypeError or KeyError when it is no stored state."""
        return cls(**{**stored, "starts": tuple(Start(**start) for start in stored["starts"])})


@dataclass(frozen=True, slots=True)
class Crossing:
    """An alarm: at `at`, the rows since `since` carried the flag more often than the earlier ones.

    p_value: of Fisher's test. spent: the error rate it was held against.
    """

    at: float
    since: float
    rows: int
    hits: int
    earlier_rows: int
    earlier_hits: int
    p_value: float
    spent: float

    @property
    def share(self) -> float:
        return self.hits / self.rows

    @property
    def earlier_share(self) -> float:
        return self.earlier_hits / self.earlier_rows

    def to_json(self) -> dict[str, Any]:
        moments = {name: datetime.fromtimestamp(getattr(self, name), UTC).isoformat() for name in ("at", "since")}
        return {**asdict(self), **moments, "share": self.share, "earlier_share": self.earlier_share}


@dataclass(frozen=True, slots=True)
class FlagDetector:
    """The rule for one flag of one slice.

    reference: the flag in the reference, frozen. alpha: expected false alarms a month, at most. floor: least rise over
    the reference's share that may raise an alarm.
    """

    reference: FlagSummary
    alpha: float
    floor: float

    def open(self, at: float, reference: str, before: DetectorState | None = None) -> DetectorState:
        """The state at the pinning of a reference, named by any text. Nothing is counted yet.

        before: the state against the reference before it; a month's budget for new starts is one, however many
        references it sees.
        """
        month = _month(at)
        spent = before.new_starts if before is not None and before.month == month else 0
        day = before.day if before is not None else -1
        # The start of the pin is the start of its day, too.
        opened = DetectorState(reference, month, at, new_starts=spent, day=max(day, int(at // DAY)))
        return self.begin(opened, at)

    def begin(self, state: DetectorState, at: float) -> DetectorState:
        """A new start, for a release that first appears in the rows from `at` = counted_until on.

        Raises ValueError: rows after `at` have been counted, so that the start would be chosen by looking at them.
        """
        if at < state.counted_until:
            raise ValueError(f"a start at {at} lies before counted_until {state.counted_until}")
        state = _in_month(state, at)
        start = Start(at, new_start_share(state.new_starts), state.rows, state.hits)
        return replace(state, new_starts=state.new_starts + 1, starts=(*state.starts, start))

    def advance(self, state: DetectorState, batches: Iterable[FlagBatch]) -> tuple[DetectorState, list[Crossing]]:
        """Counts batches, in the order of time, and looks where a look is due.

        Raises ValueError: a batch begins before `counted_until`: its rows may have been counted already.
        """
        crossings = []
        for batch in batches:
            if batch.since < state.counted_until:
                raise ValueError(f"rows from {batch.since} on were already counted until {state.counted_until}")
            state, day = _in_month(state, batch.since), int(batch.since // DAY)
            if day > state.day:
                kept = tuple(start for start in state.starts if start.days <= DAYS)
                start = Start(batch.since, day_start_share(), state.rows, state.hits)
                state = replace(state, day=day, starts=(*kept, start))
            # Between an alarm and the next start nothing is known of the rows: they are not taken for quiet ones.
            rows, hits = (batch.rows, batch.hits) if state.starts else (0, 0)
            state = replace(state, counted_until=batch.until, rows=state.rows + rows, hits=state.hits + hits)
            state, crossing = self._look(state)
            if crossing is not None:
                crossings.append(crossing)
        return state, crossings

    def _look(self, state: DetectorState) -> tuple[DetectorState, Crossing | None]:
        looked: list[Start] = []
        crossed: list[tuple[Start, Crossing]] = []
        for start in state.starts:
            rows, hits = state.rows - start.earlier_rows, state.hits - start.earlier_hits
            after, due = _due(start, rows, state.counted_until)
            looked.append(after)
            spent = due * self.alpha
            if not due or not rows or not self.reference.n or hits / rows - self.reference.share < self.floor:
                continue
            earlier = self.reference.n + start.earlier_rows, self.reference.hits + start.earlier_hits
            p_value = rise_p_value(hits, rows, earlier[1], earlier[0])
            if p_value <= spent:
                crossing = Crossing(state.counted_until, start.since, rows, hits, *earlier, p_value, spent)
                crossed.append((start, crossing))
        if not crossed:
            return replace(state, starts=tuple(looked)), None
        # Of starts that cross together the surest tells best when it began.
        start, crossing = min(crossed, key=lambda pair: pair[1].p_value)
        return replace(state, rows=start.earlier_rows, hits=start.earlier_hits, starts=()), crossing


def rise_p_value(hits: int, rows: int, earlier_hits: int, earlier_rows: int) -> float:
    """Fisher's one-sided exact p of a rise: the chance of `hits` or more among `rows` drawn from all rows.

    A plain sum over the tail, for speed; 1 when there is no rise at all.
    """
    total, carried = rows + earlier_rows, hits + earlier_hits
    if hits * total <= rows * carried:
        return 1.0
    ways = [
        math.lgamma(of + 1) - math.lgamma(chosen + 1) - math.lgamma(of - chosen + 1)
        for of, chosen in ((carried, hits), (total - carried, rows - hits), (total, rows))
    ]
    term = math.exp(ways[0] + ways[1] - ways[2])
    tail, last = term, min(rows, carried)
    for drawn in range(hits, last):
        # Above the mean each term is smaller than the one before it by a factor that falls.
        term *= (carried - drawn) * (rows - drawn) / ((drawn + 1) * (total - carried - rows + drawn + 1))
        tail += term
        if term < tail * 1e-17:
            break
    return min(tail, 1.0)


def _due(start: Start, rows: int, until: float) -> tuple[Start, float]:
    """The start after a look, and the share of alpha that falls due: for doublings of its rows, and for its days."""
    doublings, days = min((rows // FIRST_LOOK).bit_length(), DOUBLINGS), int((until - start.since) // DAY)
    if (doublings, days) == (start.doublings, start.days):
        return start, 0.0
    early = EARLY_SHARE * (doublings - start.doublings) / DOUBLINGS
    # Of the days' part. A small rise is seen best on the second day: on the first there are too few rows.
    spent = [(0.0, FIRST_DAY)[day] if day < 2 else 1 - 1 / (2 * day) for day in (start.days, days)]
    daily = (1 - EARLY_SHARE) * (spent[1] - spent[0])
    return replace(start, doublings=doublings, days=days), start.share * (early + daily)


def _in_month(state: DetectorState, at: float) -> DetectorState:
    month = _month(at)
    return state if month == state.month else replace(state, month=month, new_starts=0)


def _month(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m")
