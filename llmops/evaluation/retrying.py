"""Asking an engine again: what fails for a moment is tried again with back-off, what fails for good is a record."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from llmops.errors import EngineError, EngineRejected, EngineUnavailable, SchemaNotFollowed

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Retries:
    """attempts: in all. first_wait, longest_wait: seconds; each wait is twice the one before, shortened by chance so
    that requests that failed together do not return together. An upstream's own Retry-After is obeyed."""

    attempts: int = 6
    first_wait: float = 0.5
    longest_wait: float = 30.0

    def wait(self, failures: int, error: EngineError) -> float:
        """Seconds to wait after so many failures."""
        wait = min(self.longest_wait, self.first_wait * 2.0 ** (failures - 1))
        wait *= random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        asked = error.retry_after if isinstance(error, EngineUnavailable) else None
        return max(wait, min(asked, 2 * self.longest_wait)) if asked is not None else wait


RETRIES = Retries()


async def with_retries(ask: Callable[[], Awaitable[Answer]], retries: Retries) -> Answer:
    """What `ask` gives, asked again while its failures may pass.

    Raises:
        EngineRejected, SchemaNotFollowed, or an EngineUnavailable that will not pass: at once. EngineError: the last of
            all attempts.
    """
    for failures in range(1, retries.attempts + 1):
        try:
            return await ask()
        except EngineError as error:
            # Asked until an answer fits, a model that breaks its format would look as good as one that follows it.
            lasting = isinstance(error, (EngineRejected, SchemaNotFollowed)) or getattr(error, "lasting", False)
            if lasting or failures == retries.attempts:
                raise
            await asyncio.sleep(retries.wait(failures, error))
    raise AssertionError("attempts must be 1 or more")
