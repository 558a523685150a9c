"""Counts what the store holds of a run, by MLflow's own search, and compares it with what was handed over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from llmops.errors import RecordingIncomplete
from llmops.evaluation.results import RowResult

_PAGE = 500
_TRACES, _SPANS = ("traces", ""), ("spans", "")
_EXPECTATION = "expectation"


class Expected:
    """What a run must hold: counted while it is written."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def add(self, result: RowResult) -> None:
        self.counts.update((_TRACES, _SPANS))
        self.counts.update((_EXPECTATION, name) for name in result.row.expectations)
        self.counts.update((_kind(score.error), name) for name, score in result.scores.items())


def check_complete(client: Any, experiment_id: str, run_id: str, expected: Expected) -> None:
    """Raises RecordingIncomplete when anything is missing, or there twice. MLflow's errors pass through."""
    stored = count_stored(client, experiment_id, run_id)
    wrong = [
        f"{' '.join(filter(None, key))} {stored[key]} of {expected.counts[key]}"
        for key in sorted(stored | expected.counts)
        if stored[key] != expected.counts[key]
    ]
    if wrong:
        raise RecordingIncomplete(
            f"MLflow run {run_id} holds {', '.join(wrong)}; run the command again (nothing is generated twice)"
        )


def count_stored(client: Any, experiment_id: str, run_id: str) -> Counter[tuple[str, str]]:
    """Traces, spans, expectations and scores by name, failed scores apart. MLflow's errors pass through."""
    counts: Counter[tuple[str, str]] = Counter()
    for trace in stored_traces(client, experiment_id, run_id):
        counts[_TRACES] += 1
        # Set by the store when the trace's spans have arrived.
        counts[_SPANS] += "mlflow.trace.spansLocation" in trace.info.tags
        for assessment in trace.info.assessments:
            kind = _EXPECTATION if assessment.expectation is not None else _kind(assessment.error)
            counts[kind, assessment.name] += 1
    return counts


def _kind(error: object | None) -> str:
    """MLflow turns whatever goes wrong while it scores into a failed score, so those are counted apart."""
    return "score" if error is None else "failed score"


def stored_traces(client: Any, experiment_id: str, run_id: str) -> Iterator[Any]:
    """MLflow's traces of a run, without their spans, page by page."""
    token = None
    while True:
        page = client.search_traces(
            locations=[experiment_id],
            filter_string=f"metadata.`mlflow.sourceRun` = '{run_id}'",
            max_results=_PAGE,
            page_token=token,
            include_spans=False,
        )
        yield from page
        token = page.token
        if not token:
            return
