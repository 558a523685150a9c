from datetime import timedelta

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.errors import CannotRun, StoreUnavailable
from llmops.production_log import Feedback, ProductionLog
from monitoring.store.database import hourly_summaries, open_database
from monitoring.store.hourly import MOST_VALUES
from monitoring.store.ingest import ingest
from monitoring.store.ingest_feedback import ingest_feedback
from monitoring.store.rows import HOUR
from monitoring.store.summaries import OTHER, NumberSummary, Summary
from monitoring.store.windows import WindowReader
from tests.monitoring.conftest import slow_on_postgresql
from tests.monitoring.described import APP, START, STEP, cheap_set, record, records, rows_in

SLICES = ("release", "user")
ROWS = 700
SPAN = int(ROWS * STEP / timedelta(seconds=1))
SET = cheap_set()


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A log of 700 described rows, not in the order of their times, over some eight hours; every ninth has feedback."""
    url = f"sqlite:///{tmp_path_factory.mktemp('windows')}/log.db"
    log, engine = ProductionLog(url), open_database(url)
    order = np.random.default_rng(3).permutation(ROWS).tolist()
    log.append(records(order[:400]))
    ingest(log, engine, SET, slices=SLICES)
    log.append(records(order[400:]))
    ingest(log, engine, SET, slices=SLICES)
    for number in range(0, ROWS, 9):
        rated, score = record(number), float(number % 2)
        log.add_feedback(Feedback(rated.request_id, rated.key, "anonymous", APP, rated.release, score=score))
    ingest_feedback(log, engine, SET, slices=SLICES)
    engine.dispose()
    log.close()
    return url


@pytest.fixture(scope="module")
def reader(url):
    engine = open_database(url)
    yield WindowReader(engine, SET)
    engine.dispose()


def scanned(reader, since, until, chosen=lambda rows, place: True):
    """The summary by going through all rows, with the feedback on them."""
    rows = rows_in(reader, APP, since, until)
    rows = rows.select(np.array([chosen(rows, place) for place in range(len(rows))], dtype=bool))
    numbers = [int(request_id[1:]) for request_id in rows.request_ids]
    scores = [float(number % 2) for number in numbers if number % 9 == 0]
    feedback = Summary(numbers={"feedback.score": NumberSummary.of(scores)} if scores else {})
    return Summary.merged([Summary.of(rows, SET), feedback])


WINDOWS = st.tuples(*[st.integers(-HOUR, SPAN + HOUR) | st.integers(-1, 9).map(lambda hour: hour * HOUR)] * 2)


@settings(max_examples=25)
@given(WINDOWS, st.sampled_from(["release", "user", "route"]))
def test_a_window_equals_the_scan_of_its_rows(reader, bounds, dimension):
    since, until = (START + timedelta(seconds=bound) for bound in sorted(bounds))
    whole = reader.whole(APP, since, until)
    if whole.rows:
        assert whole == scanned(reader, since, until)
    by_value = reader.by_value(APP, since, until, dimension)  # hours are not summarised by route
    assert sum(summary.rows for summary in by_value.values()) == whole.rows
    for value, summary in by_value.items():
        assert summary == scanned(reader, since, until, lambda r, p, v=value: r.dimensions[dimension][p] == v)


@settings(max_examples=15)
@given(WINDOWS)
def test_hours_are_cut_at_the_ends_of_the_window(reader, bounds):
    since, until = (START + timedelta(seconds=bound) for bound in sorted(bounds))
    hours = reader.hours(APP, since, until)
    assert [hour for hour, _ in hours] == sorted({hour for hour, _ in hours})
    for hour, summary in hours:
        start, end = max(hour, since), min(hour + timedelta(seconds=HOUR), until)
        assert summary == scanned(reader, start, end)
    assert sum(summary.rows for _, summary in hours) == reader.whole(APP, since, until).rows


def test_rows_are_read_oldest_first_and_chosen(reader):
    rows = rows_in(reader, APP, START, START + 100 * STEP, columns=["latency_ms"], where={"user": "user1"})
    assert list(rows.request_ids) == [f"r{number}" for number in range(1, 100, 4)]
    assert list(rows.columns) == ["latency_ms"]
    assert len(rows_in(reader, APP, START, None, where={"user": None})) == 0
    assert sum(len(part) for part in reader.parts(APP, None, None)) == ROWS


@slow_on_postgresql
def test_values_beyond_the_most_frequent_are_counted_over_a_window_too(engine, describe):
    describe(record(number, user=f"u{number // 2}") for number in range(2 * MOST_VALUES + 100))
    found = WindowReader(engine, SET).by_value(APP, None, None, "user")
    assert len(found) == MOST_VALUES + 1
    assert found[OTHER].rows == 100
    assert sum(summary.rows for summary in found.values()) == 2 * MOST_VALUES + 100


def test_a_log_that_was_never_described_is_told_apart_from_an_empty_one(engine):
    with pytest.raises(CannotRun, match="not described"):
        WindowReader(engine, SET).whole(APP, None, None)


def test_a_damaged_summary_is_named(engine, describe):
    describe(records(range(5)))
    with engine.begin() as connection:
        connection.execute(sa.update(hourly_summaries).values(data=b"\x01\x02"))
    with pytest.raises(StoreUnavailable, match="hour 2026-01-01T00:00:00"):
        WindowReader(engine, SET).whole(APP, None, None)
