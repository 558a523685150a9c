"""Pipeline runs in MLflow: one run for each cycle, a file and a metric for each step."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llmops.pipelines import StepRecord
from llmops.recording.pipelines import PipelineRecorder, find_pipeline_run

AT = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def step(number: int, name: str, output: Any = None, error: str | None = None) -> StepRecord:
    return StepRecord(number, name, ["a", {"b": 1}], output, 1.25 * number, AT, error)


@pytest.fixture
def recorder(desk):
    return PipelineRecorder(desk.store.settings)


def files(desk: Any, run_id: str, folder: Path) -> dict[str, Any]:
    place = Path(desk.client.download_artifacts(run_id, "", str(folder)))
    return {str(path.relative_to(place)): json.loads(path.read_text()) for path in sorted(place.rglob("*.json"))}


def test_a_cycle_is_a_run_with_a_file_for_each_step(desk, recorder, tmp_path):
    recorder.begin("bike", "2026-05-01", {"seed": 3})
    recorder.step(step(1, "ingest", {"rows": 10}))
    recorder.step(step(2, "monitor 2012-01 / late", {"alarm": True}))
    recorder.end({"verdict": "pass", "told": "bike@2 serves"}, None)

    found = find_pipeline_run(desk.store, "bike", "2026-05-01")
    assert found is not None
    assert found.info.run_id == recorder.run_id
    assert (found.info.run_name, found.info.status) == ("bike 2026-05-01", "FINISHED")
    tags = found.data.tags
    assert (tags["llmops.pipeline"], tags["llmops.pipeline.cycle"], tags["llmops.pipeline.attempt"]) == (
        "bike", "2026-05-01", "1"
    )  # fmt: skip
    assert tags["mlflow.note.content"] == "bike@2 serves"
    assert found.data.metrics == {"seconds/ingest": 1.25, "seconds/monitor-2012-01-late": 2.5}
    kept = files(desk, recorder.run_id, tmp_path)
    assert list(kept) == ["inputs.json", "result.json", "steps/01-ingest.json", "steps/02-monitor-2012-01-late.json"]
    assert (kept["inputs.json"], kept["result.json"]["verdict"]) == ({"seed": 3}, "pass")
    assert kept["steps/01-ingest.json"] == {
        "number": 1,
        "name": "ingest",
        "inputs": ["a", {"b": 1}],
        "outputs": {"rows": 10},
        "error": None,
        "seconds": 1.25,
        "started_at": "2026-05-01T12:00:00.000+00:00",
        "attempt": 1,
    }


def test_a_cycle_that_goes_on_is_the_same_run(desk, recorder, tmp_path):
    recorder.begin("wine", "a", {})
    recorder.step(step(1, "ingest", {"rows": 10}))
    recorder.step(step(2, "train", None, "no disk"))
    recorder.end(None, "step train: no disk")
    failed = find_pipeline_run(desk.store, "wine", "a")
    again = PipelineRecorder(desk.store.settings)
    again.begin("wine", "a", {})
    running = find_pipeline_run(desk.store, "wine", "a")
    again.step(step(2, "train", {"version": 1}))
    again.end({}, None)

    assert failed is not None
    assert running is not None
    assert (failed.info.status, failed.data.tags["mlflow.note.content"]) == ("FAILED", "failed: step train: no disk")
    assert (running.info.status, again.run_id) == ("RUNNING", recorder.run_id)
    done = find_pipeline_run(desk.store, "wine", "a")
    assert done is not None
    assert (done.info.status, done.data.tags["mlflow.note.content"]) == ("FINISHED", "finished")
    kept = files(desk, again.run_id, tmp_path)
    assert [kept[f"steps/{name}.json"]["attempt"] for name in ("01-ingest", "02-train")] == [1, 2]
    assert (kept["steps/02-train.json"]["outputs"], kept["steps/02-train.json"]["error"]) == ({"version": 1}, None)


def test_cycles_and_pipelines_are_told_apart(desk, recorder):
    ids = set()
    for pipeline, cycle in (("wine", "1"), ("wine", "2"), ("bike", "1")):
        recorder.begin(pipeline, cycle, {})
        recorder.end({}, None)
        ids.add(recorder.run_id)
    assert len(ids) == 3
    assert find_pipeline_run(desk.store, "bike", "2") is None


def test_an_end_without_a_beginning_writes_nothing(recorder):
    recorder.end(None, "the store was away")
    assert recorder.run_id == ""
