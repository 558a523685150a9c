"""Is the challenger better than the champion? By the comparison and the gate that releases of language models pass, on
the same rows: a prediction is an output, its error a score, and the hours of a day are a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labs.labelled_rows import LabelledRows
from llmops.errors import UsageError
from llmops.evaluation.comparison import Comparison, compare
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.gate import Facts, GateRules, Verdict, decide
from llmops.evaluation.results import AnswerCounts, Metric, Output, RowResult
from llmops.evaluation.runner import Summary, one_score
from llmops.evaluation.scorers.protocol import Scorer, limits_of

_CLUSTER = "cluster"
_CLUSTER_BY = f"inputs.{_CLUSTER}"


@dataclass(frozen=True, slots=True)
class Judgement:
    """The gate's verdict on a challenger, and the comparison it rests on; None where there was no champion."""

    rules: GateRules
    verdict: Verdict
    comparison: Comparison | None

    @property
    def passed(self) -> bool:
        return self.verdict.verdict == "pass"

    def to_json(self) -> dict[str, Any]:
        return {
            **self.verdict.to_json(),
            "rules": self.rules.to_json(),
            "comparison": self.comparison.to_json() if self.comparison is not None else None,
        }


def row_results(rows: LabelledRows, predictions: Sequence[Any], scorers: Sequence[Scorer]) -> list[RowResult]:
    """Each row with what was predicted and its scores, as an evaluation of a language model would have them.

    Raises:
        UsageError: not one prediction for each row.
    """
    if len(predictions) != len(rows):
        raise UsageError(f"{len(predictions)} predictions for {len(rows)} rows of {rows.name}")
    truths, said = (_plain(values) for values in (rows.truth, predictions))
    results = []
    for i, inputs in enumerate(rows.rows()):
        tags = {tag: values[i] for tag, values in rows.tags.items()}
        # The cluster is an input, not a tag: as a tag each day would be a slice of its own.
        eval_row = EvalRow(
            rows.ids[i], {**inputs, _CLUSTER: rows.clusters[i]}, {"expected_response": truths[i]}, (), tags
        )
        output = Output(_text(said[i]))
        results.append(
            RowResult(eval_row, output, {scorer.name: one_score(scorer, eval_row, output) for scorer in scorers})
        )
    return results


def judge(
    challenger: tuple[str, Sequence[Any]],
    champion: tuple[str, Sequence[Any]] | None,
    rows: LabelledRows,
    scorers: Sequence[Scorer],
    rules: GateRules,
) -> Judgement:
    """Judges a challenger on rows that neither model was trained on.

    challenger, champion: a name (`bike@3`) and the predictions for the rows, in their order. Without a champion only
    floors and ceilings count.
    """
    name, predictions = challenger
    of_challenger = row_results(rows, predictions, scorers)
    metrics = _metrics(of_challenger, scorers)
    comparison, champion_metrics = None, {}
    if champion is not None:
        of_champion = row_results(rows, champion[1], scorers)
        comparison = compare(
            champion[0], of_champion, name, of_challenger, scorers, rules.primary, cluster_by=_CLUSTER_BY
        )
        champion_metrics = _metrics(of_champion, scorers)
    facts = Facts(
        metrics=metrics,
        comparison=comparison,
        answers=AnswerCounts.of(result.output for result in of_challenger),
        name=name,
        champion=champion_metrics,
        limits={scorer.name: limits_of(scorer) for scorer in scorers},
    )
    return Judgement(rules, decide(rules, facts), comparison)


def _metrics(results: Sequence[RowResult], scorers: Sequence[Scorer]) -> dict[str, Metric]:
    summary = Summary(scorers, _CLUSTER_BY)
    for result in results:
        summary.add(result)
    return summary.metrics()


def _plain(values: Any) -> list[Any]:
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
