"""Two runs become pairs by row id; a row without a score counts as the worst; slices are adjusted together."""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import CannotRun
from llmops.evaluation.comparison import compare, paired, sampling_position
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.metric_comparison import MetricComparison
from llmops.evaluation.results import AnswerCounts, Noise, Output, RowResult, Score
from llmops.evaluation.sequential import SequentialTest

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


def metric_of(a: Values, b: Values, scorer: Any, **more: Any) -> MetricComparison:
    return compare("a", run(a, scorer.name), "b", run(b, scorer.name), [scorer], **more).metrics[scorer.name]


@pytest.mark.parametrize(("a", "b", "unmatched"), [(6, 4, (2, 0)), (4, 6, (0, 2)), (5, 5, (0, 0))])
def test_rows_of_both_runs_are_joined_by_id_and_not_by_place_and_the_others_counted(scorer, a, b, unmatched):
    found = compare("a", run([i / 8 for i in range(a)]), "b", run([i / 8 for i in range(b)])[::-1], [scorer("right")])
    metric = found.metrics["right"]
    assert found.rows == metric.n == metric.ties == min(a, b)
    assert (metric.difference, metric.wins, metric.losses) == (0, 0, 0)
    assert (found.unmatched_a, found.unmatched_b) == unmatched
    assert (found.to_json()["unmatched_a"], found.to_json()["unmatched_b"]) == unmatched


@pytest.mark.parametrize(
    ("a", "b", "means", "counts", "test"),
    [
        ([0.0, 0.5, 1.0, 0.5], [1.0, 0.25, 1.0, 0.75], (0.5, 0.75, 0.25), (2, 1, 1, 4), "paired-permutation"),
        ([0.25] * 6, [0.5] * 6, (0.25, 0.5, 0.25), (6, 0, 0, 6), "paired-permutation"),
        # Shares beside a truth value are not taken for truth values.
        ([True, 0.5, 0.25, 0.25], [True, 0.75, 0.25, 0], (0.5, 0.5, 0.0), (1, 1, 2, 4), "paired-permutation"),
    ],
)
def test_means_difference_and_counts(scorer, a, b, means, counts, test):
    found = metric_of(a, b, scorer("right"))
    assert (found.a, found.b, found.difference) == means
    assert (found.wins, found.losses, found.ties, found.n) == counts
    assert found.test == test


@pytest.mark.parametrize(("higher_is_better", "wins", "losses"), [(True, 2, 1), (False, 1, 2), (None, 2, 1)])
def test_a_win_is_in_the_scorers_direction_and_the_difference_is_not(scorer, higher_is_better, wins, losses):
    found = metric_of([0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 1.0], scorer("right", higher_is_better=higher_is_better))
    assert (found.wins, found.losses, found.ties, found.difference) == (wins, losses, 1, 0.25)


@pytest.mark.parametrize(("worst", "mean_b"), [(0.0, 0.25), (1.0, 0.75)])
def test_a_row_without_a_score_counts_as_the_worst_also_where_its_scorer_did_not_run(scorer, worst, mean_b):
    made = scorer("right", worst=worst, higher_is_better=worst == 0)
    found = metric_of([True, False, True, False], [True, False, None, None], made)
    assert (found.n, found.b, found.test, found.failed_a, found.failed_b) == (4, mean_b, "mcnemar-exact", 0, 2)
    b = run([1.0, 1.0])
    b[1] = RowResult(b[1].row, b[1].output, {})
    assert compare("a", run([1.0, 1.0]), "b", b, [made]).metrics["right"].b == (1 + worst) / 2


@pytest.mark.parametrize(("higher_is_better", "worst"), [(False, 6.0), (True, 3.0), (None, None)])
def test_where_no_value_is_the_worst_it_is_the_worst_seen_and_without_a_direction_the_row_is_left_out(
    scorer, higher_is_better, worst
):
    made = scorer("right", worst=None, higher_is_better=higher_is_better)
    found = metric_of([3.0, 4.0, None], [5.0, None, 6.0], made)
    assert (found.n, found.failed_a, found.failed_b, found.failed_as) == (3 if worst else 1, 1, 1, worst)
    assert (found.a, found.b) == (((7 + worst) / 3, (11 + worst) / 3) if worst else (3.0, 5.0))


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("what", "row"),
    [
        ("inputs", EvalRow("r0", {"q": "another question"})),
        ("expectations", EvalRow("r0", {"q": "question 0"}, {"answer": "an easier one"})),
        ("contexts", EvalRow("r0", {"q": "question 0"}, contexts=("another source",))),
    ],
)
def test_a_row_id_that_stands_for_something_else_in_the_other_run_is_refused(scorer, what, row, order):
    other = [RowResult(row, Output("x"), {"right": Score(True)}), *run([True] * 3)[1:]][::order]
    with pytest.raises(CannotRun, match=f"'r0' has different {what}"):
        compare("a", run([True] * 3), "b", other, [scorer("right")])


@pytest.mark.parametrize("sequential_seed", [None, 0])
def test_scores_that_differ_by_rounding_are_ties_and_no_changed_rows(scorer, sequential_seed):
    a, b = run([0.3] * 400), run([0.1 + 0.2] * 400)
    assert 0.1 + 0.2 > 0.3
    found = compare("a", a, "b", b, [scorer("right")], "right", sequential_seed=sequential_seed)
    metric = found.metrics["right"]
    assert (metric.wins, metric.losses, metric.ties, metric.p_value) == (0, 0, 400, 1.0)
    assert found.changed_rows == []


def test_a_failed_row_counts_within_a_slice_as_it_does_in_the_whole_and_failing_never_makes_a_run_faster(scorer):
    seconds = scorer("seconds", worst=None, higher_is_better=False)
    tags = [{"topic": "sums"}] * 5 + [{"topic": "words"}] * 5
    a, b = [1.0] * 5 + [9.0] * 5, [1.0, 1.0, 1.0, 1.0, None] + [9.0] * 5
    found = compare("a", run(a, "seconds", tags), "b", run(b, "seconds", tags), [seconds], "seconds")
    assert found.slices["topic=sums"]["seconds"].b == pytest.approx(13 / 5)
    failing = metric_of([2.0] * 120, [*([1.0] * 30), *([None] * 90)], seconds)
    assert (failing.n, failing.wins, failing.ties) == (120, 30, 90)


@pytest.mark.parametrize("worst", [0.0, None])
@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ([None, None], [None, None], "no row of a and b has a score"),
        ([None, None], [True, None], "no row of a has a score"),
        ([True, False], [None, None], "no row of b has a score"),
    ],
)
def test_a_side_without_a_score_is_not_compared(scorer, worst, a, b, reason):
    found = compare("a", run(a), "b", run(b), [scorer("right", worst=worst)], "right")
    assert "right" not in found.metrics
    assert found.power == {}
    told = found.not_compared["right"]
    assert (told.reason, told.n) == (reason, 2)
    assert (told.failed_a, told.failed_b) == (a.count(None), b.count(None))
    assert json.loads(json.dumps(found.to_json()))["not_compared"]["right"]["reason"] == reason


def test_a_metric_that_failed_everywhere_moves_no_other_metrics_p(scorer):
    a, b = run([False] * 8 + [True] * 12), run([True] * 20)
    alone = compare("a", a, "b", b, [scorer("right")]).metrics["right"]
    beside = compare("a", a, "b", b, [scorer("right"), scorer("failed")])
    assert beside.metrics == {"right": alone}
    assert list(beside.not_compared) == ["failed"]


def test_p_values_are_adjusted_over_the_metrics_compared_together(scorer):
    def both(first: Values, second: Values) -> list[RowResult]:
        others = run(second, "other")
        return [RowResult(x.row, x.output, {**x.scores, **y.scores}) for x, y in zip(run(first), others, strict=True)]

    a = both([False] * 8 + [True] * 12, [False] * 20)
    b = both([True] * 20, [True] * 3 + [False] * 17)

    found = compare("a", a, "b", b, [scorer("right"), scorer("other")]).metrics

    assert (found["right"].p_value, found["other"].p_value) == (pytest.approx(2 / 256), pytest.approx(0.25))
    assert (found["right"].p_adjusted, found["other"].p_adjusted) == (pytest.approx(4 / 256), pytest.approx(0.25))


def test_slices_compare_the_gate_metric_and_are_adjusted_together(scorer):
    tags = [{"topic": "sums"}] * 8 + [{"topic": "words", "level": "hard"}] * 8 + [{"topic": "rare"}] * 4
    a, b = run([False] * 20, tags=tags), run([True] * 8 + [False] * 12, tags=tags)
    slices = compare("a", a, "b", b, [scorer("right")], slice_metric="right").slices
    assert list(slices) == ["level=hard", "topic=sums", "topic=words"]  # four rows are too few for a slice
    sums = slices["topic=sums"]["right"]
    assert (sums.n, sums.wins, sums.p_value) == (8, 8, pytest.approx(2 / 256))
    assert sums.p_adjusted == pytest.approx(6 / 256)
    assert slices["topic=words"]["right"].p_adjusted == 1


def test_changed_rows_show_both_answers_and_need_a_metric_as_slices_do(scorer):
    tags = [{"topic": "sums"}] * 8
    a, b = run([True] * 7 + [False], tags=tags), run([True] * 8, tags=tags)
    without = compare("a", a, "b", b, [scorer("right")])
    assert (without.slices, without.changed_rows) == ({}, [])
    assert compare("a", a, "b", b, [scorer("right")], slice_metric="right").changed_rows == [
        {"id": "r7", "metric": "right", "a": False, "b": True, "output_a": "answer False", "output_b": "answer True"}
    ]


def test_a_run_compared_with_itself_has_no_difference_in_anything(scorer):
    values = [0.1, 0.9, None, 0.5] * 6
    tags = [{"half": str(i % 2)} for i in range(24)]
    found = compare("a", run(values, tags=tags), "a", run(values, tags=tags), [scorer("right")], slice_metric="right")
    for metric in (found.metrics["right"], *(metrics["right"] for metrics in found.slices.values())):
        assert (metric.difference, metric.p_value, metric.p_adjusted, metric.wins, metric.losses) == (0, 1, 1, 0, 0)
    assert found.changed_rows == []


def test_a_comparison_is_plain_json(scorer):
    tags = [{"topic": "sums"}] * 6
    found = compare("x", run([True] * 6, tags=tags), "y", run([False] * 6, tags=tags), [scorer("right")], "right")
    value = json.loads(json.dumps(found.to_json()))
    told = {"a", "b", "rows", "metrics", "slices", "changed_rows"}
    assert value.keys() == told | {
        "power", "noise", "sequential", "unmatched_a", "unmatched_b", "not_compared", "answers", "rows_told",
            "suite_rows",
    }  # fmt: skip
    assert (value["a"], value["b"], value["rows"]) == ("x", "y", 6)
    assert value["metrics"]["right"].keys() == {
        "a", "b", "difference", "ci95", "p_value", "p_adjusted", "test", "wins", "losses", "ties", "n",
        "failed_a", "failed_b", "clusters", "detectable", "higher_is_better", "failed_as", "note",
        "at_worst", "at_best", "skewed",
    }  # fmt: skip
    assert value["slices"]["topic=sums"]["right"]["losses"] == 6


# Failed rows, clusters, power


def passages(n: int, rows_each: int) -> list[dict[str, str]]:
    return [{"passage": str(i // rows_each)} for i in range(n)]


def test_clusters_widen_the_interval_and_are_counted_and_one_of_them_is_one_draw(scorer):
    tags = passages(60, 6)
    gains = [i // 6 in (1, 2, 4, 7) for i in range(60)]  # all rows of a passage change together
    a, b, by = run([False] * 60, tags=tags), run(gains, tags=tags), {"cluster_by": "tags.passage"}
    alone = compare("a", a, "b", b, [scorer("right")]).metrics["right"]
    together = compare("a", a, "b", b, [scorer("right")], **by).metrics["right"]
    assert (alone.clusters, together.clusters) == (None, 10)
    assert together.difference == alone.difference == pytest.approx(0.4)
    assert together.ci95[1] - together.ci95[0] > 1.5 * (alone.ci95[1] - alone.ci95[0])
    assert together.p_value > 100 * alone.p_value
    assert together.detectable > 1.5 * alone.detectable
    won = run([True] * 60, tags=tags)
    alone = compare("a", a, "b", won, [scorer("right")], sequential_seed=1).metrics["right"]
    together = compare("a", a, "b", won, [scorer("right")], sequential_seed=1, **by).metrics["right"]
    assert together.clusters == 10
    assert together.p_value > alone.p_value


def test_slices_are_clustered_too_and_rows_without_a_cluster_stand_for_themselves(scorer):
    tags = [{"passage": str(i // 4), "topic": "sums"} for i in range(16)] + [{"topic": "sums"}] * 4
    a, b = run([False] * 20, tags=tags), run([i < 8 for i in range(20)], tags=tags)
    found = compare("a", a, "b", b, [scorer("right")], "right", cluster_by="tags.passage")
    assert found.metrics["right"].clusters == found.slices["topic=sums"]["right"].clusters == 8


def test_what_could_be_seen_is_told_and_one_row_shows_no_difference(scorer):
    values = [True, False, True, True] * 10
    found = compare("a", run(values), "b", run(values[::-1]), [scorer("right")])
    assert 0 < found.metrics["right"].detectable < 1
    assert found.power["right"].startswith("with 40 rows a difference of ")
    assert "you need" in found.power["right"]
    single = compare("a", run([True]), "b", run([True]), [scorer("right")])
    assert single.metrics["right"].detectable is None
    assert json.loads(json.dumps(single.to_json()))


# Slices and changed rows


@pytest.mark.parametrize(("values", "kept"), [(100, True), (101, False)])
def test_a_tag_of_too_many_values_names_rows_and_no_slices(scorer, values, kept):
    tags = [{"id": str(i % values), "topic": "sums"} for i in range(5 * values)]
    given = run([i % 2 == 0 for i in range(5 * values)], tags=tags)
    slices = compare("a", given, "b", given, [scorer("right")], slice_metric="right").slices
    assert len(slices) == (values if kept else 0) + 1
    assert "topic=sums" in slices


def test_only_the_rows_that_changed_most_are_kept_in_the_order_of_the_rows_and_of_equal_ones_the_first(scorer):
    changes = [((7 * i) % 500 + 1) / 1000 for i in range(500)]  # every change is another one, in no order
    a, b = run([0.0] * 500), run(changes)
    changed = compare("a", a, "b", b, [scorer("right")], slice_metric="right").changed_rows
    assert len(changed) == 200
    assert sorted(row["b"] for row in changed) == sorted(changes)[-200:]
    assert [row["id"] for row in changed] == sorted((row["id"] for row in changed), key=lambda name: int(name[1:]))
    equal = compare("a", run([False] * 300), "b", run([True] * 300), [scorer("right")], "right").changed_rows
    assert [row["id"] for row in equal] == [f"r{i}" for i in range(200)]


# Runs that were stopped early


def test_a_run_that_was_stopped_early_is_tested_anytime_valid_for_metrics_within_bounds(scorer):
    a, b = run([False] * 40), run([True] * 40)
    usual = compare("a", a, "b", b, [scorer("right")])
    found = compare("a", a, "b", b, [scorer("right")], sequential_seed=3)
    assert (usual.sequential, found.sequential) == (False, True)
    metric = found.metrics["right"]
    assert metric.test == "sequential-betting"
    assert usual.metrics["right"].p_value < metric.p_value < 0.05
    assert metric.ci95[0] < usual.metrics["right"].ci95[0]
    assert metric.difference == 1.0
    assert (metric.detectable, found.power) == (None, {})
    a, b = run([0.0, 0.5, 12.0] * 5), run([1.0, 0.5, 12.0] * 5)
    assert compare("a", a, "b", b, [scorer("right")]).metrics.keys() == {"right"}
    assert compare("a", a, "b", b, [scorer("right")], sequential_seed=1).metrics == {}


def test_rows_are_tested_in_the_order_of_their_draw_which_is_by_chance_and_always_the_same(scorer):
    a, b = run([False] * 40), run([i % 3 != 0 for i in range(40)])
    expected = SequentialTest()
    expected.update([float(i % 3 != 0) for i in sorted(range(40), key=lambda i: sampling_position(5, f"r{i}"))])
    metric = compare("a", a[::-1], "b", b[::-1], [scorer("right")], sequential_seed=5).metrics["right"]
    assert (metric.p_value, metric.ci95) == (expected.p_value, expected.interval)
    drawn = [sampling_position(1, f"r{i}") for i in range(2000)]
    assert drawn == [sampling_position(1, f"r{i}") for i in range(2000)]
    assert drawn != [sampling_position(2, f"r{i}") for i in range(2000)]
    assert all(0 <= place < 1 for place in drawn)
    assert sum(place < 0.25 for place in drawn) == pytest.approx(500, abs=80)
    assert 0 <= sampling_position(1, "\ud800") < 1  # half a surrogate pair, which JSON may hold


# Noise


def test_the_engines_own_noise_stands_beside_what_changed_where_it_is_known(scorer):
    a, b = run([0.1, 0.2, 0.3, 0.4] * 5), run([0.1, 0.2, 0.3, 0.5] * 5)
    found = compare("a", a, "b", b, [scorer("right")], noise=Noise(32, 8))
    assert (found.noise.changed, found.noise.expected) == (5, 5.0)
    told = json.loads(json.dumps(found.to_json()))["noise"]
    assert (told["n"], told["flips"], told["changed"], told["expected_changed"]) == (32, 8, 5, 5.0)
    unknown = compare("a", a, "b", b, [scorer("right")])
    assert (unknown.noise, unknown.to_json()["noise"]) == (None, None)


def test_a_slice_in_which_one_side_has_no_score_is_named_and_not_passed_over(scorer):
    tags = [{"topic": "sums" if i < 6 else "words"} for i in range(12)]
    a, b = run([True] * 12, tags=tags), run([None] * 6 + [True] * 6, tags=tags)
    found = compare("a", a, "b", b, [scorer("right")], "right")
    assert list(found.slices) == ["topic=words"]
    apart = found.not_compared["right in topic=sums"]
    assert (apart.reason, apart.n, apart.failed_a, apart.failed_b) == ("no row of b has a score", 6, 0, 6)


def test_what_became_of_both_runs_rows_is_counted_and_told(scorer):
    a, b = run([True] * 8), run([True] * 5)
    b[0] = RowResult(b[0].row, Output("ans", "length"), b[0].scores)
    b[1] = RowResult(b[1].row, Output("", error="timed out"), {"right": Score(error="generation failed: timed out")})
    found = compare("app@1", a, "app@2", b, [scorer("right")])
    assert (found.answers_a, found.answers_b) == (AnswerCounts(8), AnswerCounts(5, failed=1, cut_off=1))
    assert found.rows_told() == (
        "5 rows are in both runs; app@1: 8 rows, none failed, cut off or empty, 3 not in the other run (37.5 %); "
        "app@2: of 5 rows 1 failed (20 %), 1 cut off at max_tokens (20 %)"
    )


@pytest.mark.parametrize("sequential_seed", [None, 7])
@pytest.mark.parametrize(("higher", "worst"), [(True, 0.0), (False, 1.0)])
def test_the_ends_of_what_failed_rows_could_have_scored_are_compared_too(scorer, higher, worst, sequential_seed):
    made = scorer("right", higher_is_better=higher, worst=worst, limits=(0.0, 1.0))
    good = float(higher)
    a, b = run([good] * 36 + [None] * 4), run([None] * 3 + [good] * 37)
    found = compare("a", a, "b", b, [made], sequential_seed=sequential_seed).metrics["right"]
    sign = 1 if higher else -1
    assert found.difference == pytest.approx(sign * 1 / 40)  # as counted: every failed row is the worst
    assert found.at_worst.difference == pytest.approx(sign * -3 / 40)  # of b the worst, of a the best
    assert found.at_best.difference == pytest.approx(sign * 4 / 40)


def test_without_failed_rows_or_known_limits_there_are_no_ends_and_a_failed_row_counts_as_the_worst_score_given(scorer):
    whole = compare("a", run([1.0] * 9), "b", run([0.5] * 9), [scorer("right")]).metrics["right"]
    boundless = scorer("right", higher_is_better=False, worst=None, limits=(0.0, math.inf))
    cut = compare("a", run([1.0] * 9), "b", run([None, *[0.5] * 8]), [boundless]).metrics["right"]
    assert (whole.at_worst, whole.at_best) == (None, None)
    assert cut.at_worst is None  # a failed row may have taken any time
    assert cut.at_best is not None  # but no less than none
    # A similarity of 0 is its worst by name, and one below 0 occurs.
    found = metric_of([-0.4] * 8, [-0.4] * 6 + [None] * 2, scorer("similar", limits=(-1.0, 1.0)))
    assert (found.failed_as, found.difference) == (-0.4, 0.0)


def test_metrics_that_are_to_be_kept_apart_are_not_compared_and_say_why(scorer):
    found = compare(
        "a", run([True] * 6), "b", run([None] * 6), [scorer("right")], "right", apart={"right": "defined otherwise"}
    )
    assert (found.metrics, found.slices, found.changed_rows) == ({}, {}, [])
    assert found.to_json()["not_compared"]["right"] == {
        "reason": "defined otherwise", "n": 6, "failed_a": 0, "failed_b": 6
    }  # fmt: skip


# Pairs


def saying(name: str, ids: Sequence[str]) -> list[RowResult]:
    return [RowResult(EvalRow(id_, {"question": f"question {id_}"}), Output(f"{name} says {id_}"), {}) for id_ in ids]


def joined(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """Ids of the pairs, in order; each is checked to hold one row of each run."""
    pairs = list(paired(saying("a", a), saying("b", b)))
    for left, right in pairs:
        assert left.row.id == right.row.id
        assert (left.output.text, right.output.text) == (f"a says {left.row.id}", f"b says {left.row.id}")
    return [left.row.id for left, _ in pairs]


def test_pairs_stand_in_an_order_that_is_the_same_in_every_process():
    assert joined("abcd", "abcd") == list("abcd")
    # Two pairs are completed by the same step, for each of many swapped neighbours.
    a = [f"{kind}{number}" for number in range(40) for kind in "xy"]
    b = [f"{kind}{number}" for number in range(40) for kind in "yx"]
    assert joined(a, b) == b


def test_rows_of_one_order_never_wait():
    taken = 0

    def counted(results: Sequence[RowResult]) -> Iterator[RowResult]:
        nonlocal taken
        for result in results:
            taken += 1
            yield result

    next(paired(counted(saying("a", "abcdef")), counted(saying("b", "abcdef"))))
    assert taken == 2


IDS = st.lists(st.integers(0, 30).map(str), unique=True, max_size=20)


@given(IDS, IDS)
def test_every_shared_row_is_joined_exactly_once_and_runs_that_share_none_are_refused(a, b):
    if shared := set(a) & set(b):
        assert sorted(joined(a, b)) == sorted(shared)
    else:
        with pytest.raises(CannotRun, match="share no row"):
            joined(a, b)
