"""Requests per minute and token budgets of keys, counted by the library `limits`.

Requests are a moving window: at no moment were more than N let through in the 60 seconds before. They are counted when
they arrive. Tokens are known only afterwards, so they are charged after the answer and the next request finds the
budget used up: a key may overdraw by what it had under way. A token window begins with its first charge.

Counts live in the memory of each process, or in Redis and then are exact across processes. While Redis does not
answer, every process counts on its own: limits get looser by the number of processes, and nobody is locked out. It is
asked again every RETRY_SECONDS; `problem` says that it is so.
"""

from __future__ import annotations

import logging
import math
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.storage.memory import Entry
from limits.aio.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter, RateLimiter
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from llmops.errors import UsageError
from llmops.keys import Key
from service.error_map import ApiError

logger = logging.getLogger("llmops.service")

RETRY_SECONDS = 1.0
REDIS_SECONDS = 1.0
"""How long Redis may take to connect, and to answer, before a process counts on its own."""

Headers = list[tuple[bytes, bytes]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """One key's limits. tokens: by the name that a refusal gives them."""

    key_id: str
    requests: RateLimitItem | None
    tokens: tuple[tuple[str, RateLimitItem], ...]


def limits_of(key: Key) -> KeyLimits | None:
    """The key's limits; None when it has none, which then cost nothing."""
    if not key.limited:
        return None
    tokens: list[tuple[str, RateLimitItem]] = []
    if key.tokens_per_minute is not None:
        tokens.append(("minute", RateLimitItemPerMinute(key.tokens_per_minute, namespace="tokens")))
    if key.tokens_per_day is not None:
        tokens.append(("day", RateLimitItemPerDay(key.tokens_per_day, namespace="tokens")))
    per_minute = key.requests_per_minute
    requests = None if per_minute is None else RateLimitItemPerMinute(per_minute, namespace="requests")
    return KeyLimits(key.id, requests, tuple(tokens))


class RateLimits:
    """Counts what limited keys use, and refuses what goes beyond.

    redis_url: where to count for all processes; None: in this one's memory.
    """

    def __init__(self, redis_url: str | None = None) -> None:
        """Connects to nothing yet. Raises UsageError when `redis_url` cannot be read."""
        self._own = _Counters(_RequestMemory(), MemoryStorage(), tells_what_is_left=True)
        self._redis = None if redis_url is None else _redis_storage(redis_url)
        # Each question to Redis costs a third of a millisecond of processor time.
        self._shared = None
        if self._redis is not None:
            self._shared = _Counters(self._redis, self._redis, tells_what_is_left=False)
        self._ask_again_at = 0.0
        self.problem: str | None = None

    async def admit(self, limits: KeyLimits, reply_headers: Headers) -> None:
        """Counts one request. Raises ApiError 429 when it goes beyond the key's limits.

        Adds OpenAI's `x-ratelimit-…` headers; counted in Redis, what is left is told only to who is refused.
        """
        headers, refusal = await self._count(lambda counters: counters.admit(limits))
        reply_headers += headers
        if refusal is not None:
            raise refusal

    async def charge(self, limits: KeyLimits, tokens: int) -> None:
        """Takes tokens from the key's budgets, also beyond their end."""
        if limits.tokens and tokens > 0:
            await self._count(lambda counters: counters.charge(limits, tokens))

    async def close(self) -> None:
        """Lets the connections to Redis go."""
        if self._redis is not None:
            await self._redis.bridge.storage.aclose()

    async def _count(self, work: Callable[[_Counters], Awaitable[T]]) -> T:
        if self._shared is not None and time.monotonic() >= self._ask_again_at:
            try:
                done = await work(self._shared)
            except StorageError as error:
                self._note(error)
            else:
                self._note(None)
                return done
        return await work(self._own)

    def _note(self, error: StorageError | None) -> None:
        if error is not None:
            self._ask_again_at = time.monotonic() + RETRY_SECONDS
            if self.problem is None:
                logger.warning("Redis does not answer, limits are counted by each process: %s", error.storage_error)
            self.problem = "Redis does not answer: rate limits are counted by each process on its own"
        elif self.problem is not None:
            logger.warning("Redis answers again: rate limits are counted across processes")
            self.problem = None


class _RequestMemory(MemoryStorage):
    """Memory storage whose moving window forgets a key's old entries as the key is used.

    The library's sweeps all keys at every hit, in another thread: 85 µs a request where this takes 4.
    """

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        now = time.time()
        events = self.events.setdefault(key, [])  # newest first
        del events[bisect_left(events, expiry - now, key=lambda entry: -entry.atime) :]
        if len(events) + amount > limit:
            return False
        events[:0] = [Entry(expiry) for _ in range(amount)]
        return True


class _Counters:
    """The counts in one place. tells_what_is_left: also to those who are let in, because asking costs nothing."""

    def __init__(self, requests: Storage, tokens: Storage, *, tells_what_is_left: bool) -> None:
        self._tells_what_is_left = tells_what_is_left
        self._requests = MovingWindowRateLimiter(requests)
        self._tokens = FixedWindowRateLimiter(tokens)

    async def admit(self, limits: KeyLimits) -> tuple[Headers, ApiError | None]:
        """Reply headers, and the refusal of a request that goes beyond; that one is not counted."""
        headers: Headers = []
        for window, item in limits.tokens:
            if not await self._tokens.test(item, limits.key_id):
                left, seconds = await _left(self._tokens, item, limits.key_id)
                refusal = _refusal(f"this key's {item.amount} tokens per {window} are used up", seconds)
                return _headers(b"tokens", item.amount, left, seconds), refusal
            if self._tells_what_is_left and not headers:
                headers = _headers(b"tokens", item.amount, *await _left(self._tokens, item, limits.key_id))
        if limits.requests is None:
            return headers, None
        more, refused = await self._admit_request(limits.key_id, limits.requests)
        return headers + more, refused

    async def _admit_request(self, key_id: str, item: RateLimitItem) -> tuple[Headers, ApiError | None]:
        allowed = await self._requests.hit(item, key_id)
        if allowed and not self._tells_what_is_left:
            return [(b"x-ratelimit-limit-requests", b"%d" % item.amount)], None
        left, seconds = await _left(self._requests, item, key_id)
        headers = _headers(b"requests", item.amount, left, seconds)
        if allowed:
            return headers, None
        return headers, _refusal(f"this key's {item.amount} requests per minute are used up", seconds)

    async def charge(self, limits: KeyLimits, tokens: int) -> None:
        for _, item in limits.tokens:
            await self._tokens.hit(item, limits.key_id, cost=tokens)


async def _left(limiter: RateLimiter, item: RateLimitItem, key_id: str) -> tuple[int, float]:
    """What is left of a limit, and the seconds until there is more."""
    reset_at, left = await limiter.get_window_stats(item, key_id)
    return max(0, left), max(0.0, reset_at - time.time())


def _redis_storage(url: str) -> Any:
    # One retry, at once: a connection that Redis closed while it was idle is no outage.
    patience = {"socket_timeout": REDIS_SECONDS, "socket_connect_timeout": REDIS_SECONDS}
    options: dict[str, Any] = {**patience, "retry": Retry(NoBackoff(), 1, (RedisConnectionError,))}
    try:
        return storage_from_string(
            f"async+{url}", wrap_exceptions=True, implementation="redispy", key_prefix="llmops", **options
        )
    except (ConfigurationError, ValueError) as error:
        raise UsageError("LLMOPS_REDIS_URL: must be like redis://127.0.0.1:6379/0") from error


def _refusal(message: str, seconds: float) -> ApiError:
    return ApiError(429, message, kind="rate_limit_error", code="rate_limit_exceeded", retry_after=max(seconds, 0.001))


def _headers(what: bytes, limit: int, left: int, seconds: float) -> Headers:
    return [
        (b"x-ratelimit-limit-%s" % what, b"%d" % limit),
        (b"x-ratelimit-remaining-%s" % what, b"%d" % left),
        (b"x-ratelimit-reset-%s" % what, duration(seconds)),
    ]


def duration(seconds: float) -> bytes:
    """Whole seconds, rounded up, as OpenAI writes them: `59s`, `2m0s`, `23h59m0s`."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return b"%dh%dm%ds" % (hours, minutes, rest)
    return b"%dm%ds" % (minutes, rest) if minutes else b"%ds" % rest
