"""Token budgets of keys in the log's database."""

import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest

from llmops.production_log import ProductionLog
from llmops.production_log.budgets import BudgetState, ClockReading, Reservation, TokenBudgets
from tests.at_once import at_once

NOON = 20_000 * 86400.0 + 43200.0


class Clock:
    """A clock that tests set."""

    def __init__(self):
        self.now = ClockReading("boot", 1000.0, NOON)

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


def test_a_keys_budget_is_used_up_by_what_was_answered_and_comes_back_with_the_next_minute(budgets, clock):
    assert use(budgets, 60, minute=100) is None
    clock.pass_by(20)
    assert use(budgets, 500, minute=100) is None  # a single request overdraws
    refused = use(budgets, 1, minute=100)
    assert (refused.window, refused.limit, refused.left, refused.seconds) == ("minute", 100, 0, 40.0)
    assert isinstance(budgets.reserve("other", {"minute": 100}, 1, 60.0), Reservation)
    clock.pass_by(40)
    assert use(budgets, 1, minute=100) is None


def test_what_is_set_aside_is_gone_until_it_is_given_back_or_ends(budgets, clock):
    first = budgets.reserve("k", {"minute": 100}, 100, 60.0)
    held = budgets.reserve("k", {"minute": 100}, 1, 60.0)
    assert isinstance(held, BudgetState)
    assert held.seconds <= 1  # it may be given back at any moment
    budgets.settle(first, 30)
    again = budgets.reserve("k", {"minute": 100}, 1, 60.0)
    assert again.budgets[0].left == 70
    assert isinstance(budgets.reserve("k", {"minute": 100}, 100, 1.0), Reservation)
    clock.pass_by(60)  # what nobody gives back ends by itself
    assert budgets.reserve("k", {"minute": 100}, 1, 60.0).budgets[0].left == 100


def test_of_many_requests_at_once_no_more_get_in_than_the_budget_and_one_and_every_token_is_counted(any_log):
    asked = []
    at_once(*[lambda: asked.append(any_log.budgets.reserve("k", {"day": 1000}, 90, 60.0))] * 30)
    let_in = [each for each in asked if isinstance(each, Reservation)]
    assert 1000 <= 90 * len(let_in) < 1000 + 90
    at_once(*(partial(any_log.budgets.settle, each, 10) for each in let_in))
    assert any_log.budgets.reserve("k", {"day": 1000}, 1, 60.0).budgets[0].used == 10 * len(let_in)


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


@pytest.mark.parametrize(
    ("epoch", "seconds", "left"),
    [
        (-3600, 0, 60.0),  # a clock that is set moves no minute
        (3600, 0, 60.0),
        (0, -3600, None),  # a shared clock that is set back makes none longer
        (-1, -1, 60.0),  # and one that is a little behind counts in the same
    ],
)
def test_a_minute_is_measured_by_its_own_clock(budgets, clock, epoch, seconds, left):
    use(budgets, 10, minute=10)
    clock.now = replace(clock.now, epoch=clock.now.epoch + epoch, seconds=clock.now.seconds + seconds)
    refused = use(budgets, 10, minute=10)
    assert (refused and refused.seconds) == left


def test_what_a_killed_process_had_set_aside_is_given_back(log_url):
    code = (
        "import os, sys; from llmops.production_log import ProductionLog;"
        "ProductionLog(sys.argv[1]).budgets.reserve('k', {'day': 100}, 100, 3600.0); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, log_url], check=False)
    log = ProductionLog(log_url)
    assert isinstance(log.budgets.reserve("k", {"day": 100}, 1, 60.0), Reservation)
    log.close()
