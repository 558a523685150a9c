"""Token budgets of keys: set aside before a request begins, settled when it has ended.

Where tokens are not told they are estimated, and the log's record says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from llmops.errors import StoreUnavailable
from llmops.processes import run_blocking
from llmops.production_log import BudgetState, Reservation, TokenBudgets
from service.rate_limits import Headers, KeyLimits, limit_headers, refusal

logger = logging.getLogger("llmops.service")

MARGIN_SECONDS = 60.0
"""Added to the longest answer: a reservation whose worker vanished with its machine ends after that."""

_BYTES_OF_A_TOKEN = 3


@dataclass
class Spending:
    """What a request has taken of its key's budgets; set `tokens` before the block ends."""

    tokens: int = 0


class Budgets:
    """The budgets of all keys. longest_seconds: after which no request is running any more."""

    def __init__(self, store: TokenBudgets, longest_seconds: float) -> None:
        self._store, self._seconds = store, longest_seconds + MARGIN_SECONDS

    @asynccontextmanager
    async def spending(self, limits: KeyLimits | None, most: int, reply_headers: Headers) -> AsyncIterator[Spending]:
        """Sets `most` tokens aside while the block runs; then counts what the Spending says. At once for keys without
        a budget.

        Raises:
            ApiError: 429, with OpenAI's headers, when nothing is left of a budget.
            StoreUnavailable: the log's database cannot be reached.
        """
        spending = Spending()
        if limits is None or not limits.tokens:
            yield spending
            return
        reservation = await self._reserve(limits, most, reply_headers)
        try:
            yield spending
        finally:
            # Also when the client has gone: the work goes on in its thread.
            await asyncio.shield(asyncio.ensure_future(self._settle(reservation, spending.tokens)))

    async def _reserve(self, limits: KeyLimits, most: int, reply_headers: Headers) -> Reservation:
        work = asyncio.ensure_future(
            run_blocking(
                lambda: self._store.reserve(limits.key_id, limits.tokens, most, self._seconds), name="reserve tokens"
            )
        )
        try:
            found = await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(self._give_back)
            raise
        if isinstance(found, Reservation):
            reply_headers += _headers(found.budgets[0])
            return found
        reply_headers += _headers(found)
        held = found.limit - found.used
        what = f"this key's {found.limit} tokens per {found.window} are used up"
        if held > 0:
            what += f", but for {held} that requests under way may still take"
        raise refusal(what, found.seconds)

    def _give_back(self, work: asyncio.Future[Reservation | BudgetState]) -> None:
        """Of a request that went while its tokens were set aside."""
        if not work.cancelled() and work.exception() is None and isinstance(found := work.result(), Reservation):
            self._unwanted = asyncio.ensure_future(self._settle(found, 0))

    async def _settle(self, reservation: Reservation, tokens: int) -> None:
        try:
            await run_blocking(lambda: self._store.settle(reservation, tokens), name="settle tokens")
        except StoreUnavailable as error:
            logger.warning("%d tokens of key %s were not counted: %s", tokens, reservation.key_id, error)


def estimated_tokens(value: Any) -> int:
    """About how many tokens a text has, or the texts of JSON values: one for every three bytes. Languages and
    vocabularies differ; English has fewer, rare scripts more."""
    size = len(value.encode(errors="replace")) if isinstance(value, str) else len(orjson.dumps(value, default=str))
    return -(-size // _BYTES_OF_A_TOKEN)


def _headers(budget: BudgetState) -> Headers:
    return limit_headers(b"tokens", budget.limit, budget.left, budget.seconds)
