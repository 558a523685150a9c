"""A made-up comparison and leaderboard, small enough to know by heart."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from llmops.evaluation.comparison import Comparison, NoiseFound
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.gate import GateCheck, Verdict
from llmops.evaluation.metric_comparison import MetricComparison
from llmops.evaluation.reports.contents import Report, Row, Side
from llmops.evaluation.reports.html import report_html
from llmops.evaluation.results import AnswerCounts, Metric, Noise, Output, RowResult, Score

ROWS_TOLD = (
    "20 rows are in both runs; qa@1: of 20 rows 3 failed (15 %); qa@2: of 20 rows 9 cut off at max_tokens (45 %)"
)
SMALL = "<b>small</b>"
HOSTILE = "</script><img src=x onerror=alert(1)>|`code`\n# head @all #1 \u2028\x00\x1b\ud800 & ]]> --> **x**"


def difference(**changed: Any) -> MetricComparison:
    return replace(MetricComparison(0.5, 0.7, 0.2, (0.1, 0.3), 0.004, 0.008, "mcnemar-exact", 6, 2, 12, 20), **changed)


WORDS = difference(a=9, b=9, difference=0.0, ci95=(-1, 1), p_value=1.0, p_adjusted=1.0, higher_is_better=None)


def row(number: int, change: float | None = 0.0, **changed: Any) -> Row:
    """Row `row-N`. output_a, output_b, error_a, error_b, scores (a and b of each): of its sides; others: of the row."""
    correct = {"a": change is not None and change < 0, "b": (change or 0) > 0, "rationale_b": "as expected"}
    scores, outputs = changed.pop("scores", {"correct": correct}), {"a": f"It is {number}.", "b": f"It was {number}."}
    sides = []
    expectations, tags = {"answers": [str(number)]}, {"topic": "even" if number % 2 == 0 else "odd"}
    outputs = {side: changed.pop(f"output_{side}", text) for side, text in outputs.items()}
    errors = {side: changed.pop(f"error_{side}", None) for side in "ab"}
    known = {"id": f"row-{number}", "inputs": {"question": f"What is {number}?"}, "expectations": expectations}
    eval_row = EvalRow(**{**known, "tags": tags, **changed})
    for side in "ab":
        made = {name: Score(score[side], score.get(f"rationale_{side}", "")) for name, score in scores.items()}
        sides.append(RowResult(eval_row, Output(outputs[side], error=errors[side]), made))
    return Row(*sides, change)


def side(letter: str, **changed: Any) -> Side:
    known: dict[str, Any] = {
        "name": f"qa@{letter},tiny@1", "run_id": f"run-{letter}", "prompt": f"qa@{letter}", "model": "tiny@1",
        "release": None, "params": {"temperature": 0, "max_tokens": 16}, "prompt_text": None,
        "metrics": {"correct": Metric(0.5, 20, 0, (0.3, 0.7))}, "tokens_in": 1200, "tokens_out": 80, "seconds": 1.5,
    }  # fmt: skip
    return Side(**{**known, **changed})


def verdict(outcome: Any, *reasons: str, checks: Sequence[GateCheck] = ()) -> Verdict:
    return Verdict(outcome, reasons, tuple(checks))


def report(**changed: Any) -> Report:
    """A report in which `correct` decides and is better; keywords replace its parts."""
    comparison = {
        "metrics": {"correct": difference(), "words": WORDS},
        "slices": {"topic=odd": {"correct": difference(p_adjusted=0.4)}, "topic=even": {"correct": difference()}},
        "power": {"correct": "20 rows show a difference of 0.3"},
        "noise": NoiseFound(Noise(1000, 21), changed=8, expected=0.4),
        **changed.pop("comparison", {}),
    }
    answers: dict[str, Any] = {"answers_a": AnswerCounts(20, failed=3), "answers_b": AnswerCounts(20, cut_off=9)}
    check = GateCheck("correct is better", "superiority", "correct", "pass", "+0.2")
    known: dict[str, Any] = {
        "title": "qa@2 against qa@1", "suite": "qa", "created": "2026-11-25T03:36:12+00:00", "primary": "correct",
        "a": side("1"), "b": side("2"), "verdict": verdict("pass", "correct is significantly better", checks=[check]),
        "comparison": Comparison("qa@1", "qa@2", 20, changed_rows=[], **comparison, **answers),
        "rows": [row(number, (0.0, -1.0, 1.0, 0.0)[number % 4]) for number in range(20)],
    }  # fmt: skip
    return Report(**{**known, **changed})


def html(report: Report) -> str:
    return "".join(report_html(report))


@pytest.fixture
def hostile_report() -> Report:
    """A report in which everything that comes from outside tries to break out."""
    kind: Any = "superiority"
    turns = [{"role": HOSTILE, "content": HOSTILE}]
    bad_row = row(
        1, -1.0, id=HOSTILE, inputs={HOSTILE: HOSTILE}, expectations={"answers": [HOSTILE]}, tags={HOSTILE: HOSTILE},
        contexts=(HOSTILE,), output_a=HOSTILE, output_b=HOSTILE + "!", error_a=HOSTILE,
        scores={HOSTILE: {"a": 1.0, "b": 0.0, "rationale_a": HOSTILE, "rationale_b": HOSTILE}},
    )  # fmt: skip
    return report(
        title=HOSTILE, suite=HOSTILE, primary=HOSTILE, rows=[bad_row],
        a=side("1", name=HOSTILE, params={HOSTILE: HOSTILE}, prompt_text=turns),
        b=side("2", name=HOSTILE, params={HOSTILE: 1}, prompt_text=[*turns, *turns]),
        comparison={"metrics": {HOSTILE: difference()}, "slices": {HOSTILE: {HOSTILE: difference()}},
            "power": {HOSTILE: HOSTILE}},
        verdict=verdict("inconclusive", HOSTILE, checks=[GateCheck(HOSTILE, kind, HOSTILE, "inconclusive", HOSTILE)]),
    )  # fmt: skip


@pytest.fixture
def board() -> Any:
    def cell(name: str, mean: float | None, ranks: list[int], failed: int = 0) -> dict[str, Any]:
        return {
            "name": name, "mean": mean, "ci95": None if mean is None else [mean - 0.1, mean + 0.1],
            "n_scored": 20 - failed, "n_failed": failed,
            "answers": {"rows": 20, "failed": failed, "cut_off": 9, "empty": 0}, "tokens_out": 1234, "cost": None,
            "latency_ms_p50": 41.2, "rank_range": ranks,
        }  # fmt: skip

    def pair(better: str, worse: str, gap: float, real: bool) -> dict[str, Any]:
        found = {"difference": gap, "ci95": [gap - 0.05, gap + 0.05], "p_adjusted": 0.0004 if real else 0.6}
        return {"better": better, "worse": worse, "real": real, **found}

    return {
        "suite": "qa", "rows": 20, "primary": "correct",
        "cells": [cell("large", 0.8, [1, 1]), cell("middle", 0.6, [2, 3], failed=1), cell(SMALL, 0.55, [2, 3])],
        "pairs": [pair("large", "middle", 0.2, True), pair("large", SMALL, 0.25, True),
                  pair("middle", SMALL, 0.05, False)],
    }  # fmt: skip
