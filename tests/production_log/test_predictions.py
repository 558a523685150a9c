"""Predictions read back from the production log, with truths that came late."""

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.errors import Corrupted
from llmops.production_log import Feedback, LogRecord, ProductionLog, is_prediction, read_predictions
from llmops.production_log.record import prediction_of, row_count
from tests.production_log.conftest import execute

START = datetime(2012, 1, 1, tzinfo=UTC)
ROWS = [{"hour": 7, "weather": "clear"}, {"hour": 8, "weather": "mist"}]
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)


def predicted(number=0, rows=ROWS, output=(1.5, 2.0), **fields):
    values = {
        "request_id": f"r{number}", "key": f"key{number}", "at": START + timedelta(hours=number), "status": 200,
        "outcome": "ok", "route": "predict", "release": "bike@2", "model": "bike@2",
        "input": json.dumps(rows), "output": json.dumps(output), "details": {"rows": len(rows)},
    }  # fmt: skip
    return LogRecord(**{**values, **fields})


def told(truth, number=0, **fields):
    return Feedback(f"r{number}", f"key{number}", "anonymous", "bike", "bike@2", truth=truth, **fields)


def test_predictions_of_a_model_come_with_rows_and_values_oldest_first(log):
    probabilities = [{"0": 0.25, "1": 0.75}, {"0": 1.0, "1": 0.0}]
    classified = predicted(3, output=[1, 0], details={"rows": 2, "probabilities": probabilities})
    log.append([predicted(1), predicted(0), predicted(2, release="wine@1", model="wine@1"), classified])
    found = list(read_predictions(log, "bike"))
    assert [(each.request_id, each.model, each.at) for each in found] == [
        (f"r{number}", "bike@2", START + timedelta(hours=number)) for number in (0, 1, 3)
    ]
    assert (found[0].rows, found[0].predictions, found[0].probabilities) == (ROWS, [1.5, 2.0], None)
    assert len(found[0]) == 2
    assert (found[2].predictions, found[2].probabilities) == ([1, 0], probabilities)


def test_the_truth_said_last_counts_and_unsaid_rows_have_none(log):
    log.append([predicted(0), predicted(1)])
    for said in (told((1.0, None)), told(None, score=1.0), told((2.0, 3.0)), told(None, comment="fine")):
        log.add_feedback(said)
    assert [each.truth for each in read_predictions(log, "bike")] == [[2.0, 3.0], [None, None]]


@settings(max_examples=20, deadline=None)
@given(truth=st.lists(VALUES, min_size=1, max_size=5).map(tuple))
def test_a_truth_is_read_back_as_it_was_said(truth, tmp_path_factory):
    with closing(ProductionLog(f"sqlite:///{tmp_path_factory.mktemp('log') / 'log.db'}")) as log:
        log.append([predicted(rows=[{"x": 1}] * len(truth), output=[0] * len(truth))])
        stored = log.add_feedback(told(truth))
        (record,) = log.read(feedback=True)
    (read,) = record.feedback
    assert read == stored
    assert read.says_the_same(stored)
    assert read.to_json()["truth"] == prediction_of(record).truth == list(truth)


def test_what_predicted_nothing_is_passed_over(log):
    others = [{"route": "chat"}, {"outcome": "error", "status": 504}, {"outcome": "cancelled"}]
    log.append([*(predicted(number, **other) for number, other in enumerate(others)), predicted(3)])
    assert [is_prediction(record) for record in log.read()] == [False, False, False, True]
    assert [each.request_id for each in read_predictions(log, "bike")] == ["r3"]


def test_rows_that_retention_has_taken_are_passed_over_and_their_number_stays(log):
    probabilities = [{"a": 1.0}, {"a": 1.0}]
    log.append([predicted(details={"rows": 2, "probabilities": probabilities})])
    log.add_feedback(told((1.0, 2.0)))
    assert log.delete_texts(START + timedelta(days=1)) == 1
    assert list(read_predictions(log, "bike")) == []
    (record,) = log.read(feedback=True)
    assert (record.details, row_count(record), is_prediction(record)) == ({"rows": 2}, 2, True)
    assert record.feedback[0].truth is None
    assert log.delete_texts(START + timedelta(days=1)) == 0


def test_a_record_that_is_no_prediction_though_it_says_so_is_named():
    for fields in ({"input": "not json"}, {"output": ""}, {"output": "[1]"}, {"input": "{}"}):
        with pytest.raises(Corrupted, match="key0"):
            prediction_of(predicted(**fields))


def test_feedback_of_an_older_log_is_kept_and_takes_truths(log_url):
    with closing(ProductionLog(log_url)) as log:
        log.append([predicted()])
        log.add_feedback(told(None, score=1.0))
    execute(log_url, "ALTER TABLE feedback DROP COLUMN truth")
    for _ in range(2):
        with closing(ProductionLog(log_url)) as log:
            (record,) = log.read(feedback=True)
            assert (record.feedback[0].score, record.feedback[0].truth) == (1.0, None)
    with closing(ProductionLog(log_url)) as log:
        log.add_feedback(told((1.0, 2.0)))
        assert next(read_predictions(log, "bike")).truth == [1.0, 2.0]
