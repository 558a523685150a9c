from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import sqlalchemy as sa

from llmops.errors import StoreUnavailable
from monitoring import descriptor_store
from monitoring.database import apps_in_log, open_database
from monitoring.descriptor_store import DescriptorStore

START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def engine(settings, log):
    engine = open_database(settings.resolved_log_url)
    yield engine
    engine.dispose()


@pytest.fixture
def described(monkeypatch):
    """Counts the records that are really described."""
    seen = []

    def counting(records):
        seen.extend(record.request_id for record in records)
        return describe(records)

    describe = descriptor_store.describe
    monkeypatch.setattr(descriptor_store, "describe", counting)
    return seen


def test_each_record_is_described_once(engine, log, make_records, described):
    store = DescriptorStore(engine)
    log.append(make_records(10))
    assert store.compute_missing(log, app="assistant") == 10
    assert store.compute_missing(log, app="assistant") == 0
    log.append(make_records(3, first=10))
    assert store.compute_missing(log, app="assistant") == 3
    assert described == [f"r{number}" for number in range(13)]


def test_a_new_version_describes_again_and_keeps_the_old_values(engine, log, make_records):
    log.append(make_records(4))
    old, new = DescriptorStore(engine, version="old"), DescriptorStore(engine, version="new")
    assert (old.compute_missing(log, app="assistant"), new.compute_missing(log, app="assistant")) == (4, 4)
    assert (old.count(app="assistant"), new.count(app="assistant")) == (4, 4)


def test_only_the_apps_window_is_described_in_batches_with_progress(engine, log, make_records):
    log.append([*make_records(10), *make_records(5, first=10, release="other@1")])
    store, steps = DescriptorStore(engine), []
    computed = store.compute_missing(
        log, app="assistant", since=START + 2 * MINUTE, until=START + 9 * MINUTE, batch=3,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert computed == 7
    assert steps == [(3, 7), (6, 7), (7, 7)]
    assert apps_in_log(engine) == ["assistant", "other"]


def test_a_stopped_run_goes_on_where_it_was(engine, log, make_records, described):
    store = DescriptorStore(engine)
    log.append(make_records(6))
    store.compute_missing(log, app="assistant", until=START + 2 * MINUTE)
    store.compute_missing(log, app="assistant", batch=4)
    assert sorted(described) == [f"r{number}" for number in range(6)]


def test_rows_described_by_another_monitor_meanwhile_are_left_as_they_are(engine, log, make_records, monkeypatch):
    store, known = DescriptorStore(engine), DescriptorStore._known
    log.append(make_records(4))
    store.compute_missing(log, app="assistant", until=START + 2 * MINUTE)
    blind = iter([set()])
    monkeypatch.setattr(DescriptorStore, "_known", lambda self, keys: next(blind, None) or known(self, keys))
    monkeypatch.setattr(DescriptorStore, "_insert", _unseen_then_insert(DescriptorStore._insert, engine))
    assert store.compute_missing(log, app="assistant") >= 2
    assert store.count(app="assistant") == 4


def _unseen_then_insert(insert, engine):
    """Before each insert, another monitor stores the first row."""

    def both(self, rows):
        insert(self, rows[:1])
        insert(self, rows)

    return both


def test_values_read_back_as_columns(engine, log, make_records):
    store = DescriptorStore(engine)
    log.append(make_records(5, refusals=1.0))
    store.compute_missing(log, app="assistant")
    rows = store.read(app="assistant", since=START + MINUTE)
    assert list(rows.request_ids) == ["r1", "r2", "r3", "r4"]
    assert rows.columns["output.refusal"].tolist() == [1.0] * 4
    assert rows.columns["output.language"].tolist() == ["en"] * 4
    assert rows.columns["input.length"].dtype == np.float32
    assert set(rows.releases) == {"assistant@1"}
    assert list(rows.select(np.array([2, 0])).request_ids) == ["r3", "r1"]
    assert len(store.read(app="nobody")) == 0


def test_an_unreachable_database_is_a_plain_error(settings, log, engine):
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE descriptor_values"))
    with pytest.raises(StoreUnavailable, match="descriptor_values"):
        DescriptorStore(engine).count(app="assistant")
    with pytest.raises(StoreUnavailable):
        open_database("postgresql+psycopg://nobody@127.0.0.1:1/none")
