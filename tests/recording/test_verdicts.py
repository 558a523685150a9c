"""Verdicts, comparisons, reports and calibrations stay with the runs they are about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import UnknownVersion
from llmops.recording import (
    find_calibration,
    record_calibration,
    record_comparison,
    record_monitoring_run,
    record_report,
    record_verdict,
)

CALIBRATION = {"kappa": 0.71, "kappa_low": 0.6, "kappa_high": 0.8, "n": 120, "n_failed": 2, "accuracy": 0.9, "why": "ü"}


@pytest.fixture
def run_id(desk):
    return str(desk.client.create_run(desk.store.experiment("sums")).info.run_id)


def read(desk: Any, run_id: str, path: str, folder: Path) -> str:
    return Path(desk.client.download_artifacts(run_id, path, str(folder))).read_text(encoding="utf-8")


def test_a_verdict_is_a_tag_and_a_file_with_its_evidence(desk, run_id, tmp_path):
    verdict = {"verdict": "fail", "reasons": ["worse"], "against": "assistant@1", "comparison": {"rows": 24}}
    path = record_verdict(desk.store, run_id, verdict)
    tags = desk.client.get_run(run_id).data.tags
    assert (tags["llmops.gate"], tags["llmops.gate.against"]) == ("fail", "assistant@1")
    assert path == "gate/against-assistant-1.json"
    assert json.loads(read(desk, run_id, path, tmp_path)) == verdict


def test_a_later_verdict_stands(desk, run_id):
    record_verdict(desk.store, run_id, {"verdict": "inconclusive", "against": "qa@1,tiny@1"})
    path = record_verdict(desk.store, run_id, {"verdict": "pass", "against": None})
    tags = desk.client.get_run(run_id).data.tags
    assert (tags["llmops.gate"], tags["llmops.gate.against"]) == ("pass", "nothing")
    assert path == "gate/against-nothing.json"
    assert {item.path for item in desk.client.list_artifacts(run_id, "gate")} == {
        "gate/against-qa-1-tiny-1.json",
        path,
    }


def test_a_comparison_and_a_report_are_files_of_the_run(desk, run_id, tmp_path):
    page = tmp_path / "report.html"
    page.write_text("<p>better</p>", encoding="utf-8")
    record_comparison(desk.store, run_id, "with-a", {"rows": 3})
    path = record_report(desk.store, run_id, page)
    assert path == "reports/report.html"
    (tmp_path / "down").mkdir()
    assert read(desk, run_id, path, tmp_path / "down") == "<p>better</p>"
    assert json.loads(read(desk, run_id, "comparisons/with-a.json", tmp_path / "down")) == {"rows": 3}


def test_a_verdict_on_a_run_that_is_not_there_says_so(desk):
    with pytest.raises(UnknownVersion, match="0" * 32):
        record_verdict(desk.store, "0" * 32, {"verdict": "pass", "against": None})


def test_the_newest_calibration_of_a_judge_is_found(desk):
    assert find_calibration(desk.store, "j" * 64) is None
    record_calibration(desk.store, "helpful", {**CALIBRATION, "kappa": 0.1}, "j" * 64)
    run_id = record_calibration(desk.store, "helpful", CALIBRATION, "j" * 64)
    record_calibration(desk.store, "helpful", {"kappa": None, "n": 0}, "k" * 64)
    assert find_calibration(desk.store, "j" * 64) == CALIBRATION
    found = desk.client.get_run(run_id)
    assert found.info.experiment_id == desk.store.experiment("judges")
    assert found.data.metrics == {name: value for name, value in CALIBRATION.items() if name != "why"}


def test_a_monitoring_run_holds_its_verdict_and_alarms(desk, tmp_path):
    run_id = record_monitoring_run(desk.store, "assistant", {"alarms": [{"what": "length"}]}, {"rows": 5.0})
    found = desk.client.get_run(run_id)
    assert (found.data.tags["llmops.app"], found.data.tags["llmops.alarms"]) == ("assistant", "1")
    assert found.data.metrics == {"rows": 5.0}
    assert json.loads(read(desk, run_id, "verdict.json", tmp_path))["alarms"][0]["what"] == "length"
