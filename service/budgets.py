"""Token budgets of keys: tokens are set aside before a request begins and settled when it has ended.

Each setting aside and each settling is a transaction of the log's database. While much of a budget is left, a worker
therefore sets tokens aside for many requests at once, a lease, and settles them together at its end. Near the end of a
budget every request has its own, so that no more is let through than without leases.

Where tokens are not told they are estimated, and the log's record says so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from llmops.errors import StoreUnavailable
from llmops.processes import run_blocking
from llmops.production_log import BudgetState, Reservation, TokenBudgets
from service.rate_limits import Headers, KeyLimits, limit_headers, refusal

logger = logging.getLogger("llmops.service")

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
    async def spending(self, limits: KeyLimits, most: int, reply_headers: Headers) -> AsyncIterator[Spending]:
        """Sets `most` tokens aside while the block runs; then counts what the Spending says.

        Raises:
            ApiError: 429, with OpenAI's headers, when nothing is left of a budget.
            StoreUnavailable: the log's database cannot be reached.
        """
        spending = Spending()
        lease = self._open.get(limits.key_id)
        if lease is None or lease.left < most:
            lease = await self._lease(limits, most, reply_headers)
        lease.hold(most, reply_headers)
        try:
            yield spending
        finally:
            lease.held -= most
            lease.used += spending.tokens
            if self._open.get(limits.key_id) is not lease and not lease.held:
                # Also when the client has gone: the work goes on in its thread.
                await asyncio.shield(self._in_background(self._settle(lease)))

    async def close(self) -> None:
        """Settles all leases."""
        for key_id in list(self._open):
            self._end(key_id, self._open[key_id])
        await asyncio.gather(*self._settling)

    async def _lease(self, limits: KeyLimits, most: int, reply_headers: Headers) -> _Lease:
        """The key's open lease if it has room by now, or another one."""
        async with self._reserving[limits.key_id]:
            lease = self._open.get(limits.key_id)
            if lease is not None:
                if lease.left >= most:
                    return lease
                self._end(limits.key_id, lease)
            key_id, tokens, store = limits.key_id, limits.tokens, self._store
            reserving = asyncio.ensure_future(
                run_blocking(
                    lambda: store.reserve(key_id, tokens, most, self._seconds, share=LEASED_SHARE),
                    name="reserve tokens",
                )
            )
            try:
                found = await asyncio.shield(reserving)
            except asyncio.CancelledError:
                reserving.add_done_callback(self._give_back)
                raise
            if isinstance(found, BudgetState):
                reply_headers += limit_headers(b"tokens", found.limit, found.left, found.seconds)
                held = found.limit - found.used
                what = f"this key's {found.limit} tokens per {found.window} are used up"
                if held > 0:
                    what += f", but for {held} that requests under way may still take"
                raise refusal(what, found.seconds)
            lease = _Lease(found)
            if found.tokens > most:
                self._open[limits.key_id] = lease
                asyncio.get_running_loop().call_later(self._lease_seconds, self._end, limits.key_id, lease)
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
