"""What became of a run's rows is counted once, row by row, whatever scorers say."""

from __future__ import annotations

import json

import pytest

from llmops.evaluation.results import AnswerCounts, Output

CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("output", "counted"),
    [
        (Output("Paris"), AnswerCounts(1)),
        (Output("Par", "length"), AnswerCounts(1, cut_off=1)),
        (Output("Par", "MAX_TOKENS"), AnswerCounts(1, cut_off=1)),
        (Output("Par", "model_length"), AnswerCounts(1, cut_off=1)),
        (Output("Paris", off_format="it is not JSON"), AnswerCounts(1, off_format=1)),
        (Output("", error="timed out"), AnswerCounts(1, failed=1)),
        (Output("", "length", error="timed out"), AnswerCounts(1, failed=1)),
        (Output(" \n\t"), AnswerCounts(1, empty=1)),
        (Output("", "length", reasoning="Let me think"), AnswerCounts(1, cut_off=1, empty=1)),
        (Output("", "tool_calls", tool_calls=[CALL]), AnswerCounts(1)),
        (Output("", refusal="I can't help with that."), AnswerCounts(1)),
        (Output("Paris", None), AnswerCounts(1)),
    ],
)
def test_a_row_failed_was_cut_off_or_empty_or_none_of_it(output: Output, counted: AnswerCounts) -> None:
    assert AnswerCounts.of([output]) == counted


def test_counts_are_told_with_their_shares_and_read_back() -> None:
    found = AnswerCounts.of(
        [Output("x", "length")] * 86 + [Output("")] * 2 + [Output("", error="no")] + [Output("x")] * 11
    )

    assert found == AnswerCounts(100, failed=1, cut_off=86, empty=2)
    assert found.sentence() == (
        "of 100 rows 1 failed (1 %), 86 cut off at max_tokens (86 %), 2 empty (2 %)"
    )  # fmt: skip
    assert AnswerCounts.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert AnswerCounts(1).sentence() == "1 row, none failed, cut off or empty"
    assert AnswerCounts().share(0) == 0.0
