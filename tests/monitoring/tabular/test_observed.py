"""Frames become arrays, or an error that names the column."""

from __future__ import annotations

import pandas as pd
import pytest

from llmops.errors import UsageError
from llmops.tabular.schema import Column, RowSchema
from monitoring.tabular.observed import observe
from tests.monitoring.tabular.windows import CLASSIFICATION, REGRESSION, hours, kinds


def test_blocks_are_numbered_in_the_order_of_their_names() -> None:
    frame = hours(3)
    seen = observe(frame.iloc[::-1], REGRESSION, "current")
    assert seen.blocks == 3
    assert seen.block is not None
    assert seen.block[0] == 2
    assert observe(frame.drop(columns="block"), REGRESSION, "current").block is None
    mixed = observe(frame.assign(block=["a", 1] * 36), REGRESSION, "current")
    assert mixed.blocks == 2


def test_a_class_is_the_same_label_whatever_pandas_made_of_it() -> None:
    frame = kinds(20).assign(prediction=1, truth=[1.0] * 19 + [None])
    seen = observe(frame, CLASSIFICATION, "current")
    assert set(seen.prediction.data) == {"1"}
    assert set(seen.truth.data) == {"1", None}
    assert set(seen.inputs["holiday"].data) <= {"true", "false"}


def test_rows_that_repeat_are_counted_within_their_block() -> None:
    day = hours(1)
    twice = pd.concat([day, day])
    assert observe(twice, REGRESSION, "current").duplicates.sum() == 24
    other = pd.concat([day, day.assign(block="another")])
    assert observe(other, REGRESSION, "current").duplicates.sum() == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda frame: frame.drop(columns="sky"), "current rows have no column 'sky'"),
        (lambda frame: frame.drop(columns="truth"), "no column 'truth'"),
        (lambda frame: frame.assign(temp="warm"), "column 'temp' of the current rows must hold numbers"),
        (lambda frame: frame.assign(block=None), "no block"),
    ],
)
def test_a_wrong_frame_is_an_error_that_names_the_column(change: object, told: str) -> None:
    assert callable(change)
    with pytest.raises(UsageError, match=told):
        observe(change(hours(2)), REGRESSION, "current")


def test_an_input_cannot_have_a_name_that_the_monitor_uses() -> None:
    schema = RowSchema((Column("truth", "number"),), Column("count", "number"), "regression")
    with pytest.raises(UsageError, match="cannot be called truth"):
        observe(hours(1), schema, "current")
