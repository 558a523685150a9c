"""`llmops eval pairwise`: two runs of a real store before a scripted judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmops.judges.scripted import ScriptedJudge
from tests.command_line import Run

PROMPT = "---\ninput_variable: question\nparameters: {max_tokens: 40}\n---\n# user\n"


@pytest.fixture
def runs(llmops: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two prompt versions, of which the second gives longer answers, run on six rows."""
    sets, prompts = tmp_path / "sets", tmp_path / "prompts" / "qa"
    (sets / "few").mkdir(parents=True)
    prompts.mkdir(parents=True)
    rows = [{"id": f"r{i}", "inputs": {"question": f"Q{i}?"}, "expectations": {"answers": ["x"]}} for i in range(6)]
    (sets / "few" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (sets / "few.toml").write_text(
        'eval_sets = ["few"]\nprompt = "qa"\nmodel = "tiny@1"\n[scorers.words]\n[gate]\nprimary = "words"\n'
    )
    (prompts / "v1.md").write_text(PROMPT + "{{ question }}\n")
    (prompts / "v2.md").write_text(PROMPT + "Well, {{ question }}\n")
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.setenv("LLMOPS_PROMPTS", str(prompts.parent))
    monkeypatch.setenv("LLMOPS_EVAL_SETS", str(sets))
    for command in (
        ("models", "register", "tiny", "--source", f"file:{tmp_path / 'tiny.gguf'}"),
        ("prompts", "register", "qa"),
        ("eval", "run", "few", "--recorder", "bulk"),
    ):
        assert llmops(*command).code == 0
    return tmp_path


def longer(request: dict[str, Any]) -> str:
    text = request["messages"][1]["content"]
    first, second = (len(text.split(f"<{place}>\n")[1].split("\n</")[0]) for place in ("first", "second"))
    return json.dumps({"rationale": "because", "winner": "first" if first > second else "second"})


def test_the_outcome_is_one_object_or_a_table_and_an_uncalibrated_judge_is_named_so(llmops: Run, runs: Path) -> None:
    with ScriptedJudge(longer) as judge:
        asked = ("eval", "pairwise", "qa@1", "qa@2", "--judge", f"openai:{judge.base_url}#long")
        as_json, table = llmops(*asked, "--json"), llmops(*asked)
    assert (as_json.code, table.code) == (0, 0)
    value = as_json.json
    assert (value["wins"], value["losses"], value["ties"], value["inconsistent"]) == (6, 0, 0, 0.0)
    assert not value["trusted"]
    assert "note: do not rely on these verdicts: its judge is not calibrated" in as_json.err
    assert "is untrusted: its judge is not calibrated" in " ".join(table.out.split())
    assert "B better" in table.out


def test_without_a_judge_it_says_how_to_name_one(llmops: Run, runs: Path) -> None:
    done = llmops("eval", "pairwise", "qa@1", "qa@2")
    assert done.code == 2
    assert "Give --judge openai:URL#MODEL" in done.err
