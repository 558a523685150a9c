"""Runs of the monitor and of pipelines in MLflow."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import UsageError
from llmops.pipelines import StepRecord
from llmops.recording import nameless, record_monitoring_run
from llmops.recording.monitoring import monitoring_experiment
from llmops.recording.pipelines import PipelineRecorder, find_pipeline_run


def verdict(day: int, *alarms: str) -> dict[str, Any]:
    return {
        "app": "helper",
        "state": "alarm" if alarms else "ok",
        "window": {"since": f"2026-03-{day:02d}T00:00:00+00:00", "until": f"2026-03-{day + 1:02d}T00:00:00+00:00"},
        "slices": [{"slice": {"app": "helper"}}, {"slice": {"release": "helper@2"}}],
        "alarms": [{"what": name} for name in alarms],
        "drift_in": ["output"] if alarms else [],
    }


def runs(desk: Any, app: str) -> list[Any]:
    return list(desk.client.search_runs([desk.store.experiment(monitoring_experiment(app))]))


def history(desk: Any, run_id: str) -> str:
    return str(desk.client.get_run(run_id).data.tags["mlflow.parentRunId"])


def test_a_window_is_a_run_with_verdict_page_and_tags_below_the_history_of_its_app(desk, tmp_path):
    run_id = record_monitoring_run(desk.store, "tagged", verdict(1, "refusal"), {"rows": 5.0}, page="<p>worse</p>")
    found = desk.client.get_run(run_id)
    assert found.info.status == "FINISHED"
    tags = {
        name: found.data.tags[f"llmops.{name}"] for name in ("app", "state", "alarms", "alarmed", "drift_in", "release")
    }
    assert tags == {"app": "tagged", "state": "alarm", "alarms": "1", "alarmed": "refusal", "drift_in": "output",
                    "release": "helper@2"}  # fmt: skip
    assert found.data.metrics == {"rows": 5.0}
    folder = desk.client.download_artifacts(run_id, "", str(tmp_path))
    kept = json.loads((Path(folder) / "verdict.json").read_text())
    assert (kept["state"], kept["alarms"][0]["what"]) == ("alarm", "refusal")
    assert (Path(folder) / "verdict.html").read_text() == "<p>worse</p>"
    assert desk.client.get_run(history(desk, run_id)).info.run_name == "tagged over time"


def test_the_history_has_a_point_for_each_window_at_its_end(desk):
    for day in (1, 2, 3):
        metrics = {"mean/words": 10.0 * day, "drift/words/p_adjusted": 0.5, "drift/words/effect": 0.01 * day}
        run_id = record_monitoring_run(desk.store, "steps", verdict(day), metrics)
    points = desk.client.get_metric_history(history(desk, run_id), "mean/words")
    assert [point.value for point in points] == [10.0, 20.0, 30.0]
    assert [point.step - points[0].step for point in points] == [0, 24, 48]
    assert "drift/words/p_adjusted" not in desk.client.get_run(history(desk, run_id)).data.metrics
    assert len(runs(desk, "steps")) == 4


def test_the_same_window_again_is_the_same_run_brought_up_to_date_unless_descriptors_are_others(desk):
    first = record_monitoring_run(desk.store, "again", verdict(1), {"alarms": 0.0, "rows": 9.0})
    second = record_monitoring_run(desk.store, "again", verdict(1, "refusal"), {"alarms": 1.0, "rows": 9.0})
    assert first == second
    found = desk.client.get_run(second)
    assert (found.data.tags["llmops.state"], found.data.metrics) == ("alarm", {"alarms": 1.0, "rows": 9.0})
    over_time = history(desk, second)
    assert [point.value for point in desk.client.get_metric_history(over_time, "rows")] == [9.0]
    assert desk.client.get_run(over_time).data.metrics["alarms"] == 1.0
    one = record_monitoring_run(desk.store, "versions", verdict(1), {}, descriptor_version="a")
    other = record_monitoring_run(desk.store, "versions", verdict(1), {}, descriptor_version="b")
    assert one != other


def test_what_is_kept_names_no_request_and_no_user():
    given = verdict(1) | {
        "slices": [{"slice": {"app": "helper"}}, {"slice": {"user": "anna"}}],
        "alarms": [
            {"what": "refusal", "why": "rose in anna", "rows": ["anna-1"], "slices": [{"user": "anna"}]},
            {"what": "error", "why": "rose in helper", "rows": ["anna-2"], "slices": [{"app": "helper"}]},
        ],
    }
    kept = nameless(given)
    assert "anna" not in json.dumps(kept)
    assert [alarm["rows_named"] for alarm in kept["alarms"]] == [1, 1]
    assert kept["alarms"][1]["why"] == "rose in helper"
    assert "anna" in json.dumps(given)


@pytest.mark.slow
def test_more_metrics_than_mlflow_takes_at_once_are_all_there_and_a_refused_one_is_a_plain_error(desk):
    metrics = {f"mean/d{number}": float(number) for number in range(2100)}
    run_id = record_monitoring_run(desk.store, "many", verdict(1), metrics)
    assert desk.client.get_run(run_id).data.metrics == metrics
    with pytest.raises(UsageError, match="recording the monitoring of bad"):
        record_monitoring_run(desk.store, "bad", verdict(1), {"a$b?": 1.0})


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

    assert (failed.info.status, failed.data.tags["mlflow.note.content"]) == ("FAILED", "failed: step train: no disk")
    assert (running.info.status, again.run_id) == ("RUNNING", recorder.run_id)
    done = find_pipeline_run(desk.store, "wine", "a")
    assert (done.info.status, done.data.tags["mlflow.note.content"]) == ("FINISHED", "finished")
    kept = files(desk, again.run_id, tmp_path)
    assert [kept[f"steps/{name}.json"]["attempt"] for name in ("01-ingest", "02-train")] == [1, 2]
    assert (kept["steps/02-train.json"]["outputs"], kept["steps/02-train.json"]["error"]) == ({"version": 1}, None)


def test_cycles_and_pipelines_are_told_apart_and_an_end_without_a_beginning_writes_nothing(recorder, desk):
    recorder.end(None, "the store was away")
    assert recorder.run_id == ""
    ids = set()
    for pipeline, cycle in (("wine", "1"), ("wine", "2"), ("bike", "1")):
        recorder.begin(pipeline, cycle, {})
        recorder.end({}, None)
        ids.add(recorder.run_id)
    assert len(ids) == 3
    assert find_pipeline_run(desk.store, "bike", "2") is None
