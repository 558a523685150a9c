"""When a pipeline is due, and the name of the cycle that is due then. All times are UTC.

Two schedulers, or one that is started again, name the same cycle for the same moment, and so run it once.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from llmops.errors import UsageError


class CronSchedule:
    """A cron expression of five fields: minute, hour, day of month, month, day of week."""

    def __init__(self, cron: str) -> None:
        """Raises UsageError: it is none, or nothing is ever due."""
        from croniter import croniter  # type: ignore[import-untyped]

        fields = cron.split()
        if len(fields) != 5 or not croniter.is_valid(cron):
            raise UsageError(f'--cron: {cron!r} is no cron expression of five fields such as "0 3 * * *"')
        self.cron = " ".join(fields)
        self._croniter: Any = croniter
        self._cycle_format = _cycle_format(fields)

    def after(self, moment: datetime) -> datetime:
        """When it is due next. moment: in UTC."""
        due: datetime = self._croniter(self.cron, moment).get_next(datetime)
        return due

    def cycle(self, due: datetime) -> str:
        """The name of the cycle that is due then: its date, with hour and minute as far as the schedule needs them, so
        that a job that is tried again later means the same cycle."""
        return due.strftime(self._cycle_format)

    @property
    def shell_cycle(self) -> str:
        """The same name, as a shell makes it."""
        return f'"$(date -u +{self._cycle_format})"'


def _cycle_format(fields: list[str]) -> str:
    minute, hour = fields[:2]
    if not minute.isdecimal():
        return "%Y-%m-%dT%H%M"
    return "%Y-%m-%d" if hour.isdecimal() else "%Y-%m-%dT%H"
