"""What a key may use: requests per minute, and tokens per minute and day.

Requests: a moving window, at no moment more than N in the 60 seconds before. Counts live in files that the workers of
one gateway share, measured by a clock that nobody sets; or in Redis, by the library `limits`, and then are exact across
machines too. While Redis does not answer, every machine counts on its own: limits get looser by their number, and
nobody is locked out. It is asked again every RETRY_SECONDS; `problem` says that it is so.

Tokens: set aside before a request begins and settled when it has ended, each in a transaction of the log's database.
While much of a budget is left, a worker therefore sets tokens aside for many requests at once, a lease, and settles
them together at its end. Near the end of a budget every request has its own, so that no more is let through than
without leases. Where tokens are not told they are estimated, and the log's record says so.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import mmap
import os
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops.errors import StoreUnavailable
from llmops.keys import Key
from llmops.processes import ProcessLock, run_blocking
from llmops.production_log.budgets import MINUTE_SECONDS, BudgetState, Reservation, TokenBudgets
from service.error_map import RETRY_SECONDS, ApiError

if TYPE_CHECKING:
    from service.redis_windows import RedisWindows

logger = logging.getLogger("llmops.service")

LOCK_SECONDS, LOCK_PAUSE_SECONDS = 2.0, 0.0005
"""How long a worker waits for another one, which holds a window for microseconds, or until it is scheduled again. One
that is frozen in them is killed sooner."""

Headers = list[tuple[bytes, bytes]]


class RateLimits:
    """Counts the requests of limited keys, and refuses those beyond a limit.

    redis_url: where to count for all machines; None: on this one. folder: where to count for all workers of a gateway;
    None: in this process's memory.
    """

    def __init__(self, redis_url: str | None = None, folder: Path | None = None) -> None:
        """Connects to nothing yet. Raises UsageError when `redis_url` cannot be read."""
        self._own: dict[str, deque[float]] = {}  # by key, times of requests that this process let in, oldest first
        self._of_all_workers = None if folder is None else _SharedWindows(folder)
        self._redis: RedisWindows | None = None
        if redis_url is not None:
            from service.redis_windows import RedisWindows

            self._redis = RedisWindows(redis_url)
        self._ask_again_at = 0.0
        self.problem: str | None = None

    async def admit(self, key: Key, reply_headers: Headers) -> None:
        """Counts one request. Raises ApiError 429 when it goes beyond the key's limit; that one is not counted.

        Adds OpenAI's `x-ratelimit-…` headers; counted in Redis, what is left is told only to who is refused.
        """
        if (most := key.requests_per_minute) is None:
            return
        left, seconds = await self._count(key.id, most)
        if left is None:
            reply_headers.append((b"x-ratelimit-limit-requests", b"%d" % most))
            return
        reply_headers += limit_headers(b"requests", most, max(0, left), seconds)
        if left < 0:
            raise refusal(f"this key's {most} requests per minute are used up", seconds)

    async def _count(self, key_id: str, most: int) -> tuple[int | None, float]:
        """Counts a request: how many more fit, -1 where it does not; None: not asked. And the seconds until more do."""
        if self._redis is not None and time.monotonic() >= self._ask_again_at:
            try:
                counted = await self._redis.count(key_id, most)
            except StoreUnavailable as error:
                self._note(error)
            else:
                self._note(None)
                return counted
        if self._of_all_workers is not None:
            try:
                return self._of_all_workers.count(key_id, most)
            except OSError as error:
                logger.warning("this worker counts a request of key %s for itself: %s", key_id, error)
        now, times = time.monotonic(), self._own.setdefault(key_id, deque())
        while times and times[0] <= now - MINUTE_SECONDS:
            times.popleft()
        left = most - len(times) - 1
        if left >= 0:
            times.append(now)
        return max(left, -1), max(0.0, times[0] + MINUTE_SECONDS - now)

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.close()

    def _note(self, error: StoreUnavailable | None) -> None:
        if error is not None:
            self._ask_again_at = time.monotonic() + RETRY_SECONDS
            if self.problem is None:
                logger.warning("Redis does not answer, limits are counted by each machine: %s", error)
            self.problem = "Redis does not answer: rate limits are counted by each machine on its own"
        elif self.problem is not None:
            logger.warning("Redis answers again: rate limits are counted across machines")
            self.problem = None


class _SharedWindows:
    """Moving windows of all workers of one gateway: a file of numbers for each key and limit.

    The first two count the requests that have left the window, and those that were let in, ever. The others are a ring
    of the times of those between. Each step of a change leaves the file right, so a worker may be killed in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[tuple[str, int], tuple[ProcessLock, memoryview[float]]] = {}

    def count(self, key_id: str, most: int) -> tuple[int, float]:
        """As `RateLimits._count`. Raises OSError: the file cannot be made, or another worker holds it."""
        lock, numbers = self._open.get((key_id, most)) or self._make(key_id, most)
        give_up_at = time.monotonic() + LOCK_SECONDS
        while not lock.acquire(wait=False):
            if time.monotonic() > give_up_at:
                raise TimeoutError("another worker holds the key's window")
            time.sleep(LOCK_PAUSE_SECONDS)
        try:
            now = time.monotonic()  # of the machine: every process has the same
            left_window, let_in = int(numbers[0]), int(numbers[1])
            while left_window < let_in and numbers[2 + left_window % most] <= now - MINUTE_SECONDS:
                left_window += 1
            numbers[0] = left_window
            left = most - (let_in - left_window) - 1
            if left >= 0:
                numbers[2 + let_in % most] = now
                numbers[1] = let_in + 1
            return max(left, -1), max(0.0, numbers[2 + left_window % most] + MINUTE_SECONDS - now)
        finally:
            lock.release()

    def _make(self, key_id: str, most: int) -> tuple[ProcessLock, memoryview[float]]:
        size = 8 * (2 + most)
        lock = ProcessLock(self._folder / f"{key_id}-{most}")
        try:
            # Where it can be allocated: a full disk shall fail here, not where the memory is written.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(lock.file, 0, size)
            else:  # macOS
                os.ftruncate(lock.file, size)
            opened = self._open[key_id, most] = (lock, memoryview(mmap.mmap(lock.file, size)).cast("d"))
        except OSError:
            lock.close()
            raise
        return opened


def refusal(message: str, seconds: float) -> ApiError:
    """The 429 for a key that has used up what it may."""
    return ApiError(429, message, kind="rate_limit_error", code="rate_limit_exceeded", retry_after=max(seconds, 0.001))


def limit_headers(what: bytes, limit: int, left: int, seconds: float) -> Headers:
    """OpenAI's headers of a limit. seconds: until there is more."""
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


MARGIN_SECONDS = 60.0
"""Added to the longest answer: a reservation whose worker vanished with its machine ends after that."""

LEASE_SECONDS = 1.0
"""How long a lease takes requests. A worker that is killed leaves what they used in that time uncounted."""

LEASED_SHARE = 1 / 64
"""Of what is left of a budget, the most that a lease sets aside."""


@dataclass
class Spending:
    """What a request has taken of its key's budgets; set `tokens` before the block ends."""

    tokens: int = 0


@dataclass(slots=True)
class _Lease:
    """Tokens set aside for requests of one key. held: for those under way; used: by those that have ended."""

    reservation: Reservation
    held: int = 0
    used: int = 0
    taken_at: float = field(default_factory=time.monotonic)
    settling: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def left(self) -> int:
        return self.reservation.tokens - self.held - self.used

    def hold(self, tokens: int, reply_headers: Headers) -> None:
        """Takes a request in, and tells it what was left of the first budget before it."""
        budget = self.reservation.budgets[0]
        left, passed = budget.left - self.held - self.used, time.monotonic() - self.taken_at
        reply_headers += limit_headers(b"tokens", budget.limit, max(0, left), max(0.0, budget.seconds - passed))
        self.held += tokens


class Budgets:
    """The budgets of all keys, as one worker sees them.

    longest_seconds: after which no request is running any more. lease_seconds: how long a lease takes requests.
    """

    def __init__(self, store: TokenBudgets, longest_seconds: float, lease_seconds: float = LEASE_SECONDS) -> None:
        self._store, self._seconds, self._lease_seconds = store, longest_seconds + MARGIN_SECONDS, lease_seconds
        self._open: dict[str, _Lease] = {}
        self._reserving: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._settling: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def spending(
        self, key_id: str, limits: Mapping[str, int], most: int, reply_headers: Headers
    ) -> AsyncIterator[Spending]:
        """Sets `most` tokens aside while the block runs; then counts what the Spending says. limits: by window.

        Raises:
            ApiError: 429, with OpenAI's headers, when nothing is left of a budget.
            StoreUnavailable: the log's database cannot be reached.
        """
        spending = Spending()
        lease = self._open.get(key_id)
        if lease is None or lease.left < most:
            lease = await self._lease(key_id, limits, most, reply_headers)
        lease.hold(most, reply_headers)
        try:
            yield spending
        finally:
            lease.held -= most
            lease.used += spending.tokens
            if self._open.get(key_id) is not lease and not lease.held:
                # Also when the client has gone: the work goes on in its thread.
                await asyncio.shield(self._in_background(self._settle(lease)))

    async def close(self) -> None:
        """Settles all leases."""
        for key_id in list(self._open):
            self._end(key_id, self._open[key_id])
        await asyncio.gather(*self._settling)

    async def _lease(self, key_id: str, limits: Mapping[str, int], most: int, reply_headers: Headers) -> _Lease:
        """The key's open lease if it has room by now, or another one."""
        async with self._reserving[key_id]:
            lease = self._open.get(key_id)
            if lease is not None:
                if lease.left >= most:
                    return lease
                self._end(key_id, lease)
            reserve = functools.partial(self._store.reserve, key_id, limits, most, self._seconds, LEASED_SHARE)
            reserving = asyncio.ensure_future(run_blocking(reserve, name="reserve tokens"))
            try:
                reserved = await asyncio.shield(reserving)
            except asyncio.CancelledError:
                reserving.add_done_callback(self._give_back)
                raise
            if isinstance(reserved, BudgetState):
                reply_headers += limit_headers(b"tokens", reserved.limit, reserved.left, reserved.seconds)
                held = reserved.limit - reserved.used
                what = f"this key's {reserved.limit} tokens per {reserved.window} are used up"
                if held > 0:
                    what += f", but for {held} that requests under way may still take"
                raise refusal(what, reserved.seconds)
            lease = _Lease(reserved)
            if reserved.tokens > most:
                self._open[key_id] = lease
                asyncio.get_running_loop().call_later(self._lease_seconds, self._end, key_id, lease)
            return lease

    def _give_back(self, work: asyncio.Future[Reservation | BudgetState]) -> None:
        """Of a request that went while its tokens were set aside."""
        if not work.cancelled() and work.exception() is None and isinstance(found := work.result(), Reservation):
            self._in_background(self._settle(_Lease(found)))

    def _end(self, key_id: str, lease: _Lease) -> None:
        """Takes no more requests into a lease, counts what was used, and gives back what nobody needs."""
        if self._open.get(key_id) is lease:
            del self._open[key_id]
            self._in_background(self._settle(lease))

    async def _settle(self, lease: _Lease) -> None:
        # One after the other: tokens of which the last settling knows nothing must not be given back by it.
        async with lease.settling:
            used, held, lease.used = lease.used, lease.held, 0
            try:
                await run_blocking(lambda: self._store.settle(lease.reservation, used, held), name="settle tokens")
            except StoreUnavailable as error:
                logger.warning("%d tokens of key %s were not counted: %s", used, lease.reservation.key_id, error)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        return task
