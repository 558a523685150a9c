import signal
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from llmops.errors import CannotRun, StoreUnavailable
from llmops.production_log import Feedback, ProductionLog
from monitoring.descriptors.descriptor_set import DescriptorSet
from monitoring.store.database import apps_in_log, open_database, writing
from monitoring.store.hourly import MOST_VALUES
from monitoring.store.ingest import ingest, rebuild_hours
from monitoring.store.ingest_feedback import ingest_feedback
from monitoring.store.rows import DescribedRows
from monitoring.store.segments import rewrite_without
from monitoring.store.summaries import OTHER, Summary
from monitoring.store.windows import WindowReader
from tests.at_once import at_once
from tests.monitoring.conftest import slow_on_postgresql
from tests.monitoring.described import APP, START, cheap_set, declare, record, records, rows_in

SLICES = ("release", "user", "language")
SET = cheap_set()


def everything(engine, descriptors=SET, **given):
    return rows_in(WindowReader(engine, descriptors), APP, None, None, **given)


def whole(engine, descriptors=SET):
    return WindowReader(engine, descriptors).whole(APP, None, None)


def assert_complete(engine, descriptors, count):
    """Every row is there once, and the summaries say the same as the rows."""
    rows = everything(engine, descriptors)
    assert sorted(rows.keys) == [record(number).key for number in range(count)]
    assert whole(engine, descriptors) == Summary.of(rows, descriptors)
    for dimension in SLICES:
        values = {value for value in rows.dimensions[dimension] if value}
        by_value = {
            value: Summary.of(rows.select(rows.dimensions[dimension] == value), descriptors) for value in values
        }
        assert WindowReader(engine, descriptors).by_value(APP, None, None, dimension) == by_value


def opinion(number, **given):
    rated = record(number)
    values = {"app": APP, "release": rated.release, "caller": "anonymous", **given}
    return Feedback(rated.request_id, rated.key, **values)


def test_rows_are_described_once_and_kept(any_log, engine):
    calls: list[int] = []
    descriptors = cheap_set(calls=calls)
    assert ingest(any_log, engine, descriptors) == 0
    assert isinstance(everything(engine, descriptors), DescribedRows)
    assert WindowReader(engine, descriptors).whole(APP, None, None) == Summary()
    any_log.append(records(range(30)))
    assert ingest(any_log, engine, descriptors, slices=SLICES) == 30
    any_log.append(records(range(30, 50)))
    assert ingest(any_log, engine, descriptors, slices=SLICES) == 20
    assert ingest(any_log, engine, descriptors, slices=SLICES) == 0
    assert calls == [30, 20]
    assert_complete(engine, descriptors, 50)
    rows = everything(engine, descriptors)
    assert rows.columns["output.length"].tolist() == [len(record(number).output) for number in range(50)]
    assert rows.dimensions["release"].tolist() == [record(number).release for number in range(50)]
    assert rows.dimensions["language"].tolist() == ["en", "de", "fr"] * 16 + ["en", "de"]
    assert set(rows.dimensions["arm"]) == {"champion"}


@slow_on_postgresql
def test_batches_and_segments_change_nothing(any_log, engine):
    any_log.append(records(range(5000)))
    seen = []
    assert ingest(any_log, engine, SET, slices=SLICES, progress=lambda *at: seen.append(at)) == 5000
    assert seen == [(done, 5000) for done in (1000, 2000, 3000, 4000, 5000)]
    assert_complete(engine, SET, 5000)


def test_raw_models_and_predictions_are_passed_over_and_apps_kept_apart(any_log, engine):
    calls: list[int] = []
    descriptors = cheap_set(calls=calls)
    predicted = [replace(record(number), route="predict") for number in (0, 1)]
    any_log.append([*records(range(2, 6)), record(6, release=None), record(7, release="other@1"), *predicted])
    assert ingest(any_log, engine, descriptors) == 5
    assert everything(engine, descriptors).keys == [record(number).key for number in range(2, 6)]
    assert WindowReader(engine, descriptors).whole("other", None, None).rows == 1
    any_log.append([replace(record(9), release="bike@1", model="bike@1", route="predict")])
    assert ingest(any_log, engine, descriptors) == 0
    assert (calls, rows_in(WindowReader(engine, descriptors), "bike", None, None).keys) == ([4, 1], [])
    assert apps_in_log(engine) == [APP, "other"]


@slow_on_postgresql
def test_hostile_rows_stop_nothing_and_failures_are_counted(any_log, engine):
    def fussy(texts):
        return [1 / (len(text) % 2) for text in texts]

    descriptors = DescriptorSet([declare("input.fussy", "numeric", "input", fussy)])
    hostile = ["\0", "x" * 1_000_000, '{"a": ', "", "\ud800"]
    rows = [record(number, input=text, details={"arm": ["?"], "shadow_of": 3}) for number, text in enumerate(hostile)]
    any_log.append([*rows, record(5, user="u\0" * 256, input="odd")])
    assert ingest(any_log, engine, descriptors, slices=SLICES) == 6
    reader = WindowReader(engine, descriptors)
    assert (reader.failures(APP, None, None), reader.failures("another", None, None)) == ({"input.fussy": 3}, {})
    with engine.connect() as connection:
        assert "ZeroDivisionError" in connection.execute(sa.text("SELECT reason FROM ingest_failures")).scalar_one()
    assert reader.whole(APP, None, None).numbers["input.fussy"].n == 3
    assert len(reader.by_value(APP, None, None, "user")) == 5


@slow_on_postgresql
def test_shadow_rows_stay_out_of_every_window_but_their_own(any_log, engine):
    shadows = records(range(10, 15), outcome="shadow", release=f"{APP}@9", details={"arm": "shadow", "shadow_of": "r1"})
    any_log.append([*records(range(10)), *shadows])
    ingest(any_log, engine, SET, slices=SLICES)
    reader = WindowReader(engine, SET)
    assert whole(engine).rows == 10
    assert set(reader.by_value(APP, None, None, "release")) == {f"{APP}@1", f"{APP}@2"}
    variants = reader.by_value(APP, None, None, "arm")
    assert {arm: summary.rows for arm, summary in variants.items()} == {"champion": 10, "shadow": 5}
    assert variants["shadow"].numbers["output.length"].n == 5
    assert reader.by_value(APP, None, None, "shadow_release")[f"{APP}@9"].rows == 5
    assert (len(everything(engine)), len(everything(engine, shadow=True))) == (10, 15)
    assert set(everything(engine, where={"arm": "shadow"}).dimensions["shadow_of"]) == {"r1"}


@slow_on_postgresql
def test_only_changed_descriptors_are_computed_anew_and_values_of_deleted_texts_are_taken_over(any_log, engine):
    calls: list[int] = []
    any_log.append(records(range(20)))
    ingest(any_log, engine, cheap_set(calls=calls), slices=SLICES)
    ingest(any_log, engine, cheap_set(calls=calls), slices=("release",))
    assert calls == [20], "other slices, no other values"
    ingest(any_log, engine, cheap_set(calls=calls, output_version="2"), slices=SLICES)
    assert calls == [20, 20]
    assert_complete(engine, cheap_set(output_version="2"), 20)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE log_records SET input = '', output = '', text_deleted_at = 1 WHERE seq < 6"))
    changed = cheap_set(output_version="3")
    ingest(any_log, engine, changed, slices=SLICES)
    rows = everything(engine, changed)
    assert rows.columns["input.length"].tolist() == [len(record(number).input) for number in range(20)]
    lengths = rows.columns["output.length"]
    assert np.isnan(lengths[:5]).all()
    assert lengths[5:].tolist() == [len(record(number).output) for number in range(5, 20)]


@slow_on_postgresql
def test_what_older_versions_left_is_deleted_when_the_new_one_has_caught_up(any_log, engine):
    any_log.append(records(range(1500)))
    ingest(any_log, engine, SET)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE descriptor_values (key TEXT)"))  # of an older release
    changed = cheap_set(output_version="2")
    ingest(any_log, engine, changed)
    with pytest.raises(CannotRun, match="not described"):
        everything(engine)
    with engine.connect() as connection:
        for table in ("descriptor_segments", "hourly_summaries", "ingest_cursors"):
            versions = connection.execute(sa.select(sa.column("version")).select_from(sa.table(table))).scalars()
            assert len(set(versions)) == 1
    assert not sa.inspect(engine).has_table("descriptor_values")
    assert_complete(engine, changed, 1500)


def test_two_ingests_at_once_lose_and_repeat_nothing(any_log, engine):
    any_log.append(records(range(1500)))
    done = []

    def work(first):
        log, own = ProductionLog(any_log.url), open_database(any_log.url)
        for start in range(first, first + 150, 50):
            log.append(records(range(start, start + 50)))
            done.append(ingest(log, own, SET, slices=SLICES))
        own.dispose()
        log.close()

    at_once(lambda: work(1500), lambda: work(1650))
    ingest(any_log, engine, SET, slices=SLICES)
    assert (len(done), sum(done)) == (6, 1800)
    assert_complete(engine, SET, 1800)


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
            for _ in range(1 + batches):
                process.stdout.readline()
            threading.Event().wait(delay)
            process.send_signal(signal.SIGKILL)
        cut_short += process.returncode == -signal.SIGKILL
        described = len(everything(engine))
        assert described % 1000 == 0
        assert_complete(engine, SET, described)
    assert cut_short >= 2
    ingest(any_log, engine, SET, slices=SLICES)
    assert_complete(engine, SET, count)


@slow_on_postgresql
def test_values_beyond_the_most_frequent_are_counted_together(any_log, engine):
    users = MOST_VALUES + 50
    any_log.append([record(number, at=START, user=f"u{number % users}") for number in range(2 * users)])
    ingest(any_log, engine, SET, slices=SLICES)
    with engine.connect() as connection:
        query = "SELECT value, rows FROM hourly_summaries WHERE dimension = 'user'"
        stored = dict(connection.execute(sa.text(query)).all())
    assert (len(stored), stored[OTHER]) == (MOST_VALUES + 1, 100)
    found = WindowReader(engine, SET).by_value(APP, None, None, "user")
    assert sum(summary.rows for summary in found.values()) == 2 * users


def forget(engine, numbers):
    keys = [record(number).key for number in numbers]
    with writing(engine) as connection:
        log = sa.table("log_records", sa.column("key"))
        connection.execute(sa.delete(log).where(log.c.key.in_(keys)))
        rebuild_hours(connection, APP, rewrite_without(connection, APP, keys))


def test_forgotten_rows_are_in_no_summary_any_more(any_log, engine):
    any_log.append(records(range(100)))
    ingest(any_log, engine, SET, slices=SLICES)
    forget(engine, range(3, 100, 4))
    rows = everything(engine)
    assert len(rows) == 75
    assert whole(engine) == Summary.of(rows, SET)
    assert set(WindowReader(engine, SET).by_value(APP, None, None, "user")) == {"user0", "user1", "user2"}


def test_rows_deleted_while_they_are_being_described_do_not_come_back(any_log, engine):
    any_log.append(records(range(20)))
    calls = []

    def forgetting(texts):
        calls.append(len(texts))
        if len(calls) == 1:
            forget(engine, range(5))
        return [1] * len(texts)

    descriptors = DescriptorSet([declare("input.one", "numeric", "input", forgetting)])
    assert ingest(any_log, engine, descriptors, slices=SLICES) == 15
    assert calls == [20, 15]
    assert everything(engine, descriptors).keys == [record(number).key for number in range(5, 20)]


def test_a_database_that_is_gone_is_a_plain_error(any_log, engine):
    any_log.append(records(range(2)))
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE ingest_cursors"))
    with pytest.raises(StoreUnavailable, match="ingest_cursors"):
        ingest(any_log, engine, SET)
    with pytest.raises(StoreUnavailable):
        open_database("postgresql+psycopg://nobody@127.0.0.1:1/none")


def test_feedback_is_added_once_to_the_hour_and_slices_of_its_answer(any_log, engine):
    any_log.append(records(range(200)))
    ingest(any_log, engine, SET)
    for number, score, label in ((0, 1.0, "good"), (1, 0.0, None), (0, 0.5, "good"), (150, None, "bad")):
        any_log.add_feedback(opinion(number, score=score, label=label))
    assert ingest_feedback(any_log, engine, SET) == 4
    assert ingest_feedback(any_log, engine, SET) == 0
    any_log.add_feedback(opinion(2, label="late", at=START + timedelta(days=30)))
    assert ingest_feedback(any_log, engine, SET) == 1

    found, reader = whole(engine), WindowReader(engine, SET)
    assert found.rows == 200
    assert (found.numbers["feedback.score"].n, found.numbers["feedback.score"].mean) == (3, 0.5)
    assert found.labels["feedback.label"].counts == {"good": 2, "bad": 1, "late": 1}
    by_release = reader.by_value(APP, None, None, "release")
    assert by_release[f"{APP}@1"].labels["feedback.label"].counts == {"good": 2, "bad": 1, "late": 1}
    assert by_release[f"{APP}@2"].numbers["feedback.score"].mean == 0.0
    hours = reader.hours(APP, None, START + timedelta(hours=2))
    assert [each.labels["feedback.label"].counts for _, each in hours] == [{"good": 2, "late": 1}, {"bad": 1}]


def test_feedback_waits_for_its_row(any_log, engine):
    any_log.append(records(range(3)))
    ingest(any_log, engine, SET)
    any_log.append(records(range(3, 6)))
    for number in (1, 4, 2):
        any_log.add_feedback(opinion(number, score=1.0))
    assert ingest_feedback(any_log, engine, SET) == 1
    assert ingest_feedback(any_log, engine, SET) == 0
    ingest(any_log, engine, SET)
    assert ingest_feedback(any_log, engine, SET) == 2


def test_feedback_on_rows_that_are_not_described_is_counted_and_passed_over(any_log, engine):
    any_log.append([*records(range(3)), record(3, release=None)])
    ingest(any_log, engine, SET)
    any_log.add_feedback(opinion(3, app="", score=1.0))
    any_log.add_feedback(Feedback("gone", "f" * 32, "anonymous", APP, score=1.0))
    any_log.add_feedback(opinion(2, score=1.0))
    assert ingest_feedback(any_log, engine, SET) == 1
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT unfit FROM ingest_cursors")).scalar_one() == 2


@slow_on_postgresql
def test_feedback_is_added_again_for_another_version_and_after_rows_were_forgotten(any_log, engine):
    any_log.append(records(range(10)))
    ingest(any_log, engine, SET)
    for number in range(10):
        any_log.add_feedback(opinion(number, score=float(number)))
    ingest_feedback(any_log, engine, SET)
    forget(engine, (8, 9))
    assert whole(engine).numbers["feedback.score"].total == 28
    changed = cheap_set(output_version="2")
    ingest(any_log, engine, changed)
    assert "feedback.score" not in whole(engine, changed).numbers
    assert ingest_feedback(any_log, engine, changed) == 8
    assert whole(engine, changed).numbers["feedback.score"].total == 28


def test_two_at_once_add_no_feedback_twice(any_log, engine):
    any_log.append(records(range(50)))
    ingest(any_log, engine, SET)
    for number in range(50):
        any_log.add_feedback(opinion(number, score=1.0))
    added = []

    def work():
        log, own = ProductionLog(any_log.url), open_database(any_log.url)
        added.append(ingest_feedback(log, own, SET))
        own.dispose()
        log.close()

    at_once(work, work, work)
    assert sum(added) == 50
    assert whole(engine).numbers["feedback.score"].n == 50
