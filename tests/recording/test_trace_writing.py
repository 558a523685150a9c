"""Traces that are inserted into MLflow's tables are those that MLflow's own client would have written."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import sqlalchemy as sa

from deploy.services.servers import PostgresServer
from llmops.recording.trace_writing import TraceWriter
from llmops.recording.traces import RowTrace, TraceMaker, make_trace
from llmops.registry import Store
from llmops.settings import Settings
from tests.recording.conftest import open_desk, row

TABLES = ("trace_info", "trace_tags", "trace_request_metadata", "spans", "assessments", "entity_associations")
OWN = {"association_id", "created_time", "created_timestamp", "last_updated_timestamp"}
"""Columns whose values differ between any two writes."""


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def any_desk(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Any]:
    if request.param == "sqlite":
        yield request.getfixturevalue("desk")
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    uri = server.new_database("written_to_by_two").replace("postgresql://", "postgresql+psycopg://")
    found = open_desk(Settings(home=tmp_path_factory.mktemp("home"), tracking_uri=uri))
    yield found
    found.store.client.database.dispose()


def traces_of(desk: Any, experiment_id: str, run_id: str) -> list[RowTrace]:
    """Rows of an eval run, and one as production makes them."""
    maker = TraceMaker(desk.cell(seed=0), run_id, experiment_id, 1_000, with_scores=True)
    spoken = make_trace(
        f"tr-{run_id[:8]:0<32}",
        run_id[:16],
        experiment_id,
        begin_ms=2_000,
        latency_ms=3.25,
        error="gone: ä",
        attributes={"mlflow.spanInputs": {"messages": ["só"]}, "mlflow.spanOutputs": "“yes”", "parameters": None},
        metadata={"mlflow.trace.user": "anna", "mlflow.modelId": ""},
        tags={"release": "app@1"},
        tokens=(5, 6),
        client_request_id=f"req_{run_id[:8]}",
    )
    return [*(maker.make(number, row(number)) for number in range(6)), spoken]


def stored(store: Store, run_id: str, traces: list[RowTrace]) -> dict[str, list[list[tuple[str, Any]]]]:
    """Everything of these traces, with their own ids replaced by their numbers."""
    ids = {run_id: "run", f"req_{run_id[:8]}": "request"}
    for number, trace in enumerate(traces):
        in_content = trace.span.to_dict()  # which has them in Base64
        ids |= {trace.trace_id: f"trace {number}", trace.span.span_id: f"span {number}"}
        ids |= {in_content["trace_id"]: f"trace {number}", in_content["span_id"]: f"span {number}"}
        ids |= {each.assessment_id: f"{each.name} of {number}" for each in trace.info.assessments}

    def shown(value: Any) -> Any:
        for own, name in ids.items():
            value = value.replace(own, name) if isinstance(value, str) else value
        return value

    found = {}
    for name in TABLES:
        with store.client.database.connect() as connection:
            table = sa.Table(name, sa.MetaData(), autoload_with=connection)
            key = "request_id" if "request_id" in table.c else "trace_id" if "trace_id" in table.c else "source_id"
            rows = connection.execute(sa.select(table).where(table.c[key].in_(list(ids)))).mappings().all()
        found[name] = sorted([(k, shown(v)) for k, v in row.items() if k not in OWN] for row in rows)
    return found


def test_the_tables_are_those_that_mlflow_writes_column_by_column(any_desk):
    store, prompt, found = any_desk.store, any_desk.registry.prompts.get("qa@1"), []
    experiment_id = store.experiment("sums")
    for client in (store.mlflow_client, store.client):
        run_id = store.mlflow_client.create_run(experiment_id).info.run_id
        traces = traces_of(any_desk, experiment_id, run_id)
        listed = {trace.trace_id: prompt for trace in traces[:2]}
        writer = TraceWriter(cast(Store, SimpleNamespace(uri=store.uri, client=client)))
        writer.write(experiment_id, traces[:6], listed, run_id)
        writer.write(experiment_id, traces[6:], {})
        found.append(stored(store, run_id, traces))
        read = [store.mlflow_client.get_trace(trace.trace_id) for trace in traces]
        assert [trace.data.spans[0].to_dict() for trace in read] == [trace.span.to_dict() for trace in traces]
    by_mlflow, inserted = found
    assert {name: len(rows) for name, rows in inserted.items()} == {name: len(rows) for name, rows in by_mlflow.items()}
    assert inserted == by_mlflow
    assert len(inserted["entity_associations"]) == 2 + 6


def test_traces_that_are_there_are_replaced_and_the_others_added(any_desk):
    store = any_desk.store
    experiment_id = store.experiment("sums")
    run_id = store.mlflow_client.create_run(experiment_id).info.run_id
    writer = TraceWriter(store)
    traces = traces_of(any_desk, experiment_id, run_id)
    writer.write(experiment_id, traces[:3], {}, run_id)
    writer.write(experiment_id, traces, {}, run_id)
    once = stored(store, run_id, traces)
    writer.write(experiment_id, traces, {}, run_id)
    again = stored(store, run_id, traces)
    for found in (once, again):  # how often it was written is the one number that differs
        found["trace_info"] = [
            [each for each in info if each[0] != "db_payload_generation"] for info in found["trace_info"]
        ]
    assert once == again
    assert len(once["trace_info"]) == 7
