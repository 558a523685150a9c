"""Parts of the daemon's tick: each runs alone, and how often it ran and failed is kept in the database."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from llmops.errors import LlmopsError
from monitoring.act.action_tables import alone
from monitoring.act.action_tables import daemon_stages as table
from monitoring.act.alerts.prometheus import StageCount
from monitoring.store.database import reading

logger = logging.getLogger("llmops.monitoring")

T = TypeVar("T")


class Stages:
    """Runs parts of a tick and counts them. now: the time, in seconds."""

    def __init__(self, engine: sa.Engine, now: Callable[[], float]) -> None:
        self._engine, self._now = engine, now
        self._runs: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._errors: dict[str, str] = {}

    def run(self, name: str, work: Callable[[], T]) -> tuple[T | None, bool]:
        """What `work` returns, and whether it failed: then it is logged and counted, and nothing is raised."""
        self._runs[name] += 1
        try:
            return work(), False
        except LlmopsError as error:
            self._errors[name] = str(error)
            logger.warning("%s failed: %s", name, error)
        except Exception as error:
            self._errors[name] = f"unexpected {type(error).__name__}: {error}"
            logger.exception("%s failed", name)
        self._failures[name] += 1
        return None, True

    def keep(self) -> None:
        """Adds what was counted to the database; where that fails, it is logged and kept for the next time."""
        try:
            with alone(self._engine) as connection:
                for name in sorted(self._runs):
                    self._add(connection, name)
        except LlmopsError as error:
            logger.warning("counts of the tick's parts not kept: %s", error)
            return
        self._runs.clear()
        self._failures.clear()
        self._errors.clear()

    def counts(self) -> list[StageCount]:
        """Of every part, by all daemons so far. Raises StoreUnavailable."""
        columns = (table.c.stage, table.c.runs, table.c.failures, table.c.last_run_at, table.c.last_error)
        with reading(self._engine) as connection:
            return [StageCount(*row) for row in connection.execute(sa.select(*columns).order_by(table.c.stage))]

    def _add(self, connection: sa.Connection, name: str) -> None:
        now = self._now()
        values = {"runs": self._runs[name], "failures": self._failures[name], "last_run_at": now}
        grown = {"runs": table.c.runs + values["runs"], "failures": table.c.failures + values["failures"]}
        error = {"last_failure_at": now, "last_error": self._errors[name]} if name in self._errors else {}
        same = sa.update(table).where(table.c.stage == name)
        if not connection.execute(same.values(**grown, last_run_at=now, **error)).rowcount:
            connection.execute(sa.insert(table).values(stage=name, **values, **error))
