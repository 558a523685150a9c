"""The stored history as a line: what the traffic of each hour or day was like, from summaries alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from monitoring.decide.pinned_summaries import largest
from monitoring.store.summaries import Summary
from monitoring.store.windows import WindowReader

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
HOURLY_FOR = timedelta(days=7)
"""So long may each hour have a point of its own in the dashboard; before that, each day."""
ENOUGH_ROWS = 100
"""Of an hour, on average."""


@dataclass(frozen=True, slots=True)
class Levels:
    """The traffic of one hour or day. by_release: a summary for each release, where it was asked for. over: whether
    nothing can come any more."""

    since: datetime
    until: datetime
    whole: Summary
    by_release: Mapping[str, Summary] = field(default_factory=dict)
    over: bool = True

    @property
    def sort(self) -> str:
        """`hour` or `day`."""
        return "day" if self.until - self.since > HOUR else "hour"


def levels_since(reader: WindowReader, app: str, since: datetime, now: datetime) -> Iterator[Levels]:
    """What was since then, oldest first: days, and hours for the last week where they hold enough rows to be told from
    chance, or where there is too little history for days. Those without rows are left out.

    since: the first point is the one that holds it. Raises StoreUnavailable.
    """
    change = _start_of_day(now - HOURLY_FOR)
    recent = [(hour.astimezone(UTC), summary.rows) for hour, summary in reader.hours(app, change, now) if summary.rows]
    enough = sum(rows for _, rows in recent) >= ENOUGH_ROWS * len(recent)
    by_hour = bool(recent) and (enough or recent[0][0] > now - timedelta(days=3))
    day, end = _start_of_day(since), change if by_hour else now
    while day < end:
        if (levels := _levels(reader, app, day, DAY, now)) is not None:
            yield levels
        day += DAY
    for hour, _ in recent if by_hour else ():
        start = hour.replace(minute=0, second=0, microsecond=0)
        if start + HOUR > since and (levels := _levels(reader, app, start, HOUR, now)) is not None:
            yield levels


def strip(reader: WindowReader, app: str, since: datetime, until: datetime) -> list[Levels]:
    """Points for a small chart of a span of time: hours where it is short, days otherwise. Whole app only.

    Raises StoreUnavailable.
    """
    hours = [(hour.astimezone(UTC), summary) for hour, summary in reader.hours(app, since, until) if summary.rows]
    if not hours or hours[-1][0] - hours[0][0] <= timedelta(days=3):
        return [Levels(hour, hour + HOUR, summary) for hour, summary in hours]
    days: dict[datetime, list[Summary]] = {}
    for hour, summary in hours:
        days.setdefault(_start_of_day(hour), []).append(summary)
    return [Levels(day, day + DAY, Summary.merged(parts)) for day, parts in days.items()]


def means(summary: Summary) -> dict[str, float]:
    """`rows`, and the mean or share of every descriptor that has one."""
    values = {"rows": float(summary.rows)}
    values.update({name: number.mean for name, number in summary.numbers.items() if number.n})
    values.update({name: flag.share for name, flag in summary.flags.items() if flag.n})
    return values


def _levels(reader: WindowReader, app: str, since: datetime, length: timedelta, now: datetime) -> Levels | None:
    until = since + length
    whole = reader.whole(app, since, until)
    if not whole.rows:
        return None
    return Levels(since, until, whole, largest(reader.by_value(app, since, until, "release")), until <= now)


def _start_of_day(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
