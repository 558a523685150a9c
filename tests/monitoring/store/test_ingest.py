from __future__ import annotations

import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from llmops.errors import CannotRun, StoreUnavailable
from llmops.production_log import ProductionLog
from monitoring.descriptors.descriptor_set import DescriptorSet
from monitoring.store.database import apps_in_log, open_database, writing
from monitoring.store.hourly import MOST_VALUES
from monitoring.store.ingest import ingest, rebuild_hours
from monitoring.store.rows import DescribedRows
from monitoring.store.segments import rewrite_without
from monitoring.store.summaries import OTHER, Summary
from monitoring.store.windows import WindowReader
from tests.monitoring.described import APP, START, cheap_set, declare, record, records

SLICES = ("release", "user", "language")


def everything(engine, descriptors, **given):
    return WindowReader(engine, descriptors).rows(APP, None, None, **given)


def assert_complete(engine, descriptors, count):
    """Every row is there once, and the summaries say the same as the rows."""
    reader = WindowReader(engine, descriptors)
    rows = reader.rows(APP, None, None)
    assert sorted(rows.keys) == [record(number).key for number in range(count)]
    assert reader.summary(APP, None, None)[None] == Summary.of(rows, descriptors)
    for dimension in SLICES:
        values = {value for value in rows.dimensions[dimension] if value}
        by_value = {
            value: Summary.of(rows.select(rows.dimensions[dimension] == value), descriptors) for value in values
        }
        assert reader.summary(APP, None, None, dimension) == by_value


def test_rows_are_described_once_and_kept(any_log, engine):
    calls: list[int] = []
    descriptors = cheap_set(calls=calls)
    any_log.append(records(range(30)))
    assert ingest(any_log, engine, descriptors, slices=SLICES).rows == 30
    any_log.append(records(range(30, 50)))
    assert ingest(any_log, engine, descriptors, slices=SLICES).rows == 20
    assert ingest(any_log, engine, descriptors, slices=SLICES).rows == 0
    assert calls == [30, 20]
    assert_complete(engine, descriptors, 50)
    rows = everything(engine, descriptors)
    assert rows.columns["output.length"].tolist() == [len(record(number).output) for number in range(50)]
    assert rows.dimensions["release"].tolist() == [record(number).release for number in range(50)]
    assert rows.dimensions["language"].tolist() == ["en", "de", "fr"] * 16 + ["en", "de"]
    assert set(rows.dimensions["arm"]) == {"champion"}


def test_batches_and_segments_change_nothing(any_log, engine):
    descriptors = cheap_set()
    any_log.append(records(range(5000)))
    seen = []
    assert ingest(any_log, engine, descriptors, slices=SLICES, progress=lambda *at: seen.append(at)).rows == 5000
    assert seen == [(done, 5000) for done in (1000, 2000, 3000, 4000, 5000)]
    assert_complete(engine, descriptors, 5000)


def test_rows_of_raw_models_are_passed_over_and_apps_kept_apart(any_log, engine):
    descriptors = cheap_set()
    any_log.append([*records(range(4)), record(4, release=None), record(5, release="other@1")])
    assert ingest(any_log, engine, descriptors).rows == 5
    assert len(everything(engine, descriptors)) == 4
    assert WindowReader(engine, descriptors).summary("other", None, None)[None].rows == 1


def test_ingest_can_stop_at_a_cursor(any_log, engine):
    any_log.append(records(range(10)))
    end = any_log.records_end()
    any_log.append(records(range(10, 20)))
    assert ingest(any_log, engine, cheap_set(), until_cursor=end).rows == 10
    assert ingest(any_log, engine, cheap_set()).rows == 10


def test_hostile_rows_stop_nothing_and_failures_are_counted(any_log, engine):
    def fussy(texts):
        return [1 / (len(text) % 2) for text in texts]

    descriptors = DescriptorSet([declare("input.fussy", "numeric", "input", fussy)])
    hostile = ["\0", "x" * 1_000_000, '{"a": ', "", "\ud800"]
    rows = [record(number, input=text, details={"arm": ["?"], "shadow_of": 3}) for number, text in enumerate(hostile)]
    any_log.append([*rows, record(5, user="u\0" * 256, input="odd")])
    found = ingest(any_log, engine, descriptors, slices=SLICES)
    assert (found.rows, found.failures) == (6, {"input.fussy": 3})
    reader = WindowReader(engine, descriptors)
    failures = reader.failures(APP, None, None)["input.fussy"]
    assert failures.rows == 3
    assert "ZeroDivisionError" in failures.reason
    assert reader.failures("another", None, None) == {}
    assert reader.summary(APP, None, None)[None].numbers["input.fussy"].n == 3
    assert len(reader.summary(APP, None, None, "user")) == 5


def test_shadow_rows_stay_out_of_every_window_but_their_own(any_log, engine):
    descriptors = cheap_set()
    shadows = records(range(10, 15), outcome="shadow", release=f"{APP}@9", details={"arm": "shadow", "shadow_of": "r1"})
    any_log.append([*records(range(10)), *shadows])
    ingest(any_log, engine, descriptors, slices=SLICES)
    reader = WindowReader(engine, descriptors)
    assert reader.summary(APP, None, None)[None].rows == 10
    assert set(reader.summary(APP, None, None, "release")) == {f"{APP}@1", f"{APP}@2"}
    variants = reader.summary(APP, None, None, "arm")
    assert {arm: summary.rows for arm, summary in variants.items()} == {"champion": 10, "shadow": 5}
    assert variants["shadow"].numbers["output.length"].n == 5
    assert reader.summary(APP, None, None, "shadow_release")[f"{APP}@9"].rows == 5
    assert len(reader.rows(APP, None, None)) == 10
    assert len(reader.rows(APP, None, None, shadow=True)) == 15
    unseen = reader.rows(APP, None, None, where={"arm": "shadow"})
    assert set(unseen.dimensions["shadow_of"]) == {"r1"}


def test_only_changed_descriptors_are_computed_anew(any_log, engine):
    calls: list[int] = []
    any_log.append(records(range(20)))
    ingest(any_log, engine, cheap_set(calls=calls), slices=SLICES)
    ingest(any_log, engine, cheap_set(calls=calls), slices=("release",))
    assert calls == [20]  # other slices, no other values
    changed = cheap_set(calls=calls, output_version="2")
    ingest(any_log, engine, changed, slices=SLICES)
    assert calls == [20, 20]
    assert_complete(engine, changed, 20)


def test_what_older_versions_left_is_deleted_when_the_new_one_has_caught_up(any_log, engine):
    any_log.append(records(range(1500)))
    ingest(any_log, engine, cheap_set())
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE descriptor_values (key TEXT)"))  # of an older release
    changed = cheap_set(output_version="2")
    ingest(any_log, engine, changed, until_cursor=1000)
    ingest(any_log, engine, changed)
    with pytest.raises(CannotRun, match="not described"):
        everything(engine, cheap_set())
    with engine.connect() as connection:
        for table in ("descriptor_segments", "hourly_summaries", "ingest_cursors"):
            versions = connection.execute(sa.select(sa.column("version")).select_from(sa.table(table))).scalars()
            assert len(set(versions)) == 1
    assert not sa.inspect(engine).has_table("descriptor_values")
    assert_complete(engine, changed, 1500)


def test_values_of_deleted_texts_are_taken_over_and_never_computed_anew(any_log, engine):
    any_log.append(records(range(10)))
    ingest(any_log, engine, cheap_set(), slices=SLICES)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE log_records SET input = '', output = '', text_deleted_at = 1 WHERE seq < 6"))
    changed = cheap_set(output_version="2")
    ingest(any_log, engine, changed, slices=SLICES)
    rows = everything(engine, changed)
    assert rows.columns["input.length"].tolist() == [len(record(number).input) for number in range(10)]
    lengths = rows.columns["output.length"]
    assert np.isnan(lengths[:5]).all()
    assert lengths[5:].tolist() == [len(record(number).output) for number in range(5, 10)]


def test_two_ingests_at_once_lose_and_repeat_nothing(any_log, engine):
    any_log.append(records(range(1500)))
    errors, done = [], []

    def work(first):
        try:
            log, own = ProductionLog(any_log.url), open_database(any_log.url)
            for start in range(first, first + 150, 50):
                log.append(records(range(start, start + 50)))
                done.append(ingest(log, own, cheap_set(), slices=SLICES).rows)
            own.dispose()
            log.close()
        except BaseException as error:  # noqa: BLE001  shown by the assertion
            errors.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in (1500, 1650)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    ingest(any_log, engine, cheap_set(), slices=SLICES)
    assert sum(done) == 1800
    assert_complete(engine, cheap_set(), 1800)


KILLED = """
import sys
sys.path.insert(0, {root!r})
from llmops.production_log import ProductionLog
from monitoring.store.database import open_database
from monitoring.store.ingest import ingest
from tests.monitoring.described import cheap_set
url = sys.argv[1]
print("ready", flush=True)
ingest(ProductionLog(url), open_database(url), cheap_set(), slices=("release", "user", "language"),
       progress=lambda *_: print(".", flush=True))
"""


@pytest.mark.slow
def test_an_ingest_killed_at_any_moment_has_done_a_batch_or_has_not(any_log, engine):
    count = 8000
    any_log.append(records(range(count)))
    program = KILLED.format(root=str(Path(__file__).parents[3]))
    cut_short = 0
    for batches, delay in ((1, 0.0), (2, 0.02), (1, 0.05)):
        with subprocess.Popen([sys.executable, "-c", program, any_log.url], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(1 + batches):
                process.stdout.readline()
            threading.Event().wait(delay)
            process.send_signal(signal.SIGKILL)
        cut_short += process.returncode == -signal.SIGKILL
        described = len(everything(engine, cheap_set()))
        assert described % 1000 == 0
        assert_complete(engine, cheap_set(), described)
    assert cut_short >= 2
    ingest(any_log, engine, cheap_set(), slices=SLICES)
    assert_complete(engine, cheap_set(), count)


def test_values_beyond_the_most_frequent_are_counted_together(any_log, engine):
    users = MOST_VALUES + 50
    any_log.append([record(number, at=START, user=f"u{number % users}") for number in range(2 * users)])
    ingest(any_log, engine, cheap_set(), slices=SLICES)
    with engine.connect() as connection:
        query = "SELECT value, rows FROM hourly_summaries WHERE dimension = 'user'"
        stored = dict(connection.execute(sa.text(query)).all())
    assert len(stored) == MOST_VALUES + 1
    assert stored[OTHER] == 100
    found = WindowReader(engine, cheap_set()).summary(APP, None, None, "user")
    assert sum(summary.rows for summary in found.values()) == 2 * users


def test_forgotten_rows_are_in_no_summary_any_more(any_log, engine):
    any_log.append(records(range(100)))
    ingest(any_log, engine, cheap_set(), slices=SLICES)
    with writing(engine) as connection:
        connection.execute(sa.text("DELETE FROM log_records WHERE \"user\" = 'user3'"))
        hours = rewrite_without(connection, APP, [record(number).key for number in range(3, 100, 4)])
        rebuild_hours(connection, APP, hours)
    reader = WindowReader(engine, cheap_set())
    rows = reader.rows(APP, None, None)
    assert len(rows) == 75
    assert reader.summary(APP, None, None)[None] == Summary.of(rows, cheap_set())
    assert set(reader.summary(APP, None, None, "user")) == {"user0", "user1", "user2"}


def test_rows_deleted_while_they_are_being_described_do_not_come_back(any_log, engine):
    any_log.append(records(range(20)))
    forgotten = [record(number).key for number in range(5)]
    calls = []

    def forgetting(texts):
        calls.append(len(texts))
        if len(calls) == 1:
            with writing(engine) as connection:
                connection.execute(sa.text("DELETE FROM log_records WHERE seq <= 5"))
                rebuild_hours(connection, APP, rewrite_without(connection, APP, forgotten))
        return [1] * len(texts)

    descriptors = DescriptorSet([declare("input.one", "numeric", "input", forgetting)])
    assert ingest(any_log, engine, descriptors, slices=SLICES).rows == 15
    assert calls == [20, 15]
    rows = everything(engine, descriptors)
    assert set(rows.keys).isdisjoint(forgotten)


def test_a_database_that_is_gone_is_a_plain_error(any_log, engine):
    any_log.append(records(range(2)))
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE ingest_cursors"))
    with pytest.raises(StoreUnavailable, match="ingest_cursors"):
        ingest(any_log, engine, cheap_set())
    with pytest.raises(StoreUnavailable):
        open_database("postgresql+psycopg://nobody@127.0.0.1:1/none")


def test_an_empty_log_is_described_at_once(any_log, engine):
    assert ingest(any_log, engine, cheap_set()).rows == 0
    assert isinstance(everything(engine, cheap_set()), DescribedRows)
    assert WindowReader(engine, cheap_set()).summary(APP, None, None) == {None: Summary()}


def test_predictions_of_tabular_models_are_no_texts_and_are_passed_over(any_log, engine):
    calls: list[int] = []
    descriptors = cheap_set(calls=calls)
    any_log.append([replace(record(number), route="predict" if number % 2 else "chat") for number in range(7)])
    assert ingest(any_log, engine, descriptors, slices=SLICES).rows == 4
    assert everything(engine, descriptors).keys == [record(number).key for number in (0, 2, 4, 6)]
    any_log.append([replace(record(9), release="bike@1", model="bike@1", route="predict")])
    assert ingest(any_log, engine, descriptors, slices=SLICES).rows == 0
    assert (calls, WindowReader(engine, descriptors).rows("bike", None, None).keys) == ([4], [])
    assert apps_in_log(engine) == [APP]
