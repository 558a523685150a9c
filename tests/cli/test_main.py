"""Exit codes, `--json` and errors, alike for every command."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.errors import UnknownVersion
from tests.command_line import Run


def test_help_exits_0_and_lists_every_command(llmops: Run) -> None:
    done = llmops("--help")
    assert done.code == 0
    for name in ("doctor", "models", "prompts", "release", "eval", "promote", "serve", "log", "monitor", "ui", "demo"):
        assert f"  {name} " in done.out


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("eval", "run"), ("log", "tail", "--nonsense"), ("eval", "gate", "x")]
)
def test_wrong_usage_exits_2_and_says_how(llmops: Run, arguments: tuple[str, ...]) -> None:
    done = llmops(*arguments)
    assert done.code == 2
    assert "error: " in done.err
    assert done.out == ""


@pytest.mark.parametrize("arguments", [(), ("keys",)])
def test_a_command_that_lacks_its_subcommand_shows_its_help_once(llmops: Run, arguments: tuple[str, ...]) -> None:
    done = llmops(*arguments)
    assert done.code == 2
    assert done.out.count("Usage: ") == 1
    assert done.err == ""


def test_a_home_that_a_command_makes_is_named_once(llmops: Run, home: Path) -> None:
    said = f"{home} is new"
    assert said in llmops("keys", "list").err
    assert said not in llmops("keys", "list").err


def test_with_json_an_error_is_one_object_on_stdout(llmops: Run) -> None:
    done = llmops("eval", "run", "nonsense", "--json")
    assert done.code == 3
    assert done.json["error"]["type"] == "UnknownVersion"
    assert "there are extract, grounded, qa" in done.json["error"]["message"]


def test_an_error_is_one_line_without_a_traceback(llmops: Run) -> None:
    done = llmops("prompts", "show", "nonsense@1")
    assert done.code == 3
    assert done.err.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.err


def test_debug_shows_the_traceback_too(llmops: Run) -> None:
    done = llmops("--debug", "eval", "run", "nonsense")
    assert done.code == UnknownVersion.exit_code
    assert "Traceback (most recent call last)" in done.err
    assert done.err.strip().splitlines()[-1].startswith("error: ")


def test_an_unknown_setting_names_the_nearest(llmops: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOPS_HOEM", "x")
    done = llmops("prompts", "list")
    assert done.code == 2
    assert "LLMOPS_HOEM; did you mean LLMOPS_HOME?" in done.err


def test_an_unreachable_store_exits_3(llmops: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOPS_TRACKING_URI", "sqlite:////proc/nowhere/mlflow.db")
    done = llmops("prompts", "list")
    assert done.code == 3
    assert "MLflow store" in done.err
