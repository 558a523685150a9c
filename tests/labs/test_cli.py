"""How `llmops lab` tells of an alarm; and labs as a whole: minutes, on real data and a real gateway."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from labs.checks import check_module
from labs.checks.tabular import check_wine
from labs.cli import _alarm_lines
from llmops.registry import Registry
from llmops.settings import Settings


def told(why: str, *drifted: str) -> list[str]:
    return list(_alarm_lines({"window": "2012-01", "why": why, "drifted": list(drifted)}))


def test_a_long_reason_is_told_whole_within_100_columns():
    why = " ".join(f"word-{number}" for number in range(60))
    lines = told(why)
    assert all(len(line) <= 100 for line in lines)
    assert " ".join(" ".join(lines).split()) == f"2012-01 {why}"


def test_six_drifted_columns_are_named_the_others_counted_and_none_that_the_reason_names():
    assert told("the error rose", *"abcdefgh")[1] == f"{'':11}drifted: a, b, c, d, e, f and 2 more"
    assert len(told("the error rose; drifted: year, atemp", "year", "atemp")) == 1
    assert len(told("the error rose; drifted: year, atemp", "year", "temp")) == 2


def run(home, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLMOPS_")}
    return subprocess.Popen(
        [sys.executable, "-m", "llmops.cli", "lab", *arguments, "--json"],
        env={**environment, "LLMOPS_HOME": str(home)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def finished(home, *arguments):
    process = run(home, *arguments)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.mark.slow
def test_the_bike_lab_alarms_where_the_error_rises_and_retraining_lowers_it(tmp_path):
    found = finished(tmp_path, "bike")
    assert found["metric"]["value"] <= found["metric"]["baseline"]
    assert len(found["monitoring"]) == 12
    alarms = [each["window"] for each in found["monitoring"] if each["alarm"]]
    assert alarms == ["2012-01", "2012-03", "2012-09"]  # as docs/labs/bike.md says
    assert [each["at"] for each in found["retrained"]] == alarms
    assert all(each["error_after"] < each["error_before"] for each in found["retrained"])
    again = finished(tmp_path, "bike")
    assert {step["status"] for step in again["steps"]} == {"skipped"}
    assert again["monitoring"] == found["monitoring"]


@pytest.mark.slow
def test_the_wine_lab_goes_on_after_kill_9_and_registers_nothing_twice(tmp_path):
    for seconds in (15, 30):
        process = run(tmp_path, "wine")
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    found = finished(tmp_path, "wine")
    assert next(each["window"] for each in found["monitoring"] if each["alarm"]) == "batch 07"
    assert [each["alarm"] for each in found["monitoring"][:6]] == [False] * 6
    (promotion,) = found["retrained"]
    assert promotion["error_after"] < promotion["error_before"]
    assert found["model"] == promotion["to"] == "wine@2"
    check_finds_what_is_missing_until_it_is_done(tmp_path)


def check_finds_what_is_missing_until_it_is_done(home):
    """`llmops lab check wine` after the whole lab, which lacks what a learner does by hand, and after that."""
    settings = Settings(home=home)
    half = check_module("wine", settings)
    (missing,) = [each for each in half.achievements if not each.done]
    assert missing.what.startswith("the old instrument is back")
    assert {each.state for each in half.questions} == {"unanswered"}
    Registry(settings).tabular_versions.roll_back("wine")
    _, questions = check_wine(settings)
    right = {question.key: question.value for question in questions}
    assert None not in right.values(), "the home can tell each answer"
    wrong = check_module("wine", settings, {**right, "alarm": "batch 01"})
    assert all(each.done for each in wrong.achievements)
    assert [each.key for each in wrong.questions if each.state == "wrong"] == ["alarm"]
    assert not wrong.done
    assert check_module("wine", settings, right).done


INSURANCE_STEPS = ("validate", "train", "evaluate", "gate", "register", "deploy", "monitor 2022Q1", "retrain 2023Q2")


@pytest.mark.slow
def test_the_insurance_lab_goes_on_after_kill_9_in_each_step_and_comes_to_the_same(tmp_path):
    whole = finished(tmp_path / "whole", "insurance")
    assert whole["verdict"] == "pass"
    assert whole["gate"]["compared_with"] == "formula"
    assert whole["findings"][0]["verdict"] == "pass", "knowing the accidents is worth something"
    assert [each["window"] for each in whole["monitoring"] if each["alarm"]] == ["2023Q1", "2023Q2"]
    assert "2022Q4, whose labels have come: the error (actual_over_expected) rose" in whole["monitoring"][6]["why"]
    (promotion,) = whole["retrained"]
    assert (promotion["at"], promotion["to"]) == ("2023Q2", whole["model"])
    assert promotion["error_after"] < promotion["error_before"]
    for step in INSURANCE_STEPS:
        process = run(tmp_path / "killed", "insurance")
        assert process.stderr is not None
        seen = next((line for line in process.stderr if line.startswith(f"insurance@first: {step}")), None)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert seen, step
    found = finished(tmp_path / "killed", "insurance")
    for key in ("findings", "gate", "model", "attempts", "retrained"):
        assert found[key] == whole[key], key
    for ours, theirs in zip(found["monitoring"], whole["monitoring"], strict=True):
        for key in ("window", "alarm", "why", "served_by", "error", "estimated_error"):
            assert ours[key] == theirs[key]


@pytest.mark.slow
def test_each_step_of_the_insurance_lab_runs_alone_and_its_version_has_a_fact_sheet(tmp_path):
    assert finished(tmp_path, "insurance", "data")["quality"]["rows_kept"] > 100_000
    trained = finished(tmp_path, "insurance", "train")
    assert (trained["trained"]["best"], trained["gate"]["verdict"]) == ("glm+accidents", "pass")
    assert finished(tmp_path, "insurance", "register")["champion"] == "risk@1"
    assert finished(tmp_path, "insurance", "monitor")["why"].startswith("labels have not come yet")
    assert "2021Q3, whose labels have come" in finished(tmp_path, "insurance", "monitor")["why"]
    attempt = finished(tmp_path, "insurance", "retrain")
    assert (attempt["from"], attempt["to"]) == ("risk@1", None)
    sheet = subprocess.run(
        [sys.executable, "-m", "llmops.cli", "factsheet", "risk@1"], env={**os.environ, "LLMOPS_HOME": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "simulated:insurance-datasets==0.1.4" in sheet.stdout
