import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
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
from tests.monitoring.described import APP, START, cheap_set, declare, record, records, rows_in, selected

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


def take_feedback(log, engine, descriptors=SET):
    return ingest_feedback(log, engine, descriptors, slices=SLICES)


def test_rows_are_described_once_and_kept(engine, describe):
    calls = []
    descriptors = cheap_set(calls=calls)
    assert describe([], descriptors) == 0
    assert isinstance(everything(engine, descriptors), DescribedRows)
    assert whole(engine, descriptors) == Summary()
    for numbers, new in ((range(30), 30), (range(30, 50), 20), ((), 0)):
        assert describe(records(numbers), descriptors) == new
    assert calls == [30, 20]
    assert_complete(engine, descriptors, 50)
    rows = everything(engine, descriptors)
    assert rows.columns["output.length"].tolist() == [len(record(number).output) for number in range(50)]
    assert rows.dimensions["release"].tolist() == [record(number).release for number in range(50)]
    assert rows.dimensions["language"].tolist() == ["en", "de", "fr"] * 16 + ["en", "de"]
    assert set(rows.dimensions["arm"]) == {"champion"}


@slow_on_postgresql
def test_batches_and_segments_change_nothing(engine, describe):
    seen = []
    assert describe(records(range(5000)), progress=lambda *at: seen.append(at)) == 5000
    assert seen == [(done, 5000) for done in (1000, 2000, 3000, 4000, 5000)]
    assert_complete(engine, SET, 5000)


def test_raw_models_and_predictions_are_passed_over_and_apps_kept_apart(engine, describe):
    calls = []
    descriptors = cheap_set(calls=calls)
    made = [*records(range(2, 6)), record(6, release=None), record(7, release="other@1")]
    assert describe([*made, *records((0, 1), route="predict")], descriptors) == 5
    assert everything(engine, descriptors).keys == [record(number).key for number in range(2, 6)]
    assert WindowReader(engine, descriptors).whole("other", None, None).rows == 1
    assert describe([record(9, release="bike@1", model="bike@1", route="predict")], descriptors) == 0
    assert (calls, rows_in(WindowReader(engine, descriptors), "bike", None, None).keys) == ([4, 1], [])
    assert apps_in_log(engine) == [APP, "other"]


@slow_on_postgresql
def test_hostile_rows_stop_nothing_and_failures_are_counted(engine, describe):
    def fussy(texts):
        return [1 / (len(text) % 2) for text in texts]

    descriptors = DescriptorSet([declare("input.fussy", "numeric", "input", fussy)])
    hostile = ["\0", "x" * 1_000_000, '{"a": ', "", "\ud800"]
    rows = [record(number, input=text, details={"arm": ["?"], "shadow_of": 3}) for number, text in enumerate(hostile)]
    assert describe([*rows, record(5, user="u\0" * 256, input="odd")], descriptors) == 6
    reader = WindowReader(engine, descriptors)
    assert (reader.failures(APP, None, None), reader.failures("another", None, None)) == ({"input.fussy": 3}, {})
    (reason,) = selected(engine, "SELECT reason FROM ingest_failures")
    assert "ZeroDivisionError" in reason
    assert reader.whole(APP, None, None).numbers["input.fussy"].n == 3
    assert len(reader.by_value(APP, None, None, "user")) == 5


@slow_on_postgresql
def test_shadow_rows_stay_out_of_every_window_but_their_own(engine, describe):
    shadows = records(range(10, 15), outcome="shadow", release=f"{APP}@9", details={"arm": "shadow", "shadow_of": "r1"})
    describe([*records(range(10)), *shadows])
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
def test_only_changed_descriptors_are_computed_anew_and_values_of_deleted_texts_are_taken_over(engine, describe):
    calls = []
    describe(records(range(20)), cheap_set(calls=calls))
    describe([], cheap_set(calls=calls), slices=("release",))
    assert calls == [20], "other slices, no other values"
    describe([], cheap_set(calls=calls, output_version="2"))
    assert calls == [20, 20]
    assert_complete(engine, cheap_set(output_version="2"), 20)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE log_records SET input = '', output = '', text_deleted_at = 1 WHERE seq < 6"))
    changed = cheap_set(output_version="3")
    describe([], changed)
    rows = everything(engine, changed)
    assert rows.columns["input.length"].tolist() == [len(record(number).input) for number in range(20)]
    lengths = rows.columns["output.length"]
    assert np.isnan(lengths[:5]).all()
    assert lengths[5:].tolist() == [len(record(number).output) for number in range(5, 20)]


@slow_on_postgresql
def test_what_older_versions_left_is_deleted_when_the_new_one_has_caught_up(engine, describe):
    describe(records(range(1500)))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE descriptor_values (key TEXT)"))  # of an older release
    changed = cheap_set(output_version="2")
    describe([], changed)
    with pytest.raises(CannotRun, match="not described"):
        everything(engine)
    for table in ("descriptor_segments", "hourly_summaries", "ingest_cursors"):
        assert len(set(selected(engine, sa.select(sa.text("version")).select_from(sa.text(table))))) == 1
    assert not sa.inspect(engine).has_table("descriptor_values")
    assert_complete(engine, changed, 1500)


@contextmanager
def opened_again(url):
    """A log and its database, as another process has them."""
    log, engine = ProductionLog(url), open_database(url)
    yield log, engine
    engine.dispose()
    log.close()


def test_two_ingests_at_once_lose_and_repeat_nothing(any_log, engine, describe):
    any_log.append(records(range(1500)))
    done = []

    def work(first):
        with opened_again(any_log.url) as (log, own):
            for start in range(first, first + 150, 50):
                log.append(records(range(start, start + 50)))
                done.append(ingest(log, own, SET, slices=SLICES))

    at_once(lambda: work(1500), lambda: work(1650))
    describe()
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
def test_an_ingest_killed_at_any_moment_has_done_a_batch_or_has_not(any_log, engine, describe):
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
    describe()
    assert_complete(engine, SET, count)


@slow_on_postgresql
def test_values_beyond_the_most_frequent_are_counted_together(engine, describe):
    users = MOST_VALUES + 50
    describe(record(number, at=START, user=f"u{number % users}") for number in range(2 * users))
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


def test_rows_deleted_while_they_are_being_described_do_not_come_back(engine, describe):
    calls = []

    def forgetting(texts):
        calls.append(len(texts))
        if len(calls) == 1:
            forget(engine, range(5))
        return [1] * len(texts)

    descriptors = DescriptorSet([declare("input.one", "numeric", "input", forgetting)])
    assert describe(records(range(20)), descriptors) == 15
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


def test_feedback_is_added_once_to_the_hour_and_slices_of_its_answer(any_log, engine, describe):
    describe(records(range(200)))
    for number, score, label in ((0, 1.0, "good"), (1, 0.0, None), (0, 0.5, "good"), (150, None, "bad")):
        any_log.add_feedback(opinion(number, score=score, label=label))
    assert [take_feedback(any_log, engine) for _ in range(2)] == [4, 0]
    any_log.add_feedback(opinion(2, label="late", at=START + timedelta(days=30)))
    assert take_feedback(any_log, engine) == 1

    found, reader = whole(engine), WindowReader(engine, SET)
    assert found.rows == 200
    assert (found.numbers["feedback.score"].n, found.numbers["feedback.score"].mean) == (3, 0.5)
    assert found.labels["feedback.label"].counts == {"good": 2, "bad": 1, "late": 1}
    by_release = reader.by_value(APP, None, None, "release")
    assert by_release[f"{APP}@1"].labels["feedback.label"].counts == {"good": 2, "bad": 1, "late": 1}
    assert by_release[f"{APP}@2"].numbers["feedback.score"].mean == 0.0
    hours = reader.hours(APP, None, START + timedelta(hours=2))
    assert [each.labels["feedback.label"].counts for _, each in hours] == [{"good": 2, "late": 1}, {"bad": 1}]


def test_feedback_waits_for_its_row(any_log, engine, describe):
    describe(records(range(3)))
    any_log.append(records(range(3, 6)))
    for number in (1, 4, 2):
        any_log.add_feedback(opinion(number, score=1.0))
    assert [take_feedback(any_log, engine) for _ in range(2)] == [1, 0]
    describe()
    assert take_feedback(any_log, engine) == 2


def test_feedback_on_rows_that_are_not_described_is_counted_and_passed_over(any_log, engine, describe):
    describe([*records(range(3)), record(3, release=None)])
    gone = Feedback("gone", "f" * 32, "anonymous", APP, score=1.0)
    for said in (opinion(3, app="", score=1.0), gone, opinion(2, score=1.0)):
        any_log.add_feedback(said)
    assert take_feedback(any_log, engine) == 1
    assert selected(engine, "SELECT unfit FROM ingest_cursors") == [2]


@slow_on_postgresql
def test_feedback_is_added_again_for_another_version_and_after_rows_were_forgotten(any_log, engine, describe):
    describe(records(range(10)))
    for number in range(10):
        any_log.add_feedback(opinion(number, score=float(number)))
    take_feedback(any_log, engine)
    forget(engine, (8, 9))
    assert whole(engine).numbers["feedback.score"].total == 28
    changed = cheap_set(output_version="2")
    describe([], changed)
    assert "feedback.score" not in whole(engine, changed).numbers
    assert take_feedback(any_log, engine, changed) == 8
    assert whole(engine, changed).numbers["feedback.score"].total == 28


def test_two_at_once_add_no_feedback_twice(any_log, engine, describe):
    describe(records(range(50)))
    for number in range(50):
        any_log.add_feedback(opinion(number, score=1.0))
    added = []

    def work():
        with opened_again(any_log.url) as opened:
            added.append(take_feedback(*opened))

    at_once(work, work, work)
    assert sum(added) == 50
    assert whole(engine).numbers["feedback.score"].n == 50
