"""What a worker knows of the engine process, asked anew every second: readiness and metrics then ask nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from llmops.engine_host.frames import Pong
from llmops.errors import EngineError

Ping = Callable[[], Awaitable[Pong]]
"""Asks the engine process how it is. Raises EngineError where it does not answer."""

LOOK_SECONDS = 1.0


class EngineWatch:
    """The engine process as of the last look. problem: why it can answer nothing now; None when it is well."""

    def __init__(self, ping: Ping) -> None:
        self._ping = ping
        self._last: Pong | None = None
        self.problem: str | None = "the engine process has not answered yet"

    async def run(self) -> None:
        """Looks for ever, every LOOK_SECONDS."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """One look."""
        try:
            self._last, self.problem = await self._ping(), None
        except EngineError as error:
            self.problem = str(error)

    async def production_waits(self) -> bool:
        """Whether a request waits for a slot at this moment; yes where the process cannot be asked."""
        await self.look()
        return self.problem is not None or any(waiting for waiting, _ in self.depths().values())

    def failure(self, model: str) -> str | None:
        """Why the process could not load a model, by its ref; None when it could, or was not asked to."""
        report = self._models.get(model, {})
        return None if report.get("loaded") else report.get("failure")

    def depths(self) -> Mapping[str, tuple[int, int]]:
        """Model ref → requests there: (waiting for a slot, running)."""
        return {ref: (report["waiting"], report["running"]) for ref, report in self._models.items()}

    def restarts(self) -> float:
        """How often the process was started again."""
        return 0.0 if self._last is None else float(self._last.restarts)

    @property
    def _models(self) -> Mapping[str, Mapping[str, Any]]:
        return {} if self._last is None or self.problem is not None else self._last.models
