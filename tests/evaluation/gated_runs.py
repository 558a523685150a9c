"""Made-up runs for the gate, through the real comparison: rows that failed, have no partner, or share a source."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from llmops.evaluation.comparison import compare
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.gate import Facts, GateRules, Verdict, decide, slice_metrics
from llmops.evaluation.results import AnswerCounts, Metric, Output, RowResult, Score
from llmops.evaluation.runner import Summary
from llmops.evaluation.scorers.protocol import Scorer, limits_of
from tests.evaluation.conftest import MadeUpScorer

RIGHT = MadeUpScorer("right", limits=(0.0, 1.0))
REFUSAL = MadeUpScorer("refusal", higher_is_better=False, worst=1.0, limits=(0.0, 1.0))
LATENCY = MadeUpScorer("latency_ms", higher_is_better=False, worst=None, limits=(0.0, math.inf))
WORDS = MadeUpScorer("words", higher_is_better=None, worst=None, limits=(0.0, math.inf))
SCORERS = (RIGHT, REFUSAL, LATENCY, WORDS)

Run = Sequence[RowResult]


def run(scores: Mapping[str, Sequence[bool | float]], *, cluster: int = 1, parts: int = 2) -> list[RowResult]:
    """A run whose rows have these scores. cluster: rows of one source. parts: slices `part=0`, `part=1` …"""
    return [
        RowResult(
            EvalRow(f"r{i}", {"q": f"{i}?", "source": f"s{i // cluster}"}, tags={"part": str(i % parts)}),
            Output("an answer", latency_ms=1.0),
            {name: Score(values[i]) for name, values in scores.items()},
        )
        for i in range(len(next(iter(scores.values()))))
    ]


def unanswered(result: RowResult) -> RowResult:
    """The row, had the engine failed."""
    failed = {name: Score(error="generation failed: out of order") for name in result.scores}
    return replace(result, output=Output("", error="out of order"), scores=failed)


def unscored(result: RowResult, scorer: str) -> RowResult:
    """The row, had one scorer failed."""
    return replace(result, scores={**result.scores, scorer: Score(error="the judge is away")})


def metrics_of(results: Run, scorers: Sequence[Scorer], cluster_by: str | None = None) -> dict[str, Metric]:
    summary = Summary(scorers, cluster_by)
    for result in results:
        summary.add(result)
    return summary.metrics()


def gate(
    rules: GateRules,
    a: Run | None,
    b: Run,
    *,
    untrusted: Mapping[str, str] | None = None,
    cluster_by: str | None = None,
    sequential_seed: int | None = None,
) -> Verdict:
    """What the gate says of `b` against the champion `a`, as `Evaluations.gate` asks it; only of the scorers that the
    rules name, which saves time. sequential_seed: of runs that were stopped early."""
    scorers = [scorer for scorer in SCORERS if scorer.name in set(rules.scorers)]
    wanted = {name: list(floors) for name, floors in rules.slice_floors.items()}
    comparison = None
    if a is not None:
        comparison = compare("app@1", a, "app@2", b, scorers, cluster_by=cluster_by, sequential_seed=sequential_seed)
    facts = Facts(
        metrics=metrics_of(b, scorers, cluster_by),
        comparison=comparison,
        answers=AnswerCounts.of(result.output for result in b),
        champion=metrics_of(a, scorers, cluster_by) if a is not None else {},
        slices=slice_metrics(b, wanted),
        untrusted=untrusted or {},
        limits={scorer.name: limits_of(scorer) for scorer in SCORERS},
    )
    return decide(rules, facts)
