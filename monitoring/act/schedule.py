"""When a window closes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from llmops.errors import UsageError

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class WindowSchedule:
    """Windows of one length, one after the other. at: the time of day, in UTC, when one of them closes.

    length: a day divided by a whole number, so that a window closes at the same times every day.
    """

    at: time = time(0, 0)
    length: timedelta = DAY

    def __post_init__(self) -> None:
        if self.length <= timedelta(0) or DAY % self.length:
            raise UsageError(f"--every-window: {self.length} does not divide a day; 1h, 6h or 24h do")

    @property
    def windows_a_month(self) -> int:
        """Of 30 days: what a month's false-alarm budget is spread over."""
        return 30 * (DAY // self.length)

    def last_closed(self, now: datetime) -> tuple[datetime, datetime]:
        """Start and end of the window that closed last."""
        now = now.astimezone(UTC)
        start = datetime.combine(now.date(), self.at, UTC) - DAY
        until = start + (now - start) // self.length * self.length
        return until - self.length, until
