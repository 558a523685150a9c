"""MLflow's own comparison beside ours: each disagreement is explained by what it comes from."""

import json
from collections.abc import Sequence

import pytest

from llmops.eval_runs.second_opinion import beside
from llmops.evaluation.comparison import Comparison
from llmops.evaluation.metric_comparison import Extreme, MetricComparison
from llmops.recording.second_opinion import ScorerOpinion


def metric(difference: float = 0.15, p_value: float = 0.03, n: int = 40, **more: object) -> MetricComparison:
    test, p_adjusted = str(more.pop("test", "mcnemar-exact")), float(str(more.pop("p_adjusted", p_value)))
    return MetricComparison(
        0.5, 0.5 + difference, difference, (0.01, 0.3), p_value, p_adjusted, test, 8, 2, n - 10, n, **more
    )


def opinion(
    p_value: float = 0.03, n: int = 40, ci95: tuple[float, float] = (0.01, 0.3), **more: object
) -> ScorerOpinion:
    return ScorerOpinion(n, str(more.get("method", "mcnemar_exact")), 0.15, ci95, p_value, 10)


def compared(found: MetricComparison, theirs: ScorerOpinion | None, **more: object) -> tuple[bool, Sequence[str]]:
    comparison = Comparison("a", "b", found.n, {"m": found}, {}, [], **more)
    told = beside(comparison, {} if theirs is None else {"m": theirs})["m"]
    return told.agree, told.reasons


def test_where_both_count_the_same_there_is_nothing_to_explain():
    assert compared(metric(), opinion()) == (True, [])


@pytest.mark.parametrize(
    ("found", "theirs", "agree", "told"),
    [
        (metric(p_value=1.0), opinion(0.85, ci95=(-0.3, 0.3), method="mcnemar_chi2"), True, "continuity correction"),
        (metric(p_value=0.25), opinion(0.25, ci95=(0.05, 0.35)), True, "interval leaves out 0 though its own p is not"),
        (metric(), opinion(0.03, ci95=(-0.05, 0.35)), True, "interval holds 0 though its own p is below"),
        (
            metric(p_value=0.01, test="paired-permutation"),
            opinion(0.2, ci95=(-1, 1), method="wilcoxon_exact"),
            False,
            "ranks",
        ),
        (metric(p_adjusted=0.09), opinion(), False, "does not correct for looking at 1 metrics"),
        (metric(), opinion(n=38), True, "cannot pair 2 rows"),
        (metric(clusters=9), opinion(), True, "40 rows come from 9 sources"),
        (metric(), None, False, "no score of it in both runs"),
        (metric(n=5), ScorerOpinion(5), False, "no statistics of 5 pairs"),
    ],
)
def test_each_difference_is_explained_by_where_it_comes_from(found, theirs, agree, told):
    agreed, reasons = compared(found, theirs)
    assert agreed == agree
    assert [told in reason for reason in reasons] == [True]


def test_rows_that_failed_are_told_apart_from_those_that_cannot_be_paired():
    failed = metric(p_value=0.5, n=12, failed_b=5, failed_as=0.0)
    agree, reasons = compared(failed, opinion(0.03, n=6))
    assert not agree
    assert "0 failed in a, 5 in b; it compares 6 of 12" in reasons[0]
    assert "cannot pair 1 row:" in reasons[1]


def test_a_difference_that_failed_rows_could_undo_is_none_here():
    at_worst = Extreme(-0.1, None, 0.6)
    agree, _ = compared(metric(failed_b=3, failed_as=0.0, at_worst=at_worst, at_best=at_worst), opinion(n=37))
    assert not agree


def test_runs_that_were_stopped_early_are_told():
    _, reasons = compared(metric(), opinion(), sequential=True)
    assert reasons == ["the runs were stopped early, which MLflow's p-value does not allow for"]


def test_less_is_better_where_the_scorer_says_so():
    comparison = Comparison("a", "b", 40, {"m": metric(higher_is_better=False)}, {}, [])
    told = beside(comparison, {"m": opinion()})["m"]
    assert (told.here, told.mlflow) == ("worse", "worse")


@pytest.mark.slow
def test_mlflow_3_18_is_asked_on_the_same_runs_and_its_known_faults_are_explained(with_mlflow, home, monkeypatch):
    monkeypatch.setenv("LLMOPS_EVAL_SETS", str(home.parent / "sets"))
    home.parent.mkdir(exist_ok=True)
    done = with_mlflow("mlflow==3.18.0", "-m", "tests.eval_runs.two_opinions")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    told = {suite: found[suite]["second_opinion"]["exact_match"] for suite in ("even", "few", "crashes", "same")}
    p_values = {suite: round(each["opinion"]["p_value"], 3) for suite, each in told.items()}
    assert p_values == {"even": 0.85, "few": 0.25, "crashes": 0.031, "same": 0.002}
    assert {suite: each["agree"] for suite, each in told.items()} == {**dict.fromkeys(told, True), "crashes": False}
    assert (told["crashes"]["here"], told["crashes"]["mlflow"]) == ("no difference seen", "better")
    for suite, why in (
        ("even", "exact (p = 1.000)"),
        ("few", "only 3 rows that differ"),
        ("crashes", "compares 7 of 12"),
    ):
        assert [why in reason for reason in told[suite]["reasons"]] == [True], suite
    assert told["same"]["reasons"] == []
    assert "both say the same of 0 of 1 metric" in found["shown"]
