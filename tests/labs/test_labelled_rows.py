from __future__ import annotations

import numpy as np
import pytest

from labs.labelled_rows import joined
from tests.labs.conftest import numbers


def test_equal_rows_have_equal_hashes_and_any_change_another() -> None:
    rows = numbers()
    assert rows.sha256 == numbers().sha256
    assert rows.take("first", range(len(rows))).sha256 == rows.sha256  # the name is not content
    assert rows.take("less", range(1, len(rows))).sha256 != rows.sha256
    assert numbers(seed=1).sha256 != rows.sha256


def test_taking_rows_keeps_everything_that_belongs_to_each() -> None:
    rows = numbers()
    taken = rows.take("two", np.asarray([7, 0]))
    assert (taken.name, len(taken), taken.ids, taken.clusters) == ("two", 2, ("row-7", "row-0"), ("day 1", "day 0"))
    assert taken.truth.tolist() == [rows.truth[7], rows.truth[0]]
    assert taken.features["b"].tolist() == [rows.features["b"][7], rows.features["b"][0]]
    assert taken.tags["part"] == (rows.tags["part"][7], rows.tags["part"][0])


def test_rows_are_plain_values_as_a_request_holds_them() -> None:
    first = numbers().rows()[0]
    assert [type(value) for value in first.values()] == [int, float]
    assert list(first) == ["a", "b"]


def test_the_monitor_gets_predictions_truth_and_blocks() -> None:
    rows = numbers(12)
    frame = rows.monitored(rows.truth + 1)
    assert list(frame.columns) == ["a", "b", "prediction", "truth", "block"]
    assert (frame["prediction"] - frame["truth"]).tolist() == pytest.approx([1.0] * 12)
    assert frame["block"].nunique() == 2


def test_parts_are_joined_in_order() -> None:
    first, second = numbers(6, seed=1), numbers(6, seed=2)
    both = joined("both", [first, second])
    assert (both.name, len(both), both.ids) == ("both", 12, first.ids + second.ids)
    assert both.truth.tolist() == [*first.truth, *second.truth]
    assert both.features["b"].tolist() == [*first.features["b"], *second.features["b"]]
