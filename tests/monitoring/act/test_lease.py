"""The lease: one holder at a time, and another when it ends."""

from __future__ import annotations

import threading

import sqlalchemy as sa

from llmops.production_log import open_engine
from monitoring.act.action_tables import monitor_leases
from monitoring.act.lease import Lease


def test_one_holds_it_until_it_is_given_back(log_url: str) -> None:
    engine = open_engine(log_url)
    first, second = Lease(engine, "daemon", "first", 30), Lease(engine, "daemon", "second", 30)

    assert first.take()
    assert first.take()
    assert not second.take()
    assert second.held_by() == "first"

    second.give_back()  # it has none
    assert second.held_by() == "first"
    first.give_back()
    assert second.held_by() is None
    assert second.take()
    engine.dispose()


def test_another_takes_over_when_it_ends(log_url: str) -> None:
    engine = open_engine(log_url)
    assert Lease(engine, "daemon", "dead", 30).take()
    other = Lease(engine, "daemon", "other", 30)
    assert not other.take()
    with engine.begin() as connection:  # as it looks half a minute later
        connection.execute(sa.update(monitor_leases).values(until=monitor_leases.c.until - 30))

    assert other.take()
    engine.dispose()


def test_of_many_that_take_it_at_once_one_gets_it(log_url: str) -> None:
    engine = open_engine(log_url)
    leases = [Lease(engine, "daemon", str(number), 30) for number in range(6)]
    taken: list[str] = []
    start = threading.Barrier(6)

    def take(lease: Lease) -> None:
        start.wait()
        if lease.take():
            taken.append(lease.holder)

    threads = [threading.Thread(target=take, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    engine.dispose()
