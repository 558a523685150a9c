from __future__ import annotations

import pytest

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult, Score
from llmops.evaluation.statistics import mean_interval
from llmops.factsheet.evaluations import MOST_SLICES, slices_of


def row(number: int, value: bool | None, **tags: str) -> RowResult:
    score = Score(value=value) if value is not None else Score(error="no answer")
    return RowResult(EvalRow(str(number), {"question": "?"}, tags=tags), Output("text"), {"correct": score})


def test_each_slice_has_its_mean_interval_and_failures():
    rows = [row(n, n % 2 == 0, topic="geo" if n < 6 else "art") for n in range(10)] + [row(10, None, topic="geo")]
    art, geo = slices_of(rows, ["correct"])
    assert (art.name, geo.name) == ("topic=art", "topic=geo")
    assert (geo.metric.mean, geo.metric.n_scored, geo.metric.n_failed) == (0.5, 6, 1)
    assert geo.metric.ci95 == pytest.approx(mean_interval([True, False] * 3))


def test_a_scorer_without_a_score_in_a_slice_has_no_mean():
    found = slices_of([row(0, None, topic="geo"), row(1, True, topic="art")], ["correct"])
    assert [(part.metric.mean, part.metric.ci95) for part in found if part.name == "topic=geo"] == [(None, None)]


def test_tags_that_name_rows_or_say_nothing_make_no_slices():
    rows = [row(n, True, id=str(n), language="en") for n in range(MOST_SLICES + 1)]
    assert slices_of(rows, ["correct"]) == ()
    assert slices_of([row(0, True, topic="geo"), row(1, True, topic="art")], []) == ()


def test_rows_of_one_source_count_as_what_they_are():
    rows = [row(n, n < 10, topic="geo" if n % 2 else "art", page="p" if n < 10 else "q") for n in range(20)]
    alone = {part.name: part.metric.ci95 for part in slices_of(rows, ["correct"])}
    together = {part.name: part.metric.ci95 for part in slices_of(rows, ["correct"], "tags.page")}
    low, high = together["topic=geo"] or (0, 0)
    assert high - low > (alone["topic=geo"] or (0, 0))[1] - (alone["topic=geo"] or (0, 0))[0]
