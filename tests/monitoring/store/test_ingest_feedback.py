from __future__ import annotations

import threading
from datetime import timedelta

import sqlalchemy as sa

from llmops.production_log import Feedback, ProductionLog
from monitoring.store.database import open_database, writing
from monitoring.store.ingest import ingest, rebuild_hours
from monitoring.store.ingest_feedback import IngestedFeedback, ingest_feedback
from monitoring.store.segments import rewrite_without
from monitoring.store.windows import WindowReader
from tests.monitoring.described import APP, START, cheap_set, record, records

SET = cheap_set()


def opinion(number, **given):
    rated = record(number)
    values = {"app": APP, "release": rated.release, "caller": "anonymous", **given}
    return Feedback(rated.request_id, rated.key, **values)


def test_feedback_is_added_once_to_the_hour_and_slices_of_its_answer(any_log, engine):
    any_log.append(records(range(200)))
    ingest(any_log, engine, SET)
    for number, score, label in ((0, 1.0, "good"), (1, 0.0, None), (0, 0.5, "good"), (150, None, "bad")):
        any_log.add_feedback(opinion(number, score=score, label=label))
    assert ingest_feedback(any_log, engine, SET) == IngestedFeedback(added=4)
    assert ingest_feedback(any_log, engine, SET) == IngestedFeedback()
    any_log.add_feedback(opinion(2, label="late", at=START + timedelta(days=30)))
    assert ingest_feedback(any_log, engine, SET) == IngestedFeedback(added=1)

    reader = WindowReader(engine, SET)
    whole = reader.summary(APP, None, None)[None]
    assert whole.rows == 200
    assert (whole.numbers["feedback.score"].n, whole.numbers["feedback.score"].mean) == (3, 0.5)
    assert whole.labels["feedback.label"].counts == {"good": 2, "bad": 1, "late": 1}
    by_release = reader.summary(APP, None, None, "release")
    assert by_release[f"{APP}@1"].labels["feedback.label"].counts == {"good": 2, "bad": 1, "late": 1}
    assert by_release[f"{APP}@2"].numbers["feedback.score"].mean == 0.0
    first_hour, second_hour = (summary for _, summary in reader.hours(APP, None, START + timedelta(hours=2)))
    assert first_hour.labels["feedback.label"].counts == {"good": 2, "late": 1}
    assert second_hour.labels["feedback.label"].counts == {"bad": 1}


def test_feedback_waits_for_its_row(any_log, engine):
    any_log.append(records(range(3)))
    ingest(any_log, engine, SET)
    any_log.append(records(range(3, 6)))
    for number in (1, 4, 2):
        any_log.add_feedback(opinion(number, score=1.0))
    assert ingest_feedback(any_log, engine, SET) == IngestedFeedback(added=1, waiting=2)
    assert ingest_feedback(any_log, engine, SET) == IngestedFeedback(waiting=2)
    ingest(any_log, engine, SET)
    assert ingest_feedback(any_log, engine, SET) == IngestedFeedback(added=2)


def test_feedback_on_rows_that_are_not_described_is_counted_and_passed_over(any_log, engine):
    any_log.append([*records(range(3)), record(3, release=None)])
    ingest(any_log, engine, SET)
    any_log.add_feedback(opinion(3, app="", score=1.0))
    any_log.add_feedback(Feedback("gone", "f" * 32, "anonymous", APP, score=1.0))
    any_log.add_feedback(opinion(2, score=1.0))
    assert ingest_feedback(any_log, engine, SET) == IngestedFeedback(added=1, unfit=2)


def test_feedback_is_added_again_for_another_version_and_after_rows_were_forgotten(any_log, engine):
    any_log.append(records(range(10)))
    ingest(any_log, engine, SET)
    for number in range(10):
        any_log.add_feedback(opinion(number, score=float(number)))
    ingest_feedback(any_log, engine, SET)
    with writing(engine) as connection:
        connection.execute(sa.text("DELETE FROM log_records WHERE seq > 8"))
        rebuild_hours(connection, APP, rewrite_without(connection, APP, [record(8).key, record(9).key]))
    assert WindowReader(engine, SET).summary(APP, None, None)[None].numbers["feedback.score"].total == 28
    changed = cheap_set(output_version="2")
    ingest(any_log, engine, changed)
    assert "feedback.score" not in WindowReader(engine, changed).summary(APP, None, None)[None].numbers
    assert ingest_feedback(any_log, engine, changed) == IngestedFeedback(added=8, unfit=2)
    assert WindowReader(engine, changed).summary(APP, None, None)[None].numbers["feedback.score"].total == 28


def test_two_at_once_add_nothing_twice(any_log, engine):
    any_log.append(records(range(50)))
    ingest(any_log, engine, SET)
    for number in range(50):
        any_log.add_feedback(opinion(number, score=1.0))
    added = []

    def work():
        log, own = ProductionLog(any_log.url), open_database(any_log.url)
        added.append(ingest_feedback(log, own, SET).added)
        own.dispose()
        log.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(added) == 50
    assert WindowReader(engine, SET).summary(APP, None, None)[None].numbers["feedback.score"].n == 50
