"""What is put on record about runs, and what fact sheets read of a store."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import Corrupted, UnknownVersion
from llmops.hashing import content_hash
from llmops.recording import find_calibration, record_calibration, record_comparison, record_report, record_verdict
from llmops.recording.cell import eval_runs, json_mapping, verdicts_of
from tests.recording.conftest import report

CALIBRATION = {"kappa": 0.71, "kappa_low": 0.6, "kappa_high": 0.8, "n": 120, "n_failed": 2, "accuracy": 0.9, "why": "ü"}


@pytest.fixture
def run_id(desk):
    return str(desk.client.create_run(desk.store.experiment("sums")).info.run_id)


def read(desk: Any, run_id: str, path: str, folder: Path) -> str:
    return Path(desk.client.download_artifacts(run_id, path, str(folder))).read_text(encoding="utf-8")


def test_a_verdict_is_a_tag_and_a_file_with_its_evidence_and_a_later_one_stands(desk, run_id, tmp_path):
    verdict = {"verdict": "fail", "reasons": ["worse"], "against": "assistant@1", "comparison": {"rows": 24}}
    path = record_verdict(desk.store, run_id, verdict)
    tags = desk.client.get_run(run_id).data.tags
    assert (tags["llmops.gate"], tags["llmops.gate.against"]) == ("fail", "assistant@1")
    assert path == "gate/against-assistant-1.json"
    assert json.loads(read(desk, run_id, path, tmp_path)) == verdict
    record_verdict(desk.store, run_id, {"verdict": "inconclusive", "against": "qa@1,tiny@1"})
    later = record_verdict(desk.store, run_id, {"verdict": "pass", "against": None})
    tags = desk.client.get_run(run_id).data.tags
    assert (tags["llmops.gate"], tags["llmops.gate.against"]) == ("pass", "nothing")
    files = {item.path for item in desk.client.list_artifacts(run_id, "gate")}
    assert files == {path, later, "gate/against-qa-1-tiny-1.json"}
    assert later == "gate/against-nothing.json"
    with pytest.raises(UnknownVersion, match="0" * 32):
        record_verdict(desk.store, "0" * 32, {"verdict": "pass", "against": None})


def test_a_comparison_and_a_report_are_files_of_the_run(desk, run_id, tmp_path):
    page = tmp_path / "report.html"
    page.write_text("<p>better</p>", encoding="utf-8")
    record_comparison(desk.store, run_id, "with-a", {"rows": 3})
    path = record_report(desk.store, run_id, page)
    assert path == "reports/report.html"
    (tmp_path / "down").mkdir()
    assert read(desk, run_id, path, tmp_path / "down") == "<p>better</p>"
    assert json.loads(read(desk, run_id, "comparisons/with-a.json", tmp_path / "down")) == {"rows": 3}


def test_the_newest_calibration_of_a_judge_is_found(desk):
    assert find_calibration(desk.store, "j" * 64) is None
    record_calibration(desk.store, "helpful", {**CALIBRATION, "kappa": 0.1}, "j" * 64)
    run_id = record_calibration(desk.store, "helpful", CALIBRATION, "j" * 64)
    record_calibration(desk.store, "helpful", {"kappa": None, "n": 0}, "k" * 64)
    assert find_calibration(desk.store, "j" * 64) == CALIBRATION
    found = desk.client.get_run(run_id)
    assert found.info.experiment_id == desk.store.experiment("judges")
    assert found.data.metrics == {name: value for name, value in CALIBRATION.items() if name != "why"}


@pytest.fixture(scope="module")
def run(desk):
    return desk.recorder.record(desk.cell("facts", ("facts-rows",)), report(4), "bulk")


def test_an_eval_run_is_read_with_its_content_data_and_verdicts(desk, run):
    verdict = {"verdict": "pass", "against": None, "suite": "facts", "runs": {"b": run.run_id}}
    record_verdict(desk.store, run.run_id, verdict)
    found = next(each for each in eval_runs(desk.store, "qa@1", "tiny@1") if each.run_id == run.run_id)
    assert (found.suite, found.rows, found.content["parameters"]) == ("facts", 4, {"max_tokens": 16})
    assert [(used.name, used.source["sha256"]) for used in found.datasets] == [
        ("facts-rows", content_hash("facts-rows"))
    ]
    assert verdicts_of(desk.store, run.run_id) == (verdict,)
    assert found.by
    assert found.at > 1.7e9


def test_runs_of_other_versions_and_unfinished_ones_are_left_out(desk, run):
    assert eval_runs(desk.store, "qa@2", "tiny@1") == []
    desk.client.set_tag(run.run_id, "llmops.complete", "false")
    try:
        assert run.run_id not in [found.run_id for found in eval_runs(desk.store, "qa@1", "tiny@1")]
    finally:
        desk.client.set_tag(run.run_id, "llmops.complete", "true")


def test_more_runs_than_a_page_are_all_read(desk, run, monkeypatch):
    others = {desk.recorder.record(desk.cell("facts"), report(1), "bulk").run_id for _ in range(2)}
    monkeypatch.setattr("llmops.registry.store._PAGE", 1)
    assert others | {run.run_id} <= {found.run_id for found in eval_runs(desk.store, "qa@1", "tiny@1")}


def test_a_file_that_is_no_json_is_named(desk, run):
    desk.client.log_text(run.run_id, "{", "gate/cut-off.json")
    try:
        with pytest.raises(Corrupted, match=f"gate/cut-off.json of run {run.run_id}"):
            verdicts_of(desk.store, run.run_id)
    finally:
        desk.client.log_text(run.run_id, '{"verdict": "fail"}', "gate/cut-off.json")


@pytest.mark.parametrize("text", [None, "", "not json", "[1]"])
def test_what_others_logged_as_no_object_says_nothing(text):
    assert json_mapping(text) == {}
