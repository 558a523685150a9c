"""`llmops doctor` finds what is broken in a home, and commands that would build on it refuse it by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llmops.registry import Registry
from llmops.settings import Settings
from tests.command_line import Result
from tests.registered_home import release_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a prompt, a model of made-up weights, a release, and a log."""
    folder = tmp_path_factory.mktemp("doctor")
    settings = Settings(home=folder / "home", engine="fake")
    registry, release = release_of(settings)
    registry.release_versions.promote(release, why="made up")
    return settings.home


@pytest.fixture
def damaged(whole: Path, home: Path) -> Path:
    """A copy of that home, to be damaged by the test."""
    shutil.copytree(whole, home)
    return home


def checks(result: Result) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in result.json["checks"]}


def weights_of(home: Path) -> Path:
    (path,) = (home / "models").glob("*/tiny.gguf")
    return path


def test_a_whole_home_is_well_and_changed_weights_are_found(damaged, llmops):
    result = llmops("doctor", "--json")
    assert {check["name"] for check in checks(result).values() if check["state"] == "fail"} == set()
    assert result.code == 0
    weights_of(damaged).write_bytes(b"GGUF changed")
    assert "is corrupted" in checks(llmops("doctor", "--json"))["model"]["detail"]


def test_lost_weights_are_found_and_nothing_is_built_on_them(damaged, llmops):
    weights_of(damaged).unlink()
    found = llmops("doctor", "--json")
    assert found.code == 1
    assert "tiny@1: weights are not on this machine" in checks(found)["model"]["detail"]
    for command in (
        ("release", "create", "other", "--prompt", "qa@1", "--model", "tiny@1"),
        ("release", "challenge", "assistant@1"),
        ("promote", "assistant@1", "--force", "--why", "made up"),
    ):
        llmops(*command).refused(3, "tiny@1: weights are not on this machine; run `llmops models pull tiny@1`")


def test_a_lost_log_is_told_from_one_that_was_never_written(damaged, llmops):
    llmops("keys", "create")
    before = checks(llmops("doctor", "--json"))
    for file in damaged.glob("log.db*"):
        file.unlink()
    after = checks(llmops("doctor", "--json"))
    assert (before["keys"]["state"], before["audit log"]["state"]) == ("ok", "ok")
    assert after["keys"]["state"] == "fail"
    assert "its keys are gone" in after["keys"]["detail"]
    assert after["audit log"]["state"] == "warn"
    assert "no entry about assistant" in after["audit log"]["detail"]


@pytest.mark.parametrize("name", ["mlflow.db", "log.db"])
def test_a_damaged_database_is_found_by_name(damaged, llmops, name):
    file = damaged / name
    content = bytearray(file.read_bytes())
    content[4096 : len(content) // 2] = b"\x55" * (len(content) // 2 - 4096)
    for extra in ("-wal", "-shm"):
        file.with_name(name + extra).unlink(missing_ok=True)
    file.write_bytes(content)
    found = llmops("doctor", "--json")
    assert found.code == 1
    assert str(file) in checks(found)["files"]["detail"]
    assert checks(found)["files"]["mend"]


@pytest.mark.parametrize(("name", "command"), [("mlflow.db", ("prompts", "list")), ("log.db", ("log", "tail"))])
def test_a_command_that_meets_a_damaged_database_says_what_to_do(damaged, llmops, name, command):
    for extra in ("", "-wal", "-shm"):
        damaged.joinpath(name + extra).unlink(missing_ok=True)
    damaged.joinpath(name).write_bytes(b"no database at all" * 300)
    llmops(*command).refused(3, f"{name}: file is not a database; `llmops doctor` says which files are broken")


def test_a_champion_whose_gate_read_answers_of_another_mode_is_warned_of_and_a_moved_alias_found(damaged, llmops):
    versions = Registry(Settings(home=damaged, engine="fake")).release_versions
    as_served = {"name": "fake", "build": "1", "settings": {"slots": 16}}
    versions.record_gate(versions.get("assistant"), "sums", {"verdict": "pass", "engine": as_served})
    assert checks(llmops("doctor", "--json"))["serving"]["state"] == "ok"
    alone = {**as_served, "settings": {"slots": 1}}
    versions.record_gate(versions.get("assistant"), "sums", {"verdict": "pass", "engine": alone})
    found = checks(llmops("doctor", "--json"))["serving"]
    assert found["state"] == "warn"
    assert found["detail"] == "assistant@1 on sums: evaluated by fake with slots 1, served by fake with slots 16"
    registry = Registry(Settings(home=damaged))
    registry.store.client.delete_registered_model_alias("assistant", "champion")
    assert checks(llmops("doctor", "--json"))["audit log"]["detail"] == "moved around the log: champion of assistant"


@pytest.mark.parametrize("engine", ["llamacpp", "openvino", "transformers"])
def test_no_release_is_made_whose_format_its_engine_cannot_enforce(damaged, llmops, monkeypatch, engine):
    monkeypatch.setenv("LLMOPS_ENGINE", engine)
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array", "uniqueItems": True}}}
    making = ("release", "create", "assistant", "--prompt", "qa@1", "--model", "tiny@1")
    llmops(*making, "--param", f"response_format={json.dumps(form)}").refused(
        2, f"the {engine} engine", "response_format"
    )
    assert len(Registry(Settings(home=damaged)).release_versions.versions("assistant")) == 1
