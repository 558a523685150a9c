"""Answers that ragas would count although they say nothing cannot come through the bridge."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic import BaseModel, Field

from llmops.errors import EngineError
from llmops.judges.client import JudgeClient
from llmops.judges.ragas_bridge import BoundedJudge, RagasEmbeddings, bounded_schema, reasons


class Statements(BaseModel):
    statements: list[str] = Field(..., description="made from the answer")


class Judged(BaseModel):
    statement: str
    reason: str
    verdict: int


class Verdicts(BaseModel):
    statements: list[Judged]


class Rating(BaseModel):
    rating: int


def verdicts(*values: int) -> str:
    judged = [{"statement": f"s{i}", "reason": f"because {i}", "verdict": value} for i, value in enumerate(values)]
    return json.dumps({"statements": judged})


def statements(*texts: str) -> str:
    return json.dumps({"statements": list(texts)})


def test_objects_are_closed_whole_and_without_titles_and_known_fields_bounded() -> None:
    given = Verdicts.model_json_schema()
    schema = bounded_schema(given, {"verdict": (0, 1)})
    assert given == Verdicts.model_json_schema()
    assert schema["$defs"]["Judged"]["properties"]["verdict"] == {"enum": [0, 1], "type": "integer"}
    for part in (schema, schema["$defs"]["Judged"]):
        assert part["additionalProperties"] is False
        assert part["required"] == list(part["properties"])
        assert "title" not in json.dumps(part)


def test_a_list_of_verdicts_is_as_long_as_the_statements_asked_about() -> None:
    field = bounded_schema(Verdicts.model_json_schema(), {}, [3, 2])["properties"]["statements"]
    assert (field["minItems"], field["maxItems"]) == (2, 3)


def make(script: Any, *replies: Any) -> BoundedJudge:
    return BoundedJudge(JudgeClient(script(list(replies)).endpoint), {"rating": (0, 2, 4)})


def test_an_answer_comes_as_the_model_asked_for_awaited_or_not(script) -> None:
    judge = make(script, '{"rating": 4}', '{"rating": 2}')
    assert judge.generate("rate", Rating) == Rating(rating=4)
    assert asyncio.run(judge.agenerate("rate", Rating)) == Rating(rating=2)


@pytest.mark.parametrize("judged", [verdicts(1), verdicts(1, 1, 0), verdicts(1, 7)])
def test_two_statements_get_two_verdicts_of_0_or_1(judged: str, script) -> None:
    judge = make(script, statements("a", "b"), judged)
    judge.generate("split", Statements)
    with pytest.raises(EngineError):
        judge.generate("judge", Verdicts)


def test_a_length_between_those_asked_about_is_an_error_too(script) -> None:
    judge = make(script, statements("a"), statements("a", "b", "c"), verdicts(1, 1))
    judge.generate("split", Statements)
    judge.generate("split", Statements)
    with pytest.raises(EngineError, match="2 verdicts on 3 statements"):
        judge.generate("judge", Verdicts)


def test_after_a_failure_nothing_more_is_asked(script) -> None:
    asked = script(["nonsense", '{"rating": 4}'])
    judge = BoundedJudge(JudgeClient(asked.endpoint), {})
    for _ in range(3):
        with pytest.raises(EngineError, match="not JSON"):
            judge.generate("rate", Rating)

    assert len(asked.requests) == 1
    assert judge.failure is not None


def test_embeddings_are_lists_of_plain_numbers() -> None:
    import numpy as np

    embeddings = RagasEmbeddings(lambda texts: np.array([[len(text), 1] for text in texts], dtype=np.float32))
    assert embeddings.embed_texts(["a", "bcd"]) == [[1.0, 1.0], [3.0, 1.0]]
    assert asyncio.run(embeddings.aembed_text("ab")) == [2.0, 1.0]
    assert asyncio.run(embeddings.aembed_texts(["ab"])) == [[2.0, 1.0]]


def test_reasons_of_all_answers_stand_a_line_each_with_their_verdicts() -> None:
    answers = [{"statements": ["a"]}, json.loads(verdicts(1, 0)), {"reason": "so", "more": {"reason": ""}}]
    assert reasons(answers) == "1: because 0\n0: because 1\nso"
