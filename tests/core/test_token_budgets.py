"""Token budgets of keys in the log's database."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from llmops.production_log import BudgetState, ProductionLog, Reservation
from llmops.production_log.budgets import Moment, TokenBudgets

NOON = 20_000 * 86400.0 + 43200.0


class Clock:
    """A clock that tests set."""

    def __init__(self):
        self.now = Moment("boot", 1000.0, NOON)

    def __call__(self):
        return self.now

    def pass_by(self, seconds):
        self.now = replace(self.now, seconds=self.now.seconds + seconds, epoch=self.now.epoch + seconds)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def budgets(any_log, clock):
    return TokenBudgets(any_log._database, clock)


def use(budgets, tokens, **limits):
    """Takes tokens; None, or the budget that refuses it."""
    made = budgets.reserve("k", limits, tokens, 60.0)
    if isinstance(made, BudgetState):
        return made
    budgets.settle(made, tokens)
    return None


def test_a_budget_is_used_up_by_what_was_answered_and_comes_back_with_the_next_minute(budgets, clock):
    assert use(budgets, 60, minute=100) is None
    clock.pass_by(20)
    assert use(budgets, 500, minute=100) is None  # a single request overdraws
    refused = use(budgets, 1, minute=100)
    assert (refused.window, refused.limit, refused.left, refused.seconds) == ("minute", 100, 0, 40.0)
    clock.pass_by(40)
    assert use(budgets, 1, minute=100) is None


def test_other_keys_have_their_own_budget(budgets):
    use(budgets, 10, minute=10)
    assert isinstance(budgets.reserve("other", {"minute": 10}, 1, 60.0), Reservation)


def test_what_is_set_aside_is_gone_until_it_is_given_back(budgets):
    first = budgets.reserve("k", {"minute": 100}, 100, 60.0)
    held = budgets.reserve("k", {"minute": 100}, 1, 60.0)
    assert isinstance(held, BudgetState)
    assert held.seconds <= 1  # it may be given back at any moment
    budgets.settle(first, 30)
    again = budgets.reserve("k", {"minute": 100}, 1, 60.0)
    assert again.budgets[0].left == 70


def test_of_many_requests_at_once_no_more_get_in_than_the_budget_and_one_request(any_log):
    let_in = []

    def ask():
        if isinstance(any_log.budgets.reserve("k", {"day": 1000}, 90, 60.0), Reservation):
            let_in.append(90)

    threads = [threading.Thread(target=ask) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1000 <= sum(let_in) < 1000 + 90


def test_a_days_budget_survives_a_restart_and_ends_at_midnight_of_utc(log_url, clock):
    log = ProductionLog(log_url)
    assert use(TokenBudgets(log._database, clock), 100, day=100) is None
    log.close()
    again = ProductionLog(log_url)
    budgets = TokenBudgets(again._database, clock)
    clock.now = replace(clock.now, clock="another boot", seconds=5.0)
    refused = use(budgets, 1, day=100)
    assert (refused.window, refused.seconds) == ("day", 43200.0)
    clock.pass_by(43200)
    assert use(budgets, 1, day=100) is None
    again.close()


def test_a_clock_set_back_over_midnight_brings_no_budget_back(budgets, clock):
    clock.pass_by(43200 + 60)
    use(budgets, 100, day=100)
    clock.now = replace(clock.now, epoch=clock.now.epoch - 3600)
    assert use(budgets, 1, day=100) is not None
    clock.now = replace(clock.now, epoch=clock.now.epoch - 40 * 86400)  # it had been wrong by weeks
    assert use(budgets, 1, day=100) is None


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_moves_no_minute(budgets, clock, hours):
    use(budgets, 10, minute=10)
    clock.now = replace(clock.now, epoch=clock.now.epoch + hours * 3600)
    assert use(budgets, 1, minute=10).seconds == 60.0


def test_a_shared_clock_that_is_set_back_makes_no_minute_longer(budgets, clock):
    use(budgets, 10, minute=10)
    clock.now = replace(clock.now, seconds=clock.now.seconds - 3600)
    assert use(budgets, 1, minute=10) is None


def test_a_machine_whose_clock_is_a_little_behind_counts_in_the_same_minute(budgets, clock):
    use(budgets, 60, minute=100)
    clock.pass_by(-1)
    use(budgets, 60, minute=100)
    assert use(budgets, 1, minute=100).seconds == 60.0


def test_of_many_requests_that_end_at_once_every_token_is_counted(any_log):
    made = [any_log.budgets.reserve("k", {"minute": 1000}, 10, 60.0) for _ in range(30)]
    threads = [threading.Thread(target=any_log.budgets.settle, args=(each, 10)) for each in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any_log.budgets.reserve("k", {"minute": 1000}, 1, 60.0).budgets[0].used == 300


def test_what_a_killed_process_had_set_aside_is_given_back(log_url):
    code = (
        "import os, sys; from llmops.production_log import ProductionLog;"
        "ProductionLog(sys.argv[1]).budgets.reserve('k', {'day': 100}, 100, 3600.0); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, log_url], check=False)
    log = ProductionLog(log_url)
    assert isinstance(log.budgets.reserve("k", {"day": 100}, 1, 60.0), Reservation)
    log.close()


def test_what_nobody_gives_back_ends_by_itself(budgets, clock):
    budgets.reserve("k", {"day": 100}, 100, 60.0)
    clock.pass_by(61)
    assert isinstance(budgets.reserve("k", {"day": 100}, 1, 60.0), Reservation)
