"""An MLflow tracking store that keeps traces in memory, for `mlflow.genai.evaluate` (docs/adr/0007).

It is registered in MLflow's entry point `mlflow.tracking_store`, under `SCHEME`. Every process that imports MLflow
imports this module too, so it imports nothing else.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

SCHEME = "llmops-in-memory"
"""Begins a tracking URI. What follows it tells apart the stores that MLflow keeps open."""

_SPANS_LOCATION, _TRACKING_STORE = "mlflow.trace.spansLocation", "TRACKING_STORE"


class TracesInMemory:
    """Holds the traces that it is given, and is another store for all others and for everything else."""

    def __init__(self, **_place: Any) -> None:
        self._stored: Any = None
        self._held: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stored, name)

    @contextmanager
    def holding(self, traces: Sequence[Any], stored: Any) -> Iterator[None]:
        """Holds MLflow's traces; assessments that are logged meanwhile are added to them. stored: the other store."""
        self._stored = stored
        self._held |= {trace.info.trace_id: trace for trace in traces}
        try:
            yield
        finally:
            for trace in traces:
                del self._held[trace.info.trace_id]

    def link_traces_to_run(self, trace_ids: Sequence[str], run_id: str) -> None:
        """Those held are linked when they are written."""
        if others := [trace_id for trace_id in trace_ids if trace_id not in self._held]:
            self._stored.link_traces_to_run(others, run_id)

    def create_assessment(self, assessment: Any) -> Any:
        if (trace := self._held.get(assessment.trace_id)) is None:
            return self._stored.create_assessment(assessment)
        trace.info.assessments.append(assessment)
        return assessment

    def get_trace_info(self, trace_id: str) -> Any:
        if (trace := self._held.get(trace_id)) is None:
            return self._stored.get_trace_info(trace_id)
        # Otherwise its spans are looked for in a file.
        return replace(trace.info, tags={**trace.info.tags, _SPANS_LOCATION: _TRACKING_STORE})

    def get_trace(self, trace_id: str, **options: Any) -> Any:
        return self._held.get(trace_id) or self._stored.get_trace(trace_id, **options)

    def search_traces(self, **wanted: Any) -> Any:
        """Those held of the run that is asked for; all else is asked of the other store."""
        condition = wanted.get("filter_string") or ""
        infos = [trace.info for trace in list(self._held.values())]
        found = [info for info in infos if info.trace_metadata["mlflow.sourceRun"] in condition]
        return (found, None) if found else self._stored.search_traces(**wanted)
