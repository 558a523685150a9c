"""The commands of the main path, in order, with the fake engine and a real store."""

import json
import shutil
from pathlib import Path

import pytest

from llmops.settings import Settings, data_folder
from tests.registered_home import register_tiny


@pytest.fixture
def place(home: Path, tmp_path: Path) -> Path:
    """A working folder of its own prompts and eval sets, with the first rows of qa; free to be changed."""
    for samples in (data_folder(Settings(), "prompts"), data_folder(Settings(), "eval_sets")):
        shutil.copytree(samples, tmp_path / samples.name)
    rows = tmp_path / "eval_sets" / "qa" / "rows.jsonl"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:6]))
    return tmp_path


def test_a_changed_prompt_file_makes_one_new_version_and_one_by_another_number_is_named(llmops, place):
    first = place / "prompts" / "qa" / "v1.md"
    said = [llmops("prompts", "register", "qa").err]
    first.write_text(first.read_text().replace("max_tokens: ", "max_tokens: 1"))
    said.append(llmops("prompts", "register", "qa").err)
    assert [f"{first} is qa@3" in text for text in said] == [False, True]
    path = place / "prompts" / "qa" / "v2.md"
    path.write_text(path.read_text().replace("one short sentence", "one word"))
    new = [
        p["version"] for p in llmops("prompts", "register", "--json").json["prompts"] if p["new"] and p["name"] == "qa"
    ]
    assert new == [4]


def test_register_run_compare_release_gate_promote_roll_back(llmops, place):
    weights = place / "tiny.gguf"
    weights.write_bytes(b"GGUF and nothing that the fake engine reads")
    assert llmops("models", "register", "smollm2-135m-instruct", "--source", f"file:{weights}").code == 0
    registered = llmops("prompts", "register", "qa", "--json").json["prompts"]
    assert [(p["name"], p["version"], p["new"]) for p in registered] == [("qa", 1, True), ("qa", 2, True)]
    assert [p["new"] for p in llmops("prompts", "register", "qa", "--json").json["prompts"]] == [False, False]
    assert llmops("prompts", "diff", "qa@1", "qa@2", "--json").json["diff"]

    first = llmops("eval", "run", "qa", "--json").json
    again = llmops("eval", "run", "qa", "--json").json
    assert [run["prompt"] for run in first["runs"]] == ["qa@1", "qa@2"]
    assert {run["generated"] for run in first["runs"]} == {6}
    assert {(run["generated"], run["from_cache"]) for run in again["runs"]} == {(0, 6)}
    assert [run["metrics"] for run in again["runs"]] == [run["metrics"] for run in first["runs"]]
    assert [run["run_id"] for run in again["runs"]] == [run["run_id"] for run in first["runs"]]

    compared = llmops("eval", "compare", "qa@1", "qa@2", "--markdown", str(place / "table.md"), "--json").json
    assert compared["rows"] == 6
    run_ids = [run["run_id"] for run in first["runs"]]
    least = next(n for n in range(1, 33) if run_ids[0][:n] != run_ids[1][:n])  # as short as tells them apart
    short = [run_id[:least] for run_id in run_ids]
    assert llmops("eval", "compare", *short, "--json").json["metrics"] == compared["metrics"]
    absent = next(text for text in ("abc", "bcd", "cde") if not any(run_id.startswith(text) for run_id in run_ids))
    llmops("eval", "compare", absent, "qa@2").refused(3, f"no run, app or prompt {absent}")
    assert {"a", "b", "difference", "ci95", "p_value", "p_adjusted", "test", "wins", "losses", "ties"} <= set(
        compared["metrics"]["correct"]
    )
    assert "| correct |" in (place / "table.md").read_text()

    for version in (1, 2):
        made = llmops(
            "release", "create", "app", "--prompt", f"qa@{version}", "--model", "smollm2-135m-instruct@1", "--json"
        )
        assert made.json["version"] == version
    assert llmops("promote", "app@1").code == 1  # no gate on record
    gate = llmops("eval", "gate", "app@1", "--suite", "qa", "--json")
    assert (gate.code, gate.json["verdict"]) == (1, "fail")  # the fake engine knows no answers: below the floor
    assert llmops("promote", "app@1", "--force").code == 2
    assert llmops("promote", "app@1", "--force", "--why", "test", "--json").json["champion"] == "app@1"
    gate = llmops("eval", "gate", "app@2", "--against", "app@1", "--suite", "qa", "--json")
    assert gate.code == 1
    assert gate.json["comparison"]["rows"] == 6
    assert llmops("promote", "app@2", "--force", "--why", "test", "--json").json["previous"] == "app@1"
    back = {"app": "app", "champion": "app@1", "previous": "app@2", "forced": False}
    assert llmops("rollback", "app", "--json").json == back
    again = llmops("rollback", "app")
    assert (again.code, again.out) == (1, "")
    assert "app@2 was rolled back itself" in again.err
    assert llmops("rollback", "app", "--force").code == 2
    listed = llmops("release", "list", "app", "--json").json["releases"]
    assert [release["rolled_back"] for release in listed] == [False, True]
    llmops("rollback", "nobody").refused(3, "no app 'nobody' has releases")
    llmops("release", "create", "qa", "--prompt", "qa@1", "--model", "smollm2-135m-instruct@1").refused(
        2, "qa: a prompt has this name"
    )
    aliases = {r["version"]: r["aliases"] for r in llmops("release", "list", "app", "--json").json["releases"]}
    assert aliases == {1: ["champion"], 2: ["previous"]}


def test_a_folder_of_ones_own_is_read_and_samples_only_where_it_has_neither(llmops, home):
    samples = llmops("prompts", "register", "--json")
    assert "llmops' own samples" in samples.err
    (home.parent / "prompts" / "mine").mkdir(parents=True)
    (home.parent / "prompts" / "mine" / "v1.md").write_text("---\ninput_variable: say\n---\n# user\n{{ say }}\n")
    own = llmops("prompts", "register", "--json")
    assert [prompt["name"] for prompt in own.json["prompts"]] == ["mine"]
    assert "samples" not in own.err
    assert f"prompts: {home.parent / 'prompts'}" in own.err
    listed = llmops("eval", "list")
    assert (listed.code, listed.out) == (3, "")
    assert "has prompts/ but no eval_sets/" in listed.err


def test_a_template_that_needs_another_variable_stops_before_anything_is_generated(llmops, place):
    path = place / "prompts" / "qa" / "v1.md"
    path.write_text(path.read_text().replace("{{ question }}", "{{ question }} {{ tone }}"))
    register_tiny(Settings.from_environment(), "smollm2-135m-instruct")
    llmops("prompts", "register", "qa")
    llmops("eval", "run", "qa", "--prompt", "qa@1").refused(3, "tone", "qa-001")


def test_a_prompt_that_cannot_be_read_is_named_and_stops_no_other(llmops, place):
    (place / "prompts" / "aaa").mkdir()
    (place / "prompts" / "aaa" / "v1.md").write_text("no front matter")
    done = llmops("prompts", "register", "--json").refused(
        3, f"not registered: {place / 'prompts' / 'aaa' / 'v1.md'}:1: "
    )
    assert [item["name"] for item in done.json["broken"]] == ["aaa"]
    registered = {item["name"] for item in done.json["prompts"]}
    assert "qa" in registered
    assert {item["name"] for item in llmops("prompts", "list", "--json").json["prompts"]} == registered


def test_a_malformed_row_is_named_by_file_line_and_field(llmops, place):
    rows = place / "eval_sets" / "qa" / "rows.jsonl"
    rows.write_text(rows.read_text() + json.dumps({"id": "x", "inputs": {"question": ["Why?"]}}) + "\n")
    for command in (("eval", "run", "qa"), ("eval", "list")):
        done = llmops(*command)
        assert f"{rows}:7: inputs.question: must be text" in done.err
    assert llmops("eval", "run", "qa").code == 3


def test_a_taken_port_is_said_in_one_line(llmops):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for command in ("serve", "ui"):
            done = llmops(command, "--port", port)
            assert done.code == 3
            assert port in done.err
            assert "--port" in done.err


def test_in_an_empty_home_doctor_and_monitor_say_what_is_missing(llmops, monkeypatch):
    done = llmops("doctor", "--json")
    assert done.code == 0
    checks = {check["name"]: check for check in done.json["checks"]}
    assert checks["model"]["state"] == "warn"
    assert "llmops models pull" in checks["model"]["mend"]
    llmops("monitor", "run").refused(2, "no app's records yet")
    monkeypatch.setenv("LLMOPS_LOG_URL", "sqlite:////proc/nowhere/log.db")
    done = llmops("doctor", "--json")
    assert done.code == 1
    assert {check["name"]: check["state"] for check in done.json["checks"]}["log"] == "fail"
