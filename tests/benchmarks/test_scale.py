"""The capacity model: the queue's arithmetic where theory gives it, and a page that shows the kept figures."""

import numpy as np
import pytest

from benchmarks.scale import capacity
from benchmarks.scale.queueing import Worker, poisson, simulate


def test_a_request_alone_takes_the_sum_of_its_visits_and_of_the_database():
    worker = Worker(before=1.0, after=2.0, end=3.0, commit=4.0, record=0.5, wait=6.0, piece=0.1)
    found = simulate(worker, np.array([0.0, 1000.0]), np.array([50.0, 70.0]), pieces=10)
    assert found.added == pytest.approx([16.5, 16.5])
    assert found.ended == pytest.approx(1000 + 70 + 16.5)
    assert found.busy * found.ended == pytest.approx(2 * (10.5 + 10 * 0.1))


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_visit_waits_as_pollaczek_and_khinchine_say(load):
    """Visits of 2 ms at random wait load / (1 - load) ms on average. The other visits come when all is over."""
    arrivals = poisson(load / 0.002, 20_000, seed=1)
    late = arrivals[-1] + 1e6 - arrivals  # so that nothing else is visited meanwhile
    worker = Worker(before=2.0, after=0.0, end=0.0, commit=0.0, record=0.0, wait=0.0)
    waited = simulate(worker, arrivals, late, pieces=0).added - 2.0
    assert np.mean(waited) == pytest.approx(load / (1 - load), rel=0.1)


def test_records_that_wait_together_share_a_transaction():
    worker = Worker(before=0.0, after=0.0, end=0.0, commit=1.0, record=0.0, wait=9.0)
    together = simulate(worker, np.zeros(10), np.zeros(10), pieces=0)
    assert together.added == pytest.approx([10.0] + [20.0] * 9)


def test_the_page_shows_the_figures_that_are_kept():
    page = capacity.PAGE.read_text(encoding="utf-8")
    assert capacity.filled(page, capacity.tables(*capacity.read())) == page, "run `python -m benchmarks scale --write`"


@pytest.mark.slow
def test_more_traffic_needs_more_pods_and_more_rows_more_storage():
    figures, inputs = capacity.read()
    one = capacity.needed(figures, inputs)
    traffic = {**inputs["traffic"], "peak_requests_per_second": 2000, "logged_rows_a_month": 200_000_000}
    two = capacity.needed(figures, {**inputs, "traffic": traffic})
    assert two["gateway pods"] - 1 == pytest.approx(2 * (one["gateway pods"] - 1), abs=1)
    assert two["GB of log in PostgreSQL"] == pytest.approx(2 * one["GB of log in PostgreSQL"])
