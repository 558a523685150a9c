"""`llmops eval calibrate-judge` and `pairwise`: what they print, and their exit codes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmops.cli.eval_judges import text_or_file
from llmops.errors import BadFile
from llmops.settings import Settings
from tests.command_line import Run
from tests.judges.scripted import ScriptedJudge
from tests.registered_home import prompt_text, register_tiny, write_prompts, write_suite


def verdict(request: dict[str, Any]) -> str:
    text = request["messages"][1]["content"]
    if "<first>" in text:
        return json.dumps({"rationale": "because", "winner": "first" if "<first>\nright" in text else "second"})
    wrong = "wrong" in text and request["model"] == "good"
    return json.dumps({"rationale": "because", "score": "fail" if wrong else "pass"})


@pytest.fixture
def judge() -> Iterator[ScriptedJudge]:
    with ScriptedJudge(verdict) as running:
        yield running


@pytest.fixture
def labels(tmp_path: Path) -> str:
    rows = [
        {"inputs": {"question": "Q?"}, "output": f"{'right' if i % 2 else 'wrong'} {i}", "label": bool(i % 2)}
        for i in range(50)
    ]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "labels.jsonl")


def test_a_judge_is_trusted_with_0_or_not_with_1_and_the_table_says_why(llmops, judge, labels):
    done = llmops("eval", "calibrate-judge", labels, "--judge", f"openai:{judge.base_url}#good", "--json")
    assert done.code == 0
    assert {
        "judge", "kappa", "ci95", "agreement", "n", "n_failed", "confusion", "length_bias", "position_bias", "trusted",
        "run_id",
    } <= set(done.json)  # fmt: skip
    assert (done.json["kappa"], done.json["n"], done.json["trusted"]) == (1.0, 50, True)
    done = llmops("eval", "calibrate-judge", labels, "--judge", f"openai:{judge.base_url}#kind")
    assert done.code == 1
    assert "untrusted, it cannot gate: its judge's agreement with people, κ 0.00" in done.out
    assert "judge: true" in done.out
    assert "bias by length" in done.out
    assert "turn with the order" not in done.out


def test_pairs_show_the_bias_by_position(llmops, judge, tmp_path):
    rows = [
        {"inputs": {"question": "Q?"}, "output_a": f"{'right' if i % 2 else 'wrong'} {i}",
         "output_b": f"{'wrong' if i % 2 else 'right'} {i}", "label": "a" if i % 2 else "b"}
        for i in range(50)
    ]  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = llmops("eval", "calibrate-judge", "pairs.jsonl", "--judge", f"openai:{judge.base_url}#good")
    assert done.code == 0
    assert "verdicts that turn with the order" in done.out
    assert "trusted: κ is surely 0.6 or more" in done.out


def test_instructions_are_a_text_or_a_file_and_reach_the_judge(tmp_path, llmops, judge, labels):
    (tmp_path / "my rubric.md").write_text("Is it kind?", encoding="utf-8")
    assert text_or_file(None) is None
    assert text_or_file("Is it right?") == "Is it right?"
    assert text_or_file(str(tmp_path / "my rubric.md")) == "Is it kind?"
    assert text_or_file("Is it right? " * 500) == "Is it right? " * 500
    with pytest.raises(BadFile, match=r"rubric\.md: cannot be read"):
        text_or_file("rubric.md")
    (tmp_path / "rubric.md").write_text("Be exact about numbers.")
    llmops("eval", "calibrate-judge", labels, "--judge", f"openai:{judge.base_url}#good", "--instructions", "rubric.md")
    assert "Be exact about numbers." in judge.requests[0].text


@pytest.fixture
def runs(llmops: Run, home: Path) -> None:
    """Two prompt versions, of which the second gives longer answers, run on six rows."""
    write_prompts(home.parent / "prompts")
    (home.parent / "prompts" / "qa" / "v2.md").write_text(prompt_text("Be kind.").replace("{{", "Well, {{"))
    write_suite(home.parent / "eval_sets", "few", 6)
    register_tiny(Settings(home=home))
    llmops("prompts", "register", "qa")
    assert len(llmops("eval", "run", "few", "--recorder", "bulk", "--json").json["runs"]) == 2


def longer(request: dict[str, Any]) -> str:
    text = request["messages"][1]["content"]
    first, second = (len(text.split(f"<{place}>\n")[1].split("\n</")[0]) for place in ("first", "second"))
    return json.dumps({"rationale": "because", "winner": "first" if first > second else "second"})


def test_the_outcome_is_one_object_or_a_table_and_an_uncalibrated_judge_is_named_so(llmops, runs):
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
    llmops("eval", "pairwise", "qa@1", "qa@2").refused(2, "Give --judge openai:URL#MODEL")
