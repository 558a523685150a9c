"""`llmops monitor run`, `reference`, `replay` and `ui`, and what `llmops promote` does to the reference."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta

import httpx
import pytest

from deploy.services.servers import free_port
from llmops.api.versions import gate_answers
from llmops.settings import Settings
from tests.moments import START
from tests.registered_home import release_of

SINCE, UNTIL = "2026-01-01T03:20:00Z", "2026-01-01T06:40:00Z"
WINDOW = ("--since", SINCE, "--until", UNTIL)


@pytest.fixture
def traffic(tmp_path, llmops):
    """200 good answers of assistant@1, then 200 of assistant@2, which refuses too often."""
    chance, lines = random.Random(1), []  # noqa: S311 (test data)
    for number in range(400):
        refuses = number >= 200 and chance.random() < 0.4
        record = {
            "request_id": f"r{number}", "at": (START + number * timedelta(minutes=1)).isoformat(), "status": 200,
            "outcome": "ok", "input": "What is the capital of France?", "release": f"assistant@{1 + number // 200}",
            "output": "I'm sorry, but I cannot help with that." if refuses else "It is Paris. " * chance.randint(1, 3),
        }  # fmt: skip
        lines.append(json.dumps(record))
    (tmp_path / "traffic.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert llmops("log", "import", str(tmp_path / "traffic.jsonl")).code == 0


@pytest.mark.usefixtures("traffic")
def test_a_run_alarms_pins_its_reference_and_says_whether_a_rollback_helps(llmops):
    found = llmops("monitor", "run", *WINDOW, "--no-record", "--json")
    assert found.code == 1
    assert "output.refusal" in {alarm["what"] for alarm in found.json["alarms"]}
    assert found.json["cure"]["rollback"] is True
    shown = llmops("monitor", "run", *WINDOW, "--no-record")
    assert "ALARM output.refusal" in shown.out
    assert "a rollback may help" in shown.out
    listed = llmops("monitor", "reference", "list", "--json").json["references"]
    assert [each["source"] for each in listed] == ["first-since"]
    reference = llmops("monitor", "reference", "show", "assistant", "--json").json
    assert (reference["rows"], reference["descriptors"]["output.refusal"]["level"]) == (200, 0.0)


@pytest.mark.usefixtures("traffic")
def test_a_run_also_describes_what_only_an_archive_holds(llmops, tmp_path):
    archive, run = str(tmp_path / "archive"), ("monitor", "run", "--app", "assistant", *WINDOW, "--no-record")
    assert llmops("log", "archive", "--to", archive, "--delete", "--undescribed", "--json").json["deleted"] == 400
    llmops(*run).refused(3, "no rows of app assistant")
    llmops(*run, "--archive", str(tmp_path / "nowhere")).refused(3, "is not there")
    llmops(*run, "--archive", archive, "--on", "somewhere").refused(2, "ray://HOST:PORT")
    nobody = f"ray://127.0.0.1:{free_port()}"
    llmops(*run, "--archive", archive, "--on", nobody).refused(3, f"{nobody} cannot be reached")
    found = llmops(*run, "--archive", archive, "--json")
    assert (found.code, found.json["computed"], found.json["window"]["rows"]) == (1, 400, 200)
    assert "output.refusal" in {alarm["what"] for alarm in found.json["alarms"]}
    again = llmops(*run, "--archive", archive, "--on", nobody, "--json")  # which needs no cluster
    assert again.json == {**found.json, "computed": 0}


@pytest.mark.usefixtures("traffic")
def test_a_reference_can_be_pinned_by_hand(llmops):
    pinned = llmops("monitor", "reference", "pin", "assistant", *WINDOW, "--why", "a bad time", "--json")
    assert (pinned.code, pinned.json["source"], pinned.json["why"]) == (0, "by-hand", "a bad time")
    empty = ("--since", "2025-01-01", "--until", "2025-01-02", "--why", "nothing")
    llmops("monitor", "reference", "pin", "assistant", *empty).refused(3, "no rows of app assistant")


def test_a_promotion_awaits_the_first_window_of_the_new_champion(home, llmops):
    release_of(Settings(home=home))
    promoted = llmops("promote", "assistant@1", "--force", "--why", "first one", "--json")
    assert (promoted.code, promoted.json["reference"]["source"]) == (0, "first-window")
    shown = llmops("monitor", "reference", "show", "assistant", "--json").json
    assert (shown["reference"], shown["awaited"]["release"]) == (None, "assistant@1")
    again = llmops("promote", "assistant@1", "--force", "--why", "once more", "--json")
    assert again.json["reference"] is None, "nothing moved"


@pytest.mark.usefixtures("traffic")
def test_a_replay_counts_alarms_beside_the_stated_budget(llmops):
    llmops("monitor", "reference", "pin", "assistant", "--since", "2026-01-01", "--until", SINCE, "--why", "good")
    llmops("monitor", "replay", "--until", UNTIL, "--months", "0").refused(3, "nothing to replay")
    found = llmops("monitor", "replay", "--until", "2026-01-03", "--months", "0", "--json").json
    assert found["windows"] >= 1
    assert found["alarmed_windows"] >= 1
    assert found["stated"]["total"] <= 0.1


def test_the_answers_that_the_gate_saw_are_records_of_the_release(workshop):
    registry = workshop.registry
    prompt, made = registry.prompts.get("qa"), registry.models.get("tiny@1")
    release, _ = registry.release_versions.create("answering", prompt, made, prompt.template.parameters)
    assert gate_answers(registry, release) == [], "no gate is on record"
    workshop.run(releases=[release.ref])
    workshop.evaluations.gate(release.ref, None, "sums")
    answers = gate_answers(registry, release)
    assert len(answers) == len(list(workshop.evaluations.suite("sums").rows))
    assert {answer.release for answer in answers} == {"answering@1"}
    assert all(answer.input.startswith("Is “") and answer.output and answer.status == 200 for answer in answers)


# The dashboard


def values(home, tag):
    made = [json.loads(path.read_text()) for path in sorted((home / "evidently").glob("*/snapshots/*.json"))]
    return [snapshot["metric_results"] for snapshot in made if tag in snapshot["tags"]]


@pytest.mark.usefixtures("traffic")
def test_a_fresh_dashboard_is_filled_from_the_history_and_again_changes_nothing(llmops, home):
    for added in (1, 1):  # one day of traffic; the newest day is looked at again
        found = llmops("monitor", "ui", "--no-serve", "--json")
        assert found.code == 0
        assert found.json == {"workspace": str(home / "evidently"), "added": {"assistant": added}, "url": None}
        (levels,) = values(home, "levels")
        assert levels["assistant@2 output.refusal"]["value"] > 0.2
        assert levels["assistant@1 output.refusal"]["value"] == 0
        assert levels["app rows"]["value"] == pytest.approx(400 / 24, rel=1e-4)


@pytest.mark.usefixtures("traffic")
def test_a_run_is_a_point_of_the_dashboard_and_one_run_in_mlflow_however_often(llmops, home):
    first, again = (llmops("monitor", "run", *WINDOW, "--json").json["run_id"] for _ in range(2))
    assert first == again
    (verdict,) = values(home, "verdict")
    assert verdict["app alarms"]["value"] >= 1
    assert verdict["app effect output.refusal"]["value"] > 0.2


def test_a_home_without_records_is_no_error_and_a_port_that_is_taken_a_plain_one(llmops):
    found = llmops("monitor", "ui", "--no-serve", "--json")
    assert (found.code, found.json["added"]) == (0, {})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        llmops("monitor", "ui", "--port", port).refused(3, "choose another with --port")


@pytest.mark.slow
@pytest.mark.usefixtures("traffic")
def test_the_interface_shows_the_app_and_ends_when_told():
    port = free_port()
    arguments = [sys.executable, "-m", "llmops.cli", "monitor", "ui", "--port", str(port)]
    with subprocess.Popen(arguments, env=dict(os.environ), stderr=subprocess.DEVNULL) as process:
        try:
            projects = until_answered(process, f"http://127.0.0.1:{port}/api/projects").json()
            assert [project["name"] for project in projects] == ["assistant"]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(30) in (0, 130, -signal.SIGINT)


def until_answered(process, url):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(url, timeout=10)
        time.sleep(0.3)
    raise AssertionError(f"no answer from {url}")
