"""Two runs become pairs by row id; a row without a score counts as the worst; slices are adjusted together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from llmops.errors import CannotRun
from llmops.evaluation.comparison import compare
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult, Score

Values = Sequence[bool | float | None]


def run(values: Values, metric: str = "right", tags: Sequence[dict[str, str]] | None = None) -> list[RowResult]:
    """A run whose row `r<i>` has the i-th value; None is a failed score."""
    return [
        RowResult(
            EvalRow(f"r{i}", {"q": f"question {i}"}, tags=tags[i] if tags else {}),
            Output(f"answer {value}"),
            {metric: Score(value) if value is not None else Score(error="failed")},
        )
        for i, value in enumerate(values)
    ]


def test_rows_are_joined_by_id_and_not_by_place(scorer: Any) -> None:
    a, b = run([0.0, 0.5, 1.0, 0.25]), run([0.0, 0.5, 1.0, 0.25])[::-1]

    found = compare("a", a, "b", b, [scorer("right")])

    assert found.rows == 4
    assert found.metrics["right"].difference == 0
    assert (found.metrics["right"].wins, found.metrics["right"].losses, found.metrics["right"].ties) == (0, 0, 4)


def test_only_rows_of_both_runs_are_compared(scorer: Any) -> None:
    found = compare("a", run([True] * 6), "b", run([True] * 4), [scorer("right")])

    assert (found.rows, found.metrics["right"].n) == (4, 4)


def test_a_row_id_that_stands_for_different_inputs_is_refused(scorer: Any) -> None:
    other = [RowResult(EvalRow("r0", {"q": "another question"}), Output("x"), {"right": Score(True)})]

    with pytest.raises(CannotRun, match="'r0' has different inputs"):
        compare("a", run([True]), "b", other, [scorer("right")])


def test_runs_that_share_no_row_are_refused(scorer: Any) -> None:
    other = [RowResult(EvalRow("x", {"q": "question 0"}), Output("x"), {"right": Score(True)})]

    with pytest.raises(CannotRun, match="share no row"):
        compare("a", run([True]), "b", other, [scorer("right")])


def test_means_difference_and_counts(scorer: Any) -> None:
    found = compare("a", run([0.0, 0.5, 1.0, 0.5]), "b", run([1.0, 0.25, 1.0, 0.75]), [scorer("right")]).metrics[
        "right"
    ]

    assert (found.a, found.b, found.difference) == (0.5, 0.75, 0.25)
    assert (found.wins, found.losses, found.ties, found.n) == (2, 1, 1, 4)
    assert found.test == "paired-permutation"


@pytest.mark.parametrize(("higher_is_better", "wins", "losses"), [(True, 2, 1), (False, 1, 2), (None, 2, 1)])
def test_a_win_is_in_the_scorers_direction_and_the_difference_is_not(
    scorer: Any, higher_is_better: bool | None, wins: int, losses: int
) -> None:
    made = scorer("right", higher_is_better=higher_is_better)

    found = compare("a", run([0.0, 0.0, 1.0, 1.0]), "b", run([1.0, 1.0, 0.0, 1.0]), [made]).metrics["right"]

    assert (found.wins, found.losses, found.ties) == (wins, losses, 1)
    assert found.difference == 0.25


@pytest.mark.parametrize(("worst", "mean_b"), [(0.0, 0.25), (1.0, 0.75)])
def test_a_row_without_a_score_counts_as_the_worst(scorer: Any, worst: float, mean_b: float) -> None:
    made = scorer("right", worst=worst)

    found = compare("a", run([True, False, True, False]), "b", run([True, False, None, None]), [made]).metrics["right"]

    assert (found.n, found.b) == (4, mean_b)
    assert found.test == "mcnemar-exact"


def test_a_row_whose_scorer_did_not_run_counts_as_the_worst_too(scorer: Any) -> None:
    b = run([1.0, 1.0])
    b[1] = RowResult(b[1].row, b[1].output, {})

    assert compare("a", run([1.0, 1.0]), "b", b, [scorer("right")]).metrics["right"].b == 0.5


def test_a_row_without_a_score_is_left_out_where_there_is_no_worst(scorer: Any) -> None:
    made = scorer("right", worst=None)

    found = compare("a", run([3.0, 4.0, None]), "b", run([5.0, None, 6.0]), [made])

    assert (found.rows, found.metrics["right"].n) == (3, 1)
    assert (found.metrics["right"].a, found.metrics["right"].b) == (3.0, 5.0)


def test_a_metric_that_no_row_has_is_left_out(scorer: Any) -> None:
    found = compare("a", run([None, None]), "b", run([None, None]), [scorer("right", worst=None), scorer("other")])

    assert "right" not in found.metrics


def test_shares_beside_a_truth_value_are_not_taken_for_truth_values(scorer: Any) -> None:
    found = compare("a", run([True, 0.5, 0.25]), "b", run([True, 0.75, 0.25]), [scorer("right")]).metrics["right"]

    assert found.test == "paired-permutation"
    assert found.difference == pytest.approx(0.25 / 3)


def test_p_values_are_adjusted_over_the_metrics_compared_together(scorer: Any) -> None:
    def both(first: Values, second: Values) -> list[RowResult]:
        others = run(second, "other")
        return [RowResult(x.row, x.output, {**x.scores, **y.scores}) for x, y in zip(run(first), others, strict=True)]

    a = both([False] * 8 + [True] * 12, [False] * 20)
    b = both([True] * 20, [True] * 3 + [False] * 17)

    found = compare("a", a, "b", b, [scorer("right"), scorer("other")]).metrics

    assert (found["right"].p_value, found["other"].p_value) == (pytest.approx(2 / 256), pytest.approx(0.25))
    assert (found["right"].p_adjusted, found["other"].p_adjusted) == (pytest.approx(4 / 256), pytest.approx(0.25))


def test_slices_compare_the_gate_metric_and_are_adjusted_together(scorer: Any) -> None:
    tags = [{"topic": "sums"}] * 8 + [{"topic": "words", "level": "hard"}] * 8 + [{"topic": "rare"}] * 4
    a, b = run([False] * 20, tags=tags), run([True] * 8 + [False] * 12, tags=tags)

    slices = compare("a", a, "b", b, [scorer("right")], slice_by="right").slices

    assert list(slices) == ["level=hard", "topic=sums", "topic=words"]  # four rows are too few for a slice
    sums = slices["topic=sums"]["right"]
    assert (sums.n, sums.wins, sums.p_value) == (8, 8, pytest.approx(2 / 256))
    assert sums.p_adjusted == pytest.approx(6 / 256)
    assert slices["topic=words"]["right"].p_adjusted == 1


def test_without_a_metric_to_slice_by_there_are_no_slices(scorer: Any) -> None:
    tags = [{"topic": "sums"}] * 8

    found = compare("a", run([True] * 8, tags=tags), "b", run([True] * 8, tags=tags), [scorer("right")])

    assert (found.slices, found.changed_rows) == ({}, [])


def test_changed_rows_show_both_answers(scorer: Any) -> None:
    found = compare("a", run([True, False]), "b", run([True, True]), [scorer("right")], slice_by="right")

    assert found.changed_rows == [
        {"id": "r1", "metric": "right", "a": False, "b": True, "output_a": "answer False", "output_b": "answer True"}
    ]


def test_a_run_compared_with_itself_has_no_difference_in_anything(scorer: Any) -> None:
    values = [0.1, 0.9, None, 0.5] * 6
    tags = [{"half": str(i % 2)} for i in range(24)]

    found = compare("a", run(values, tags=tags), "a", run(values, tags=tags), [scorer("right")], slice_by="right")

    for metric in (found.metrics["right"], *(metrics["right"] for metrics in found.slices.values())):
        assert (metric.difference, metric.p_value, metric.p_adjusted, metric.wins, metric.losses) == (0, 1, 1, 0, 0)
    assert found.changed_rows == []


def test_a_comparison_is_plain_json(scorer: Any) -> None:
    tags = [{"topic": "sums"}] * 6
    found = compare("x", run([True] * 6, tags=tags), "y", run([False] * 6, tags=tags), [scorer("right")], "right")

    value = json.loads(json.dumps(found.to_json()))

    told = {"a", "b", "rows", "metrics", "slices", "changed_rows"}
    assert value.keys() == told | {"power", "noise", "sequential"}
    assert (value["a"], value["b"], value["rows"]) == ("x", "y", 6)
    assert value["metrics"]["right"].keys() == {
        "a", "b", "difference", "ci95", "p_value", "p_adjusted", "test", "wins", "losses", "ties", "n",
        "failed_a", "failed_b", "clusters", "detectable", "higher_is_better",
    }  # fmt: skip
    assert value["slices"]["topic=sums"]["right"]["losses"] == 6
