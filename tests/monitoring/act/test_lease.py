"""The lease: one holder at a time, and another when it ends."""

import pytest
import sqlalchemy as sa

from monitoring.act.action_tables import Lease, monitor_leases, was_noted
from tests.monitoring.acting import threads_at_once


def test_one_holds_it_until_it_is_given_back(engine):
    first, second = (Lease(engine, "daemon", holder, 30) for holder in ("first", "second"))
    assert [first.take(), first.take(), second.take()] == [True, True, False]
    second.give_back()  # it has none
    assert not second.take()
    first.give_back()
    assert second.take()


@pytest.mark.parametrize("ends_in", [-30, 3600], ids=["half a minute later", "an hour ahead, for the clock went back"])
def test_another_takes_over_when_it_ends_or_was_taken_by_a_clock_that_was_ahead(engine, ends_in):
    dead, other = (Lease(engine, "daemon", holder, 30) for holder in ("dead", "other"))
    assert dead.take()
    assert not other.take()
    with engine.begin() as connection:
        connection.execute(sa.update(monitor_leases).values(until=monitor_leases.c.until + ends_in))
    assert other.take()
    assert not dead.take(), "whoever lives notices that it holds the lease no more"


def test_of_many_that_take_it_at_once_one_gets_it(engine):
    taken = []
    leases = [Lease(engine, "daemon", str(number), 30) for number in range(6)]
    threads_at_once(*(lambda lease=lease: taken.append(lease.take()) for lease in leases))
    assert sorted(taken) == [False] * 5 + [True]


def test_clocks_of_two_machines_may_differ_a_little():
    assert was_noted(1000.0, 990.0)
    assert not was_noted(90_000.0, 1000.0)
