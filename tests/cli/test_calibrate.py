"""`llmops eval calibrate-judge`: what it prints, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmops.cli.eval_judges import text_or_file
from llmops.errors import BadFile
from llmops.judges.scripted import ScriptedJudge
from tests.command_line import Run


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


def test_a_trusted_judge_exits_0_and_says_all_of_the_contract_in_one_object(
    llmops: Run, judge: ScriptedJudge, labels: str
) -> None:
    done = llmops("eval", "calibrate-judge", labels, "--judge", f"openai:{judge.base_url}#good", "--json")
    assert done.code == 0
    assert {
        "judge", "kappa", "ci95", "agreement", "n", "n_failed", "confusion", "length_bias", "position_bias", "trusted",
        "run_id",
    } <= set(done.json)  # fmt: skip
    assert (done.json["kappa"], done.json["n"], done.json["trusted"]) == (1.0, 50, True)


def test_an_untrusted_judge_exits_1_and_the_table_says_why(llmops: Run, judge: ScriptedJudge, labels: str) -> None:
    done = llmops("eval", "calibrate-judge", labels, "--judge", f"openai:{judge.base_url}#kind")
    assert done.code == 1
    assert "untrusted, it cannot gate: its judge's agreement with people, κ 0.00" in done.out
    assert "judge: true" in done.out
    assert "bias by length" in done.out
    assert "turn with the order" not in done.out


def test_pairs_show_the_bias_by_position(llmops: Run, judge: ScriptedJudge, tmp_path: Path) -> None:
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


def test_a_judge_out_of_reach_exits_3_and_a_missing_one_2(
    llmops: Run, labels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = llmops("eval", "calibrate-judge", labels)
    assert missing.code == 2
    assert "--judge openai:URL#MODEL" in missing.err
    keyless = llmops(
        "eval", "calibrate-judge", labels, "--judge", "openai:http://127.0.0.1:9/v1#x", "--key-variable", "NO_KEY"
    )
    assert keyless.code == 3
    assert "NO_KEY holds no key" in keyless.err


def test_wrong_labels_exit_3_and_are_named(llmops: Run, tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_text('{"inputs": {"question": "Q?"}, "output": "x"}\n')
    done = llmops("eval", "calibrate-judge", "labels.jsonl", "--judge", "openai:http://127.0.0.1:9/v1#x", "--json")
    assert done.code == 3
    assert "labels.jsonl:1: label: must be true, false, a number or text" in done.json["error"]["message"]


def test_instructions_are_a_text_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "my rubric.md").write_text("Is it kind?", encoding="utf-8")
    assert text_or_file(None) is None
    assert text_or_file("Is it right?") == "Is it right?"
    assert text_or_file(str(tmp_path / "my rubric.md")) == "Is it kind?"
    assert text_or_file("Is it right? " * 500) == "Is it right? " * 500
    with pytest.raises(BadFile, match=r"rubric\.md: cannot be read"):
        text_or_file("rubric.md")


def test_the_instructions_reach_the_judge(llmops: Run, judge: ScriptedJudge, labels: str, tmp_path: Path) -> None:
    (tmp_path / "rubric.md").write_text("Be exact about numbers.")
    llmops("eval", "calibrate-judge", labels, "--judge", f"openai:{judge.base_url}#good", "--instructions", "rubric.md")
    assert "Be exact about numbers." in judge.requests[0].text
