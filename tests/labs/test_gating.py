from __future__ import annotations

import numpy as np
import pytest

from labs.gating import judge, row_results
from labs.scorers import AbsoluteError, SquaredError
from llmops.errors import UsageError
from llmops.evaluation.gate_rules import GateRules
from tests.labs.conftest import numbers, said

SCORERS = (AbsoluteError(), SquaredError())
RULES = GateRules("absolute_error", "better", ceilings={"absolute_error": 5.0})
ROWS = numbers(120)


def test_a_smaller_error_passes() -> None:
    found = judge(("b", said(ROWS, 1)), ("a", said(ROWS, 2)), ROWS, SCORERS, RULES)
    assert found.passed
    assert found.comparison is not None
    metric = found.comparison.metrics["absolute_error"]
    assert (metric.a, metric.b, metric.wins, metric.clusters) == (pytest.approx(2.0), pytest.approx(1.0), 120, 20)
    assert "significantly better" in found.to_json()["reasons"][1]
    assert found.comparison.metrics["squared_error"].difference == pytest.approx(-3.0)


def test_a_larger_error_fails() -> None:
    found = judge(("b", said(ROWS, 2)), ("a", said(ROWS, 1)), ROWS, SCORERS, RULES)
    assert found.verdict.verdict == "fail"


def test_no_difference_that_days_show_is_inconclusive() -> None:
    by_day = np.repeat(np.random.default_rng(0).choice([-0.5, 0.5], 20), 6)
    found = judge(("b", ROWS.truth + 2 + by_day), ("a", said(ROWS, 2)), ROWS, SCORERS, RULES)
    assert found.verdict.verdict == "inconclusive"


def test_without_a_champion_only_the_limits_count() -> None:
    assert judge(("b", said(ROWS, 4)), None, ROWS, SCORERS, RULES).passed
    found = judge(("b", said(ROWS, 6)), None, ROWS, SCORERS, RULES)
    assert (found.verdict.verdict, found.comparison, found.to_json()["comparison"]) == ("fail", None, None)


def test_slices_are_compared_and_days_are_none() -> None:
    found = judge(("b", said(ROWS, 1)), ("a", said(ROWS, 2)), ROWS, SCORERS, RULES)
    assert found.comparison is not None
    assert sorted(found.comparison.slices) == ["part=high", "part=low"]


def test_a_row_is_kept_with_what_was_said_of_it() -> None:
    first = row_results(ROWS, said(ROWS, 1), SCORERS)[0]
    assert dict(first.row.inputs) == {**ROWS.rows()[0], "cluster": "day 0"}
    assert float(first.output.text) == ROWS.truth[0] + 1
    assert first.row.expectations["expected_response"] == ROWS.truth[0]


def test_predictions_for_other_rows_are_refused() -> None:
    with pytest.raises(UsageError, match="119 predictions for 120 rows of made up"):
        row_results(ROWS, said(ROWS, 1)[1:], SCORERS)
