"""Monitoring runs in MLflow: one for each window, and one with their history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import UsageError
from llmops.recording import nameless, record_monitoring_run
from llmops.recording.facts import monitoring_experiment


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


def test_the_same_window_again_is_the_same_run_brought_up_to_date(desk):
    first = record_monitoring_run(desk.store, "again", verdict(1), {"alarms": 0.0, "rows": 9.0})
    second = record_monitoring_run(desk.store, "again", verdict(1, "refusal"), {"alarms": 1.0, "rows": 9.0})
    assert first == second
    found = desk.client.get_run(second)
    assert (found.data.tags["llmops.state"], found.data.metrics) == ("alarm", {"alarms": 1.0, "rows": 9.0})
    over_time = history(desk, second)
    assert [point.value for point in desk.client.get_metric_history(over_time, "rows")] == [9.0]
    assert desk.client.get_run(over_time).data.metrics["alarms"] == 1.0


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


def test_other_descriptors_make_another_run_of_the_same_window(desk):
    one = record_monitoring_run(desk.store, "versions", verdict(1), {}, descriptor_version="a")
    other = record_monitoring_run(desk.store, "versions", verdict(1), {}, descriptor_version="b")
    assert one != other


def test_more_metrics_than_mlflow_takes_at_once_are_all_there(desk):
    metrics = {f"mean/d{number}": float(number) for number in range(2100)}
    run_id = record_monitoring_run(desk.store, "many", verdict(1), metrics)
    assert desk.client.get_run(run_id).data.metrics == metrics


def test_a_refused_metric_is_a_plain_error(desk):
    with pytest.raises(UsageError, match="recording the monitoring of bad"):
        record_monitoring_run(desk.store, "bad", verdict(1), {"a$b?": 1.0})
