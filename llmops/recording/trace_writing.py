"""Writes traces into MLflow's store: a hundred in one transaction where its tables are known, else through MLflow.

MLflow's own client writes one trace at a time, with an object for each tag, piece of metadata and score, and reads it
back. A test compares the tables that both ways leave, column by column.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import sqlalchemy as sa

from llmops.recording.traces import RowTrace
from llmops.registry.mlflow_database import DatabaseClient
from llmops.registry.store import Store

BATCH = 100
"""Traces that are written at a time: MLflow links no more to a run at once."""

_THREADS = 4


class TraceWriter:
    """Writes traces into one store, replacing those that are already there. MLflow's errors pass through."""

    def __init__(self, store: Store) -> None:
        # What MLflow's own exporter writes through. Unlike the exporter it raises when a write fails.
        from mlflow.store.tracking.utils.sql_trace_rollups import rollups_enabled
        from mlflow.tracing.client import TracingClient

        self._tracing, self._client = TracingClient(store.uri), store.client
        # SQLite takes one writer at a time; a server, or another database, four.
        self._threads = 1 if store.uri.startswith("sqlite:") else _THREADS
        of_database = isinstance(self._client, DatabaseClient) and not rollups_enabled()
        self._database: sa.Engine | None = self._client.database if of_database else None

    def write(
        self, experiment_id: str, traces: Sequence[RowTrace], prompts: Mapping[str, Any], run_id: str | None = None
    ) -> None:
        """Writes at most `BATCH` traces of one experiment. prompts: by trace id, the prompt whose page lists the trace,
        an object with its name and version. run_id: of the run whose rows they are."""
        if self._database is not None:
            there = _there(self._database, traces)
            if new := [trace for trace in traces if trace.trace_id not in there]:
                location = self._client.get_experiment(experiment_id).artifact_location
                _insert(self._database, location, new, prompts, run_id)
            traces = [trace for trace in traces if trace.trace_id in there]
        if traces:
            self._write_by_mlflow(experiment_id, traces, prompts, run_id)

    def _write_by_mlflow(
        self, experiment_id: str, traces: Sequence[RowTrace], prompts: Mapping[str, Any], run_id: str | None
    ) -> None:
        def start(trace: RowTrace) -> None:
            self._tracing.start_trace(trace.info)
            # The tag `mlflow.linkedPrompts` shows the link; only this makes the prompt's page find the trace.
            if (prompt := prompts.get(trace.trace_id)) is not None:
                self._tracing.store.link_prompts_to_trace(trace.trace_id, [prompt])

        with ThreadPoolExecutor(self._threads, thread_name_prefix="llmops-record") as pool:
            list(pool.map(start, traces))
        self._tracing.log_spans(experiment_id, [trace.span for trace in traces])
        if run_id is not None:
            self._client.link_traces_to_run([trace.trace_id for trace in traces], run_id)


def _there(database: sa.Engine, traces: Sequence[RowTrace]) -> set[str]:
    """Ids of the traces that the database has: of a run that was not finished, or of records written twice."""
    from mlflow.store.tracking.dbmodels.models import SqlTraceInfo

    column = SqlTraceInfo.__table__.c.request_id
    with database.connect() as connection:
        query = sa.select(column).where(column.in_([trace.trace_id for trace in traces]))
        return set(connection.execute(query).scalars())


def _insert(
    database: sa.Engine,
    artifact_location: str,
    traces: Sequence[RowTrace],
    prompts: Mapping[str, Any],
    run_id: str | None,
) -> None:
    """Inserts traces that the database does not have, in one transaction. artifact_location: of their experiment."""
    from mlflow.store.tracking.dbmodels import models

    links = [
        _link(trace.trace_id, "prompt_version", f"{prompt.name}/{prompt.version}")
        for trace in traces
        if (prompt := prompts.get(trace.trace_id)) is not None
    ]
    if run_id is not None:
        links += [_link(trace.trace_id, "run", run_id) for trace in traces]
    made = (
        (models.SqlTraceInfo, list(map(_info, traces))),
        (models.SqlTraceTag, [row for trace in traces for row in _tags(trace.info, artifact_location)]),
        (models.SqlTraceMetadata, [row for trace in traces for row in _metadata(trace.info)]),
        (models.SqlSpan, list(map(_span, traces))),
        (models.SqlAssessments, [row for trace in traces for row in _assessments(trace.info)]),
        (models.SqlEntityAssociation, links),
    )
    with database.begin() as connection:
        for model, rows in made:
            if rows:
                connection.execute(sa.insert(model.__table__), rows)


def _info(trace: RowTrace) -> dict[str, Any]:
    from mlflow.store.tracking.utils import trace_analytics
    from mlflow.tracing.constant import TraceTagKey

    info = trace.info
    numbers = (*trace_analytics.TOKEN_COLUMN_BY_KEY.values(), *trace_analytics.COST_COLUMN_BY_KEY.values())
    return {
        "request_id": info.trace_id,
        "experiment_id": int(info.experiment_id),
        "timestamp_ms": info.request_time,
        "execution_time_ms": info.execution_duration or 0,
        "status": info.state.value,
        "client_request_id": info.client_request_id,
        "request_preview": info.request_preview,
        "response_preview": info.response_preview,
        "db_payload_generation": 1,  # how often spans were written
        "trace_name": info.tags.get(TraceTagKey.TRACE_NAME),
        **dict.fromkeys(("session_id", *numbers)),
        **trace_analytics.analytics_columns_from_metadata(dict(info.trace_metadata)),
    }


def _tags(info: Any, artifact_location: str) -> list[dict[str, Any]]:
    from mlflow.tracing.constant import SpansLocation, TraceTagKey
    from mlflow.utils.mlflow_tags import MLFLOW_ARTIFACT_LOCATION
    from mlflow.utils.uri import append_to_uri_path

    shown = {
        **{key: value for key, value in info.tags.items() if key != TraceTagKey.TRACE_NAME},
        MLFLOW_ARTIFACT_LOCATION: append_to_uri_path(artifact_location, "traces", info.trace_id, "artifacts"),
        TraceTagKey.SPANS_LOCATION: SpansLocation.TRACKING_STORE.value,
    }
    return [{"request_id": info.trace_id, "key": key, "value": value} for key, value in shown.items()]


def _metadata(info: Any) -> list[dict[str, Any]]:
    from mlflow.store.tracking.utils.trace_analytics import PROMOTED_TRACE_METADATA_KEYS
    from mlflow.tracing.constant import TraceMetadataKey

    shown = {key: value for key, value in info.trace_metadata.items() if key not in PROMOTED_TRACE_METADATA_KEYS}
    shown[TraceMetadataKey.TRACE_INFO_FINALIZED] = "true"
    return [{"request_id": info.trace_id, "key": key, "value": value} for key, value in shown.items()]


def _span(trace: RowTrace) -> dict[str, Any]:
    from mlflow.tracing.otel.translation import translate_span_when_storing

    span = trace.span
    return {
        "trace_id": trace.trace_id,
        "experiment_id": int(trace.info.experiment_id),
        "span_id": span.span_id,
        "parent_span_id": None,
        "name": span.name,
        "type": span.span_type,
        "status": span.status.status_code.value,
        "start_time_unix_nano": span.start_time_ns,
        "end_time_unix_nano": span.end_time_ns,
        "content": json.dumps(translate_span_when_storing(span), ensure_ascii=False),
    }


def _assessments(info: Any) -> list[dict[str, Any]]:
    from mlflow.store.tracking.dbmodels.models import SqlAssessments

    rows = []
    for assessment in info.assessments:
        made = SqlAssessments.from_mlflow_entity(assessment)
        row = {column.name: getattr(made, column.name) for column in SqlAssessments.__table__.columns}
        of_trace = {"experiment_id": int(info.experiment_id), "trace_timestamp_ms": info.request_time}
        rows.append({**row, **of_trace, "trace_id": info.trace_id})
    return rows


def _link(trace_id: str, kind: str, id_: str) -> dict[str, Any]:
    """Of a trace to a thing of this kind."""
    return {
        "association_id": uuid.uuid4().hex,
        "source_type": "trace",
        "source_id": trace_id,
        "destination_type": kind,
        "destination_id": id_,
    }
