"""`llmops monitor run`, `reference` and `replay`, and what `llmops promote` does to the reference."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llmops.registry import Registry
from llmops.settings import Settings
from tests.command_line import Run
from tests.registry.conftest import model, template

START = datetime(2026, 1, 1, tzinfo=UTC)
SINCE, UNTIL = "2026-01-01T03:20:00Z", "2026-01-01T06:40:00Z"


@pytest.fixture
def traffic(tmp_path: Path, llmops: Run) -> None:
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
def test_a_run_alarms_pins_its_reference_and_says_whether_a_rollback_helps(llmops: Run) -> None:
    found = llmops("monitor", "run", "--since", SINCE, "--until", UNTIL, "--no-record", "--json")
    assert found.code == 1
    assert "output.refusal" in {alarm["what"] for alarm in found.json["alarms"]}
    assert found.json["cure"]["rollback"] is True
    shown = llmops("monitor", "run", "--since", SINCE, "--until", UNTIL, "--no-record")
    assert "ALARM output.refusal" in shown.out
    assert "a rollback may help" in shown.out
    listed = llmops("monitor", "reference", "list", "--json").json["references"]
    assert [each["source"] for each in listed] == ["first-since"]
    reference = llmops("monitor", "reference", "show", "assistant", "--json").json
    assert (reference["rows"], reference["descriptors"]["output.refusal"]["level"]) == (200, 0.0)


@pytest.mark.usefixtures("traffic")
def test_a_reference_can_be_pinned_by_hand(llmops: Run) -> None:
    window = ("--since", SINCE, "--until", UNTIL)
    pinned = llmops("monitor", "reference", "pin", "assistant", *window, "--why", "a bad time", "--json")
    assert (pinned.code, pinned.json["source"], pinned.json["why"]) == (0, "by-hand", "a bad time")
    empty = ("--since", "2025-01-01", "--until", "2025-01-02", "--why", "nothing")
    refused = llmops("monitor", "reference", "pin", "assistant", *empty)
    assert refused.code == 3
    assert "no rows of app assistant" in refused.err


def test_a_promotion_awaits_the_first_window_of_the_new_champion(home: Path, llmops: Run) -> None:
    registry = Registry(Settings(home=home))
    prompt, _ = registry.prompts.register("qa", template())
    version, _ = registry.models.register(model("tiny", format="openai"))
    registry.release_versions.create("assistant", prompt, version, template().parameters)
    promoted = llmops("promote", "assistant@1", "--force", "--why", "first one", "--json")
    assert (promoted.code, promoted.json["reference"]["source"]) == (0, "first-window")
    shown = llmops("monitor", "reference", "show", "assistant", "--json").json
    assert (shown["reference"], shown["awaited"]["release"]) == (None, "assistant@1")
    again = llmops("promote", "assistant@1", "--force", "--why", "once more", "--json")
    assert again.json["reference"] is None, "nothing moved"


@pytest.mark.usefixtures("traffic")
def test_a_replay_counts_alarms_beside_the_stated_budget(llmops: Run) -> None:
    llmops("monitor", "reference", "pin", "assistant", "--since", "2026-01-01", "--until", SINCE, "--why", "good")
    short = llmops("monitor", "replay", "--until", UNTIL, "--months", "0")
    assert short.code == 3
    assert "nothing to replay" in short.err
    found = llmops("monitor", "replay", "--until", "2026-01-03", "--months", "0", "--json").json
    assert found["windows"] >= 1
    assert found["alarmed_windows"] >= 1
    assert found["stated"]["total"] <= 0.1
