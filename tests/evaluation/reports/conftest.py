"""A made-up comparison and leaderboard, small enough to know by heart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from llmops.evaluation.metric_comparison import MetricComparison
from tests.pages.reading import Reading

ROWS_TOLD = (
    "20 rows are in both runs; qa@1: of 20 rows 3 failed (15 %); qa@2: of 20 rows 9 cut off at max_tokens (45 %)"
)
SMALL = "<b>small</b>"
HOSTILE = "</script><img src=x onerror=alert(1)>|`code`\n# head @all #1 \u2028\x00\x1b\ud800 & ]]> --> **x**"


def difference(**changed: Any) -> MetricComparison:
    return replace(MetricComparison(0.5, 0.7, 0.2, (0.1, 0.3), 0.004, 0.008, "mcnemar-exact", 6, 2, 12, 20), **changed)


WORDS = difference(
    a=9, b=9, difference=0.0, ci95=[-1, 1], p_value=1.0, p_adjusted=1.0, higher_is_better=None
)  # fmt: skip


def row(number: int, change: float | None = 0.0, **changed: Any) -> dict[str, Any]:
    scores = {
        "correct": {
            "a": change is not None and change < 0,
            "b": (change or 0) > 0,
            "rationale_a": "",
            "rationale_b": "as expected",
        }
    }
    return {
        "id": f"row-{number}", "inputs": {"question": f"What is {number}?"}, "expectations": {"answers": [str(number)]},
        "tags": {"topic": "even" if number % 2 == 0 else "odd"}, "contexts": [], "output_a": f"It is {number}.",
        "output_b": f"It was {number}.", "error_a": None, "error_b": None, "scores": scores, "change": change,
        **changed,
    }  # fmt: skip


def side(letter: str, **changed: Any) -> dict[str, Any]:
    return {
        "name": f"qa@{letter},tiny@1", "run_id": f"run-{letter}", "prompt": f"qa@{letter}", "model": "tiny@1",
        "release": None, "params": {"temperature": 0, "max_tokens": 16}, "prompt_text": None,
        "metrics": {"correct": {"mean": 0.5, "n_scored": 20, "n_failed": 0, "ci95": [0.3, 0.7]}},
        "tokens_in": 1200, "tokens_out": 80, "cost": None, "seconds": 1.5, **changed,
    }  # fmt: skip


@pytest.fixture(scope="session")
def make_difference() -> Callable[..., Any]:
    return difference


@pytest.fixture(scope="session")
def make_row() -> Callable[..., Any]:
    return row


@pytest.fixture(scope="session")
def make_side() -> Callable[..., Any]:
    return side


@pytest.fixture(scope="session")
def make_report() -> Callable[..., Any]:
    """A report in which `correct` decides and is better; keywords replace its parts."""

    def make(**changed: Any) -> Any:
        comparison = {
            "a": "qa@1", "b": "qa@2", "rows": 20, "rows_told": ROWS_TOLD,
            "metrics": {"correct": difference(), "words": WORDS},
            "slices": {"topic=odd": {"correct": difference(p_adjusted=0.4)}, "topic=even": {"correct": difference()}},
            "noise": {"flip_share": 0.021, "ci95": [0.01, 0.05], "expected_changed": 0.4, "changed": 8},
            "power": ["20 rows show a difference of 0.3."],
        }  # fmt: skip
        check = {
            "name": "correct is better",
            "kind": "superiority",
            "metric": "correct",
            "outcome": "pass",
            "detail": "+0.2",
        }
        return {
            "title": "qa@2 against qa@1", "suite": "qa", "created": "2026-11-25T03:36:12+00:00", "primary": "correct",
            "a": side("1"), "b": side("2"), "comparison": {**comparison, **changed.pop("comparison", {})},
            "verdict": {"verdict": "pass", "reasons": ["correct is significantly better"], "checks": [check]},
            "rows": [row(number, (0.0, -1.0, 1.0, 0.0)[number % 4]) for number in range(20)], **changed,
        }  # fmt: skip

    return make


@pytest.fixture
def hostile_report(make_report: Callable[..., Any]) -> Any:
    """A report in which everything that comes from outside tries to break out."""
    check = {"name": HOSTILE, "kind": "superiority", "metric": HOSTILE, "outcome": "inconclusive", "detail": HOSTILE}
    turns = [{"role": HOSTILE, "content": HOSTILE}]
    bad_row = row(
        1, -1.0, id=HOSTILE, inputs={HOSTILE: HOSTILE}, expectations={"answers": [HOSTILE]}, tags={HOSTILE: HOSTILE},
        contexts=[HOSTILE], output_a=HOSTILE, output_b=HOSTILE + "!", error_a=HOSTILE,
        scores={HOSTILE: {"a": 1.0, "b": 0.0, "rationale_a": HOSTILE, "rationale_b": HOSTILE}},
    )  # fmt: skip
    return make_report(
        title=HOSTILE, suite=HOSTILE, primary=HOSTILE, rows=[bad_row],
        a=side("1", name=HOSTILE, params={HOSTILE: HOSTILE}, prompt_text=turns),
        b=side("2", name=HOSTILE, params={HOSTILE: 1}, prompt_text=[*turns, *turns]),
        comparison={"metrics": {HOSTILE: difference()}, "slices": {HOSTILE: {HOSTILE: difference()}},
            "power": [HOSTILE]},
        verdict={"verdict": "inconclusive", "reasons": [HOSTILE], "checks": [check]},
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
        p_adjusted = 0.0004 if real else 0.6
        return {
            "better": better,
            "worse": worse,
            "difference": gap,
            "ci95": [gap - 0.05, gap + 0.05],
            "p_adjusted": p_adjusted,
            "real": real,
        }

    return {
        "suite": "qa", "rows": 20, "primary": "correct",
        "cells": [cell("large", 0.8, [1, 1]), cell("middle", 0.6, [2, 3], failed=1), cell(SMALL, 0.55, [2, 3])],
        "pairs": [pair("large", "middle", 0.2, True), pair("large", SMALL, 0.25, True),
                  pair("middle", SMALL, 0.05, False)],
    }  # fmt: skip


@pytest.fixture(scope="session")
def read() -> type[Reading]:
    return Reading
