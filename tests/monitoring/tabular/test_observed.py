"""Logged predictions become the frame that is judged; frames become arrays, or an error that names the column."""

from datetime import UTC, datetime

import pandas as pd
import pytest

from llmops.errors import UsageError
from llmops.production_log.record import PredictionBatch
from llmops.tabular.schema import Column, RowSchema
from monitoring.tabular.checking import check
from monitoring.tabular.observed import frame_of, observe
from monitoring.tabular.settings import TabularSettings
from tests.monitoring.tabular.windows import CLASSIFICATION, REGRESSION, hours, kinds

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROW = {"temp": 0.5, "hour": 3, "sky": "mist", "holiday": False}


def batch(predictions, rows=(ROW, ROW), chances=None, truth=None):
    unknown = [None] * len(predictions)
    return PredictionBatch(NOON, "r1", "bike@2", rows[: len(predictions)], predictions, chances, truth or unknown)


def test_a_row_of_the_log_is_a_row_of_the_frame():
    frame = frame_of([batch([10.0, 11.0], [ROW, {**ROW, "temp": None}], truth=[12.0, None])], REGRESSION)
    assert frame["prediction"].tolist() == [10.0, 11.0]
    assert frame["truth"].isna().tolist() == [False, True]
    assert frame["temp"].isna().tolist() == [False, True]
    assert frame["block"].tolist() == ["2026-03-01"] * 2
    assert frame["request_id"].tolist() == ["r1", "r1"]
    assert "probability" not in frame


def test_a_classifiers_rows_have_the_probability_of_what_was_predicted():
    chances = [{"1": 0.9, "2": 0.1}, {"1": 0.3, "2": 0.7}]
    frame = frame_of([batch([1, 2], chances=chances)], CLASSIFICATION, block=None)
    assert frame["probability"].tolist() == [0.9, 0.7]
    assert "block" not in frame
    assert frame_of([batch([1])], CLASSIFICATION)["probability"].isna().all()


def test_blocks_may_be_named_by_the_rows_themselves():
    batches = [batch([1.0, 2.0], [ROW, {**ROW, "hour": 4}])]
    assert frame_of(batches, REGRESSION, lambda each, row: each.rows[row]["hour"])["block"].tolist() == [3, 4]


def test_labels_that_nobody_has_sent_yet_are_numbers_that_are_missing():
    frame = frame_of([batch([float(n)]) for n in range(30)], REGRESSION, block=None)
    verdict = check(frame, frame, REGRESSION, TabularSettings(), windows_in_budget=12)
    assert (verdict.rows, verdict.labelled, verdict.alarm) == (30, 0, False)


@pytest.mark.parametrize("schema", [REGRESSION, CLASSIFICATION], ids=["regression", "classification"])
def test_no_predictions_are_an_empty_frame_with_all_columns(schema):
    frame = frame_of([], schema)
    assert len(frame) == 0
    assert {"temp", "prediction", "truth", "block"} <= set(frame.columns)


def test_blocks_are_numbered_in_the_order_of_their_names():
    frame = hours(3)
    seen = observe(frame.iloc[::-1], REGRESSION, "current")
    assert (seen.blocks, seen.block[0]) == (3, 2)
    assert observe(frame.drop(columns="block"), REGRESSION, "current").block is None
    assert observe(frame.assign(block=["a", 1] * 36), REGRESSION, "current").blocks == 2


def test_a_class_is_the_same_label_whatever_pandas_made_of_it():
    seen = observe(kinds(20).assign(prediction=1, truth=[1.0] * 19 + [None]), CLASSIFICATION, "current")
    assert (set(seen.prediction.data), set(seen.truth.data)) == ({"1"}, {"1", None})
    assert set(seen.inputs["holiday"].data) <= {"true", "false"}


def test_rows_that_repeat_are_counted_within_their_block():
    day = hours(1)
    for again, repeated in ((day, 24), (day.assign(block="another"), 0)):
        assert observe(pd.concat([day, again]), REGRESSION, "current").duplicates.sum() == repeated


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda frame: frame.drop(columns="sky"), "current rows have no column 'sky'"),
        (lambda frame: frame.drop(columns="truth"), "no column 'truth'"),
        (lambda frame: frame.assign(temp="warm"), "column 'temp' of the current rows must hold numbers"),
        (lambda frame: frame.assign(block=None), "no block"),
    ],
)
def test_a_wrong_frame_is_an_error_that_names_the_column(change, told):
    with pytest.raises(UsageError, match=told):
        observe(change(hours(2)), REGRESSION, "current")


def test_an_input_cannot_have_a_name_that_the_monitor_uses():
    schema = RowSchema((Column("truth", "number"),), Column("count", "number"), "regression")
    with pytest.raises(UsageError, match="cannot be called truth"):
        observe(hours(1), schema, "current")
