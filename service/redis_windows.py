"""Moving windows of requests in Redis, counted for every machine, by the library `limits`.

Imported where a Redis is named alone: what it imports takes 20 MB of each worker.
"""

import time
from typing import Any

from limits import RateLimitItemPerMinute
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from llmops.errors import StoreUnavailable, UsageError
from llmops.production_log.budgets import MINUTE_SECONDS

REDIS_SECONDS = 1.0
"""How long Redis may take to connect, and to answer, before a machine counts on its own."""


class RedisWindows:
    """The windows of all keys in one Redis."""

    def __init__(self, url: str) -> None:
        """Connects to nothing yet. Raises UsageError when `url` cannot be read."""
        # One retry, at once: a connection that Redis closed while it was idle is no outage.
        patience = {"socket_timeout": REDIS_SECONDS, "socket_connect_timeout": REDIS_SECONDS}
        options: dict[str, Any] = {**patience, "retry": Retry(NoBackoff(), 1, (RedisConnectionError,))}
        try:
            self._storage: Any = storage_from_string(
                f"async+{url}", wrap_exceptions=True, implementation="redispy", key_prefix="llmops", **options
            )
        except (ConfigurationError, ValueError) as error:
            raise UsageError("LLMOPS_REDIS_URL: must be like redis://127.0.0.1:6379/0") from error
        self._windows = MovingWindowRateLimiter(self._storage)

    async def count(self, key_id: str, most: int) -> tuple[int | None, float]:
        """Counts a request: None where it fits, for each question costs a third of a millisecond of processor time; -1
        where it does not, and the seconds until it does. Raises StoreUnavailable: Redis does not answer."""
        item = RateLimitItemPerMinute(most, namespace="requests")
        try:
            if await self._windows.hit(item, key_id):
                return None, 0.0
            reset_at, _ = await self._windows.get_window_stats(item, key_id)
        except StorageError as error:
            raise StoreUnavailable(f"Redis: {error.storage_error}") from error
        # By the clocks of the machines, one of which may have been set.
        return -1, min(MINUTE_SECONDS, max(0.0, reset_at - time.time()))

    async def close(self) -> None:
        await self._storage.bridge.storage.aclose()
