"""A suite whose rows share no words, and an engine that answers the better the more examples it is shown."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmops.api.versions import register_prompts
from llmops.engines.fake import FakeEngine
from llmops.eval_runs import matrix
from llmops.evaluation.eval_set import EvalRow
from llmops.generation import GenerationRequest
from llmops.settings import Settings
from tests.registered_home import prompt_text, register_tiny

GATE = """
[gate]
primary = "correct"
rule = "better"
"""
SUITE = """description = "Codes."
eval_sets = ["codes"]
prompt = "codes"
model = "tiny@1"
[scorers.correct]
type = "contains"
"""


def row(number: int) -> dict[str, Any]:
    """One question: no two have a word in common."""
    chance = random.Random(number)  # noqa: S311 - no secret
    question = " ".join("".join(chance.choices("abcdefghijklmnoprstuvwz", k=7)) for _ in range(5)) + "?"
    return {
        "id": f"row-{number}",
        "inputs": {"question": question},
        "expectations": {"expected_response": right_answer(question)},
    }


def right_answer(question: str) -> str:
    """The first two words backwards."""
    words = question.rstrip("?").split()
    return f"code {words[0][::-1]} {words[1][::-1]}"


def right_where(holds: Callable[[GenerationRequest], bool]) -> Callable[[GenerationRequest], str]:
    """A model that is right where that holds."""
    return lambda request: right_answer(request.messages[-1]["content"]) if holds(request) else "no idea"


def rows_of(numbers: Sequence[int]) -> list[EvalRow]:
    return [EvalRow(each["id"], each["inputs"], each["expectations"]) for each in map(row, numbers)]


def code_of(request: GenerationRequest) -> str:
    """The expected answer, to three in ten questions and to one in ten more for each example shown."""
    question = request.messages[-1]["content"]
    examples = sum(message["role"] == "assistant" for message in request.messages)
    return right_answer(question) if zlib.crc32(question.encode()) % 10 < 3 + examples else "no idea"


def write_codes(folder: Path, numbers: Sequence[int], gate: str = GATE) -> None:
    """The suite `codes` with those rows."""
    (folder / "eval_sets" / "codes").mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row(number)) + "\n" for number in numbers)
    (folder / "eval_sets" / "codes" / "rows.jsonl").write_text(text)
    (folder / "eval_sets" / "codes.toml").write_text(SUITE + gate)


def codes_home(folder: Path, numbers: Sequence[int] = range(100)) -> Settings:
    """Settings of a home with that suite, its prompt in one version, and the model `tiny`."""
    write_codes(folder, numbers)
    prompts = folder / "prompts"
    (prompts / "codes").mkdir(parents=True)
    (prompts / "codes" / "v1.md").write_text(prompt_text("Give the code."))
    settings = Settings(home=folder / "home", eval_sets=folder / "eval_sets", prompts=prompts, engine="fake")
    register_tiny(settings)
    register_prompts(settings=settings)
    return settings


@pytest.fixture
def codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A new home whose model is `code_of`."""
    monkeypatch.setattr(matrix, "open_engine", lambda *_: FakeEngine(code_of))
    return codes_home(tmp_path)
