"""What an evaluation yields: answers counted row by row, whatever scorers say; noise; rows that wait on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import AnswerCounts, Noise, Output, RowResult, Score, StoredResults

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


@pytest.mark.parametrize(
    ("n", "flips", "share", "ci95"),
    [
        (30, 0, 0.0, (0.0, 1 - 0.025 ** (1 / 30))),
        (30, 30, 1.0, (0.025 ** (1 / 30), 1.0)),
        (20, 5, 0.25, (0.08657, 0.49105)),  # Clopper–Pearson, R: binom.test(5, 20)
    ],
)
def test_the_share_of_answers_that_flip_has_clopper_and_pearsons_interval(n, flips, share, ci95):
    assert (Noise(n, flips).share, Noise(n, flips).ci95) == (share, pytest.approx(ci95, abs=1e-5))
    told = json.loads(json.dumps(Noise(n, flips).to_json()))
    assert told == {"n": n, "flips": flips, "flip_share": share, "ci95": list(Noise(n, flips).ci95)}
    assert Noise(0, 0).share == 0.0


def test_results_on_disk_are_read_as_often_as_asked_and_leave_no_file_behind(tmp_path: Path) -> None:
    results = StoredResults(tmp_path)
    made = [RowResult(EvalRow(f"r{i}", {"q": "ü\u2028" * 40_000}), Output("a\nb"), {"x": Score(0.5)}) for i in range(3)]
    for number, result in enumerate(made, 1):
        results.append(result)
        assert list(results) == made[:number]
        assert len(results) == number
    assert list(tmp_path.iterdir()) == []
