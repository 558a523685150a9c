"""`llmops pipeline`: run, list, show, schedule."""

import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from llmops.cli.output import json_values
from llmops.recording.pipelines import find_pipeline_run
from llmops.registry import Registry
from llmops.settings import Settings
from tests.at_once import wait_until
from tests.registered_home import prompt_text, register_tiny, write_prompts, write_suite

GIVEN = ("--set", "suite=sums", "--set", "app=helper")


@pytest.fixture
def lifecycle(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, a suite, and a folder of prompt files with one version; returns the folder."""
    prompts, eval_sets = tmp_path / "prompts", tmp_path / "eval_sets"
    write_prompts(prompts, systems=["Be terse."])
    write_suite(eval_sets, "sums", 24)
    monkeypatch.setenv("LLMOPS_PROMPTS", str(prompts))
    monkeypatch.setenv("LLMOPS_EVAL_SETS", str(eval_sets))
    register_tiny(Settings(home=home))
    return prompts / "qa"


def test_a_cycle_runs_goes_on_and_is_told(llmops, home, lifecycle):
    failed = llmops("pipeline", "run", "llm", "--cycle", "a", "--set", "suite=nothing")
    assert failed.code == 3
    assert "llm@a: step register: " in failed.err
    assert "`llmops pipeline run llm --cycle a` goes on from there" in failed.err
    other = llmops("pipeline", "run", "llm", "--cycle", "a", *GIVEN)
    assert (other.code, "llm@a began with app=assistant, suite=nothing" in other.err) == (2, True)

    first = llmops("pipeline", "run", "llm", "--cycle", "b", *GIVEN, "--json")
    assert (first.code, first.json["status"], first.json["result"]["outcome"]) == (0, "finished", "promoted")
    again = llmops("pipeline", "run", "llm", "--cycle", "b", "--json")
    assert (again.code, again.json["result"]) == (0, first.json["result"])
    assert {step["status"] for step in again.json["steps"]} == {"skipped"}
    assert "llm@b had finished, nothing was repeated" in again.err

    (lifecycle / "v2.md").write_text(prompt_text("Be kind."))
    back = llmops("pipeline", "run", "llm", "--cycle", "c", *GIVEN, "--set", "deadline_seconds=0")
    assert back.code == 1
    assert "outcome: rolled back" in back.out
    assert "too few requests by the deadline: 0 of the challenger (200 needed)" in back.out
    assert "llm@c: canary\n" in back.err

    listed = llmops("pipeline", "list", "--json").json
    assert [run["run"] for run in listed["runs"]] == ["llm@c", "llm@b", "llm@a"]
    assert [run["status"] for run in listed["runs"]] == ["finished", "finished", "failed"]
    assert {each["name"] for each in listed["pipelines"]} == {"llm", "improve", "wine", "bike", "insurance"}
    assert "llm@c" in llmops("pipeline", "list", "--pipeline", "llm").out
    shown = llmops("pipeline", "show", "llm@b", "--json").json
    assert [step["status"] for step in shown["steps"]] == ["done"] * len(first.json["steps"])
    assert "step register" not in llmops("pipeline", "show", "llm@a").err

    store = Registry(Settings(home=home)).store
    recorded = [find_pipeline_run(store, "llm", cycle) for cycle in ("a", "b", "c")]
    assert [run.info.status for run in recorded if run] == ["FAILED", "FINISHED", "FINISHED"]


def test_inputs_are_json_or_text_and_what_cannot_be_asked_for_is_named(llmops):
    assert json_values("--set", ["a=1", "b=10%", 'c={"d": [true]}', "e=", "f=x=y"]) == {
        "a": 1, "b": "10%", "c": {"d": [True]}, "e": "", "f": "x=y"
    }  # fmt: skip
    for arguments, text in (
        (("run", "lmm"), "no pipeline 'lmm'; there are llm, improve, wine, bike"),
        (("run", "llm", "--set", "suite"), "--set suite: must be KEY=VALUE"),
        (("run", "llm", "--set", "=1"), "--set =1: must be KEY=VALUE"),
        (("run", "llm", "--set", "colour=red"), "colour: no input of pipeline llm"),
        (("run", "llm", "--cycle", "a b"), "cycle 'a b'"),
        (("show", "llm"), "'llm' is no run of a pipeline: NAME@CYCLE"),
        (("schedule", "llm", "--cron", "daily"), "is no cron expression"),
        (("schedule", "llm", "--cron", "0 3 * * *", "--set", "canary=2"), "canary: '2' is not a share"),
    ):
        refused = llmops("pipeline", *arguments)
        assert (refused.code, text in refused.err) == (2, True), refused.err
    unknown = llmops("pipeline", "show", "llm@never")
    assert (unknown.code, "no run llm@never" in unknown.err) == (3, True)


def test_nothing_was_run_yet(llmops, home):
    assert llmops("pipeline", "list", "--json").json["runs"] == []
    assert not (home / "pipelines.db").exists()


@pytest.mark.slow
def test_a_printed_crontab_line_runs_with_nothing_in_its_environment(llmops, home, lifecycle, monkeypatch):
    monkeypatch.setenv("LLMOPS_REDIS_URL", "redis://:hidden@127.0.0.1:1/0")
    monkeypatch.setenv("LLMOPS_JUDGE_KEY_VARIABLE", "MY_JUDGES_KEY")
    monkeypatch.setenv("MY_JUDGES_KEY", "sk-hidden")
    printed = llmops("pipeline", "schedule", "llm", "--cron", "0 3 * * 1", *GIVEN, "--print-crontab")
    (line,) = printed.out.splitlines()[1:]
    assert line.startswith(f"0 3 * * 1 cd {home.parent} && export PATH=")
    assert "hidden" not in printed.out + printed.err
    secrets = home / "pipeline-llm.env"
    assert f"wrote {secrets}, which only you can read: LLMOPS_REDIS_URL, MY_JUDGES_KEY" in printed.err
    assert secrets.stat().st_mode & 0o777 == 0o600
    assert "export MY_JUDGES_KEY=sk-hidden\n" in secrets.read_text()
    command = line.split(" ", 5)[5].replace("\\%", "%")  # as cron hands it to the shell
    done = subprocess.run(["env", "-i", "/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = llmops("pipeline", "list", "--json").json["runs"]
    assert (run["pipeline"], run["cycle"]) == ("llm", f"{datetime.now(UTC):%Y-%m-%d}")
    assert run["result"]["outcome"] == "promoted"


def test_a_schedule_is_printed_for_kubernetes(llmops, home):
    job = llmops("pipeline", "schedule", "llm", "--cron", "0 3 * * 1", *GIVEN, "--print-cronjob", "--json").json
    manifest = yaml.safe_load(job["text"])
    assert manifest["spec"]["schedule"] == job["cron"] == "0 3 * * 1"
    (container,) = manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert {"name": "LLMOPS_HOME", "value": str(home)} in container["env"]
    assert {"name": "LLMOPS_ENGINE", "value": "fake"} in container["env"]
    assert container["workingDir"] == str(home.parent)
    assert container["args"][0].startswith("llmops pipeline run llm --cycle ")


def in_the_background(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "llmops.cli", "pipeline", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_scheduler_first_goes_on_with_what_was_interrupted_and_ends_at_ctrl_c(llmops, lifecycle):
    assert llmops("pipeline", "run", "llm", "--cycle", "a", *GIVEN).code == 0
    (lifecycle / "v2.md").write_text(prompt_text("Be kind."))

    def waits() -> bool:
        shown = llmops("pipeline", "show", "llm@b", "--json").json
        return len(shown.get("steps", ())) == 4 and shown["status"] == "running"

    with in_the_background("run", "llm", "--cycle", "b", *GIVEN, "--set", "deadline_seconds=12") as killed:
        wait_until(waits, 120)
        killed.kill()
    assert llmops("pipeline", "show", "llm@b", "--json").json["status"] == "interrupted"
    with in_the_background("schedule", "llm", "--cron", "0 3 29 2 *") as scheduler:
        wait_until(lambda: llmops("pipeline", "show", "llm@b", "--json").json["status"] == "finished", 120)
        scheduler.send_signal(signal.SIGINT)
        assert scheduler.wait(30) == -signal.SIGINT
    assert llmops("pipeline", "show", "llm@b", "--json").json["result"]["outcome"] == "rolled back"
