"""Logged predictions become the frame that is judged."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from llmops.production_log.record import PredictionBatch
from monitoring.tabular.checking import check
from monitoring.tabular.observed import frame_of
from monitoring.tabular.settings import TabularSettings
from tests.monitoring.tabular.windows import CLASSIFICATION, REGRESSION

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROW = {"temp": 0.5, "hour": 3, "sky": "mist", "holiday": False}


def test_a_row_of_the_log_is_a_row_of_the_frame() -> None:
    batch = PredictionBatch(NOON, "r1", "bike@2", [ROW, {**ROW, "temp": None}], [10.0, 11.0], None, [12.0, None])
    frame = frame_of([batch], REGRESSION)
    assert frame["prediction"].tolist() == [10.0, 11.0]
    assert frame["truth"].isna().tolist() == [False, True]
    assert frame["temp"].isna().tolist() == [False, True]
    assert frame["block"].tolist() == ["2026-03-01"] * 2
    assert frame["request_id"].tolist() == ["r1", "r1"]
    assert "probability" not in frame


def test_a_classifiers_rows_have_the_probability_of_what_was_predicted() -> None:
    chances = [{"1": 0.9, "2": 0.1}, {"1": 0.3, "2": 0.7}]
    batch = PredictionBatch(NOON, "r1", "wine@1", [ROW, ROW], [1, 2], chances, [None, None])
    frame = frame_of([batch], CLASSIFICATION, block=None)
    assert frame["probability"].tolist() == [0.9, 0.7]
    assert "block" not in frame
    silent = frame_of([PredictionBatch(NOON, "r1", "wine@1", [ROW], [1], None, [None])], CLASSIFICATION)
    assert silent["probability"].isna().all()


def test_blocks_may_be_named_by_the_rows_themselves() -> None:
    batch = PredictionBatch(NOON, "r1", "bike@2", [ROW, {**ROW, "hour": 4}], [1.0, 2.0], None, [None, None])
    assert frame_of([batch], REGRESSION, lambda each, row: each.rows[row]["hour"])["block"].tolist() == [3, 4]


def test_labels_that_nobody_has_sent_yet_are_numbers_that_are_missing() -> None:
    batches = [PredictionBatch(NOON, f"r{n}", "bike@2", [ROW], [float(n)], None, [None]) for n in range(30)]
    frame = frame_of(batches, REGRESSION, block=None)
    verdict = check(frame, frame, REGRESSION, TabularSettings(), windows_in_budget=12)
    assert (verdict.rows, verdict.labelled, verdict.alarm) == (30, 0, False)


@pytest.mark.parametrize("schema", [REGRESSION, CLASSIFICATION])
def test_no_predictions_are_an_empty_frame_with_all_columns(schema: object) -> None:
    frame = frame_of([], schema)  # type: ignore[arg-type]
    assert len(frame) == 0
    assert {"temp", "prediction", "truth", "block"} <= set(frame.columns)
