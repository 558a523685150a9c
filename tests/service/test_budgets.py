"""Leases of token budgets: many requests share a transaction of the database, and no more get in than without them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import sqlalchemy as sa

from llmops.production_log import BudgetState, ProductionLog
from llmops.production_log.tables import token_reservations
from service.budgets import Budgets
from service.error_map import ApiError
from service.rate_limits import KeyLimits

LIMIT = 64_000
LARGE = KeyLimits("k", None, {"minute": LIMIT})


def reserved(log: ProductionLog) -> list[int]:
    """Tokens of each reservation there is."""
    with log._database.reading() as connection:
        return list(connection.execute(sa.select(token_reservations.c.tokens)).scalars())


def left(log: ProductionLog, limit: int = LIMIT) -> int:
    found = log.budgets.reserve("k", {"minute": limit}, 1, 60.0)
    if isinstance(found, BudgetState):
        return found.left
    log.budgets.settle(found, 0)
    return found.budgets[0].left


async def spend(budgets: Budgets, tokens: int, limits: KeyLimits = LARGE) -> dict[bytes, bytes]:
    """Uses tokens as one request; the reply's headers."""
    headers: list[tuple[bytes, bytes]] = []
    async with budgets.spending(limits, tokens, headers) as spending:
        spending.tokens = tokens
    return dict(headers)


async def happens(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - a database tells nobody
            await asyncio.sleep(0.01)  # the database tells nobody


def run(work: Callable[[Budgets], Awaitable[None]], log: ProductionLog, lease_seconds: float = 60.0) -> None:
    async def main() -> None:
        budgets = Budgets(log.budgets, 60.0, lease_seconds)
        await work(budgets)
        await budgets.close()

    asyncio.run(main())


def test_requests_share_a_lease_while_much_is_left_and_it_is_settled_at_the_end(any_log):
    async def work(budgets):
        told = [await spend(budgets, 100) for _ in range(5)]
        assert [int(each[b"x-ratelimit-remaining-tokens"]) for each in told] == [LIMIT - 100 * n for n in range(5)]
        assert reserved(any_log) == [LIMIT // 64]

    run(work, any_log)
    assert reserved(any_log) == []
    assert left(any_log) == LIMIT - 500


def test_a_lease_that_is_used_up_is_followed_by_another(any_log):
    async def work(budgets):
        for _ in range(25):
            await spend(budgets, 100)

    run(work, any_log)
    assert left(any_log) == LIMIT - 2500


def test_after_its_time_a_lease_keeps_only_what_requests_under_way_hold(any_log):
    async def work(budgets):
        async with budgets.spending(LARGE, 100, []) as spending:
            spending.tokens = 40
            await spend(budgets, 30)
            await happens(lambda: reserved(any_log) == [100])
            assert left(any_log) == LIMIT - 100 - 30
        await happens(lambda: reserved(any_log) == [])

    run(work, any_log, lease_seconds=0.05)
    assert left(any_log) == LIMIT - 70


def test_near_the_end_of_a_budget_each_request_has_a_reservation_of_its_own(any_log):
    small = KeyLimits("k", None, {"minute": 1000})

    async def work(budgets):
        async with budgets.spending(small, 100, []), budgets.spending(small, 100, []):
            assert reserved(any_log) == [100, 100]
        await spend(budgets, 1000, small)
        with pytest.raises(ApiError, match="this key's 1000 tokens per minute are used up"):
            await spend(budgets, 1, small)

    run(work, any_log)


def test_requests_at_once_of_two_workers_overdraw_by_no_more_than_one_of_them(any_log):
    used = []

    async def ask(budgets, tokens):
        try:
            await spend(budgets, tokens)
        except ApiError:
            return
        used.append(tokens)

    async def work(budgets):
        other = Budgets(any_log.budgets, 60.0, 0.01)
        await asyncio.gather(*(ask(each, 99) for each in (budgets, other) for _ in range(15)))
        assert len(used) == 30
        await ask(budgets, LIMIT - 4000)
        await asyncio.gather(*(ask(each, 99) for each in (budgets, other) for _ in range(15)))
        await other.close()

    run(work, any_log, lease_seconds=0.01)
    assert LIMIT - 4000 < sum(used) < LIMIT + 99
    assert left(any_log) == max(0, LIMIT - sum(used))
