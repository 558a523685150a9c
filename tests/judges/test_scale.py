"""Scales: which verdicts there are, and what each is worth."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import UsageError
from llmops.evaluation.results import Score
from llmops.judges.rubric import make_scale


@pytest.mark.parametrize(
    ("scale", "good", "verdict", "value"),
    [
        ("pass_fail", None, "pass", True),
        ("pass_fail", None, "fail", False),
        ([1, 5], None, 1, 0.0),
        ([1, 5], None, 4, 0.75),
        ((0, 2), None, 2, 1.0),
        (["good", "fair", "poor"], ["good", "fair"], "fair", True),
        (["good", "fair", "poor"], "good", "fair", False),
    ],
)
def test_a_verdict_is_worth_what_its_scale_says(scale: Any, good: Any, verdict: Any, value: Any) -> None:
    score = make_scale(scale, good).score({"rationale": "because", "score": verdict})
    assert score == Score(value, f"{verdict}: because", label=str(verdict))
    assert type(score.value) is type(value)


def test_points_that_json_writes_with_a_fraction_of_zero_are_the_same() -> None:
    assert make_scale([1, 5]).score({"rationale": "x", "score": 4.0}).label == "4"


@given(st.integers(-50, 50), st.integers(1, 100))
def test_points_rise_evenly_from_0_to_1(lowest: int, span: int) -> None:
    worth = list(make_scale([lowest, lowest + span]).worth.values())
    assert (worth[0], worth[-1], len(worth)) == (0.0, 1.0, span + 1)
    assert all(later - earlier == pytest.approx(1 / span) for earlier, later in pairwise(worth))


def test_the_schema_asks_for_the_reason_before_the_verdict() -> None:
    schema = make_scale([1, 3]).schema("result")
    assert list(schema["properties"]) == ["rationale", "result"]
    assert schema["properties"]["result"] == {"type": "integer", "enum": [1, 2, 3]}
    assert (schema["required"], schema["additionalProperties"]) == (["rationale", "result"], False)


@pytest.mark.parametrize(
    "scale", ["five_stars", None, 5, [], [1], [5, 1], [1, 1], [1, 5, 9], [0, 101], [0.0, 1.0], [True, 3], ["one"]]
)
def test_another_scale_is_refused(scale: Any) -> None:
    with pytest.raises(UsageError, match=r"^scale: "):
        make_scale(scale)


@pytest.mark.parametrize("good", [None, [], ["best"], ["a", "b"], "c"])
def test_good_labels_are_some_of_the_scale_and_not_all(good: Any) -> None:
    with pytest.raises(UsageError, match=r"^good: "):
        make_scale(["a", "b"], good)


def test_a_label_that_stands_twice_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^scale: a label stands twice"):
        make_scale(["a", "a"], "a")


def test_good_goes_with_labels_only() -> None:
    with pytest.raises(UsageError, match=r"^good: goes with a scale of labels only"):
        make_scale("pass_fail", "pass")
