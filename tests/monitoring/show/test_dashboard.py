"""The dashboard's files are an Evidently workspace: small, idempotent, and thinned out as they age."""

import json
import os
from datetime import UTC, datetime

import pytest

from llmops.errors import CannotRun
from monitoring.show import dashboard as dashboard_module
from monitoring.show.dashboard import Dashboard, project_id
from monitoring.show.dashboard_panels import panels
from monitoring.show.history import DAY, HOUR, Levels
from monitoring.store.summaries import FlagSummary, NumberSummary, Summary

START = datetime(2026, 3, 1, tzinfo=UTC)


def verdict(until, alarms=0):
    drift = {"effect": 0.07, "drifted": bool(alarms)}
    names = ("output.refusal", "latency_ms", "input.words")
    return {
        "app": "assistant",
        "state": "alarm" if alarms else "ok",
        "window": {"since": (until - DAY).isoformat(), "until": until.isoformat(), "rows": 500},
        "slices": [
            {"slice": {"app": "assistant"}, "descriptors": dict.fromkeys(names, drift)},
            {"slice": {"release": "assistant@2"}, "descriptors": dict.fromkeys(names, drift)},
        ],
        "alarms": [{"what": "output.refusal", "why": "rose", "rows": ["r1"], "kind": "limit"}] * alarms,
        "expected_false_alarms_per_month": 0.1,
    }


def summary(rows=24, refusals=3):
    flags = {"output.refusal": FlagSummary(rows, refusals), "output.pii_email": FlagSummary(rows, 0)}
    return Summary(rows=rows, numbers={"latency_ms": NumberSummary.of([200.0] * rows)}, flags=flags)


def levels(since, length):
    return Levels(since, since + length, summary(), {"assistant@2": summary(12), "assistant@10": summary(12)})


def files(folder):
    return sorted((folder / str(project_id("assistant")) / "snapshots").glob("*.json"))


def test_evidently_reads_what_is_written_which_stays_small(tmp_path):
    from monitoring.evidently_import import evidently

    evidently()  # imports it without its warnings
    from evidently.ui.service.base import SeriesFilter
    from evidently.ui.service.storage.local import InMemoryDataStorage
    from evidently.ui.service.storage.local.base import LocalState

    board = Dashboard(tmp_path)
    board.add_verdict("assistant", "run-1", verdict(START, alarms=3))
    board.add_levels("assistant", [levels(START, HOUR)])
    state = LocalState.load(str(tmp_path), None)
    (project,) = state.projects.values()
    assert project.name == "assistant"
    read = {snapshot.metadata.get("run"): snapshot for snapshot in state.snapshots[project.id].values()}
    assert read["run-1"].tags == ["verdict", "alarm", "assistant@2"]
    assert read["run-1"].metric_results["app alarms limit"].value == 3
    assert read[None].metric_results["assistant@10 latency_ms"].value == 200
    points = InMemoryDataStorage(str(tmp_path), state)._metrics_points
    assert points is not None
    assert max(path.stat().st_size for path in files(tmp_path)) < 12_000
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()], "no half of one is left"
    known = {point.params["column"] for found in points[project.id].values() for point in found}
    # Every line of every panel has numbers, or none yet because that never happened.
    for panel in state.read_dashboard(project.id).panels:
        for line in panel.values:
            assert SeriesFilter(**line.dict(include={"tags", "metadata", "metric", "metric_labels"}))
            assert line.metric_labels["column"] in known or line.metric_labels["column"].endswith(" alarms")


def test_writing_the_same_again_replaces_it(tmp_path):
    board = Dashboard(tmp_path)
    for _ in range(2):
        board.add_verdict("assistant", "run-1", verdict(START))
        assert board.add_levels("assistant", [levels(START, HOUR)]) == 1
    board.add_verdict("other", "run-1", verdict(START))
    assert len(board.snapshots("assistant")) == 2
    assert board.newest_level("assistant") == START + HOUR
    assert len(board.snapshots("other")) == 1
    assert board.newest_level("other") is None


def test_hours_older_than_a_week_give_way_to_their_day(tmp_path):
    board = Dashboard(tmp_path)
    board.add_levels("assistant", [levels(START + HOUR * number, HOUR) for number in range(48)])
    assert len(board.snapshots("assistant")) == 48
    board.add_levels("assistant", [levels(START, DAY), levels(START + DAY, DAY), levels(START + 20 * DAY, HOUR)])
    assert len(board.snapshots("assistant")) == 3


def test_old_verdicts_are_thinned_to_one_a_day_and_the_alarm_stays(tmp_path):
    assert dashboard_module.RECENT_VERDICTS == 300
    board = Dashboard(tmp_path)
    for number in range(324):
        board.add_verdict("assistant", f"run-{number}", verdict(START + HOUR * number, alarms=number == 5))
    kept = [json.loads(path.read_text())["metadata"]["run"] for path in files(tmp_path)]
    assert len(kept) == 301
    assert kept[0] == "run-5"


def test_requests_are_counted_by_the_hour_whatever_the_point_is(tmp_path):
    Dashboard(tmp_path).add_levels("assistant", [levels(START, DAY), levels(START + DAY, HOUR)])
    rates = [json.loads(path.read_text())["metric_results"]["app rows"]["value"] for path in files(tmp_path)]
    assert rates == [1.0, 24.0]


def test_releases_have_lines_in_the_order_of_their_versions():
    made = list(panels(["assistant@2", "assistant@10"], ["output.refusal", "mine"], []))
    drawn = {panel["title"]: [line["legend"] for line in panel["values"]] for _, panel in made}
    assert drawn["Refusals"] == ["all", "assistant@2", "assistant@10"]
    assert [panel["title"] for tab, panel in made if tab == "Others"] == ["mine"]


def test_a_folder_that_cannot_be_written_is_a_plain_error_and_a_broken_dashboard_file_is_written_anew(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CannotRun, match="the dashboard in"):
        Dashboard(tmp_path / "file").add_verdict("assistant", "run-1", verdict(START))
    board = Dashboard(tmp_path)
    board.add_verdict("assistant", "run-1", verdict(START))
    path = tmp_path / str(project_id("assistant")) / "dashboard.json"
    os.truncate(path, 10)
    board.add_verdict("assistant", "run-2", verdict(START + DAY))
    assert json.loads(path.read_text())["panels"]
