"""`mlflow.genai.evaluate` over rows that are scored already: it makes their assessments as it would make any others.

Left to itself it stores each score in a transaction of its own and then reads every trace again. So it works on a store
that holds the traces in memory, and all that it made is written with the traces at once.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from llmops.evaluation.results import Score
from llmops.recording.traces import RowTrace, TextCleaner, assessment_id, feedback
from llmops.registry.store import Store

SCHEME = "llmops-in-memory"
"""Begins a tracking URI: the rest is that of the store which answers for all but traces."""

_SCORERS_DIGEST = "mlflow.genaiEvaluate.scorersDigest"


class TracesInMemory:
    """An MLflow tracking store that holds the traces which it is given, and is another store for everything else.

    It is registered in MLflow's entry point `mlflow.tracking_store`, under `SCHEME`.
    """

    def __init__(self, store_uri: str, **_artifacts: Any) -> None:
        from mlflow.tracing.client import TracingClient

        self._stored = TracingClient(store_uri.removeprefix(f"{SCHEME}:")).store
        self._held: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stored, name)

    @contextmanager
    def holding(self, traces: Sequence[Any]) -> Iterator[None]:
        """Holds MLflow's traces; assessments that are logged meanwhile are added to them."""
        self._held = {trace.info.trace_id: trace for trace in traces}
        try:
            yield
        finally:
            self._held = {}

    def link_traces_to_run(self, trace_ids: Sequence[str], run_id: str) -> None:
        """They are linked when they are written."""

    def create_assessment(self, assessment: Any) -> Any:
        self._held[assessment.trace_id].info.assessments.append(assessment)
        return assessment

    def get_trace_info(self, trace_id: str) -> Any:
        from mlflow.tracing.constant import SpansLocation, TraceTagKey

        info = self._held[trace_id].info
        # Otherwise its spans are looked for in a file.
        return replace(info, tags={**info.tags, TraceTagKey.SPANS_LOCATION: SpansLocation.TRACKING_STORE.value})

    def get_trace(self, trace_id: str, **_partial: Any) -> Any:
        return self._held[trace_id]

    def batch_get_traces(self, trace_ids: Sequence[str], *_location: Any) -> list[Any]:
        return [self._held[trace_id] for trace_id in trace_ids]

    def search_traces(self, **_wanted: Any) -> tuple[list[Any], None]:
        return [trace.info for trace in self._held.values()], None


@contextmanager
def _in_memory(store: Store, traces: Sequence[Any]) -> Iterator[None]:
    """MLflow's module-level functions find these traces in memory, and all else in the store."""
    import mlflow
    from mlflow.tracing.client import TracingClient

    uri = f"{SCHEME}:{store.uri}"
    with TracingClient(uri).store.holding(traces):
        mlflow.set_tracking_uri(uri)
        try:
            yield
        finally:
            store.make_current()


def evaluate_traces(
    store: Store,
    run_id: str,
    model_id: str,
    dataset: Any,
    traces: Sequence[RowTrace],
    scorers: Sequence[str],
    scores: Mapping[str, Mapping[str, Score]],
    clean: TextCleaner,
) -> None:
    """Adds to each trace the assessments that `mlflow.genai.evaluate` makes inside the active run.

    scorers: their names.
    scores: by trace id, then by scorer.

    MLflow's errors pass through; what it loses with a warning is counted when the traces are written.
    """
    import mlflow
    import pandas as pd
    from mlflow.entities import Trace, TraceData
    from mlflow.genai.datasets.evaluation_dataset import compute_records_sha256
    from mlflow.genai.scorers import scorer
    from mlflow.utils.mlflow_tags import MLFLOW_GENAI_EVALUATE_DATASET_IDENTITY

    held = [Trace(trace.info, TraceData(spans=[trace.span])) for trace in traces]
    data = pd.DataFrame({"trace": held})
    # The way `EvaluationDataset.to_df` says which data set it is; without it MLflow logs one named "dataset".
    data.attrs[MLFLOW_GENAI_EVALUATE_DATASET_IDENTITY] = {
        **dict(dataset),
        "records_sha256": compute_records_sha256(data),
    }

    def replaying(name: str) -> Any:
        """A scorer that gives each trace the score it already has. The run's means are logged by us."""

        def replayed(trace: Any) -> Any:
            return feedback(name, scores[trace.info.trace_id][name], clean, run_id)

        return scorer(name=name, aggregations=[])(replayed)

    # MLflow prints a banner to stdout, which belongs to the command's own output; what it warns of (failed scores, its
    # own type hints) is counted and shown by us, or no business of the user's.
    logging.getLogger("mlflow.genai.evaluation.harness").setLevel(logging.ERROR)
    with _in_memory(store, held), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.genai.evaluate(data=data, scorers=list(map(replaying, scorers)), model_id=model_id or None)
    for trace in traces:
        for made in trace.info.assessments:
            made.assessment_id = assessment_id(trace.trace_id, made)
    # A digest of the replaying functions, which are the same for all scorers: it would call any two runs alike.
    if _SCORERS_DIGEST in store.client.get_run(run_id).data.tags:
        store.client.delete_tag(run_id, _SCORERS_DIGEST)
