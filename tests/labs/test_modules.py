"""The course's later modules, each done as its page says: minutes, on real homes."""

import json
import shutil

import pytest

from tests.page_commands import ROOT, console_commands, run_in_one_shell, write_files

ANSWERS = {"spoiled": 0.371, "steps": 23, "attempts": 2, "pods": 10, "entries": 8}


@pytest.mark.slow
def test_the_module_on_pipelines_is_done_by_its_page(tmp_path):
    text = (ROOT / "docs" / "labs" / "pipeline.md").read_text("utf-8")
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
    write_files(text, tmp_path)
    commands = console_commands(text)
    checked = commands.index(("llmops lab check pipeline", 1)) + 1
    answers = " ".join(f"--answer {key}={value}" for key, value in ANSWERS.items())
    in_files = "env -u LLMOPS_LOG_URL -u LLMOPS_PIPELINES_URL llmops lab check pipeline"
    commands[checked:checked] = [
        (f"llmops lab check pipeline {answers} --answer steps=22", 1),
        (f"llmops lab check pipeline {answers}", 0),
        (in_files, 1),
    ]
    told = run_in_one_shell(commands, tmp_path)
    (missing,) = [line for line in told.splitlines() if line.startswith("missing  ")]  # where state is in files
    assert "runs and audit log are in PostgreSQL" in missing
    assert told.count("module pipeline is done") == 1


@pytest.mark.slow
def test_a_class_shares_one_gateway_and_nobody_reaches_the_app_of_another(tmp_path):
    commands = console_commands((ROOT / "docs" / "labs" / "teaching.md").read_text("utf-8"))
    asked = commands[-1][0]
    assert asked.startswith("curl ")
    told = run_in_one_shell([*commands, (asked.replace("learner-01", "learner-02").replace("-sf", "-s"), 0)], tmp_path)
    assert told.count('"object":"chat.completion"') == 1
    assert told.count("app_not_allowed") == 1


@pytest.mark.slow
def test_the_module_on_llmops_is_done_by_its_page(tmp_path):
    text = (ROOT / "docs" / "labs" / "llmops.md").read_text("utf-8")
    for folder in ("eval_sets", "prompts", "monitoring"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    write_files(text, tmp_path)
    checks = [
        ("llmops log export --app desk --out all.jsonl", 0),
        ('CUSTOMERS=$(grep -c \'"release": *"desk@3"\' all.jsonl)', 0),
        ("llmops lab check llmops --answer customers=$CUSTOMERS --answer wins=-1 --json > check.json", 1),
        ("cat check.json", 0),
    ]
    told = run_in_one_shell([*console_commands(text), *checks], tmp_path)
    found = json.loads(told[told.rindex("$ cat check.json") :].partition("\n")[2])
    assert [each["what"] for each in found["achievements"] if not each["done"]] == []
    states = {each["key"]: each["state"] for each in found["questions"]}
    assert (states.pop("customers"), states.pop("wins")) == ("right", "wrong")
    assert set(states.values()) == {"unanswered"}
