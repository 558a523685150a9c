"""Scripted judges, and endpoints that ask them."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from llmops.judges import TYPES
from llmops.judges.client import JudgeEndpoint
from tests.judges.scripted import Answer, ScriptedJudge

NOWHERE = JudgeEndpoint("nowhere", "http://127.0.0.1:9/v1", "m", key_variable="NO_SUCH_KEY")
RUBRICS = {f"score{points}_description": f"worth {points}" for points in range(1, 6)}
# What types of judges need, by type.
NEEDED: dict[str, dict[str, Any]] = {
    "judge.rubric": {"instructions": "Is {{ output }} to {{ input }} as good as {{ expected }}, by {{ contexts }}?"},
    "mlflow.Guidelines": {"guidelines": ["Be brief."]},
    "mlflow.ConversationalGuidelines": {"guidelines": ["Be brief."]},
    "mlflow.make_judge": {"instructions": "Does {{ outputs }} fit {{ inputs }}, by {{ expectations }}?"},
}


def made(type_name: str, endpoint: JudgeEndpoint = NOWHERE, **options: Any) -> Any:
    """A judge of that type with all that it needs; embeddings that find every text alike."""
    given = {"embed": lambda texts: [[1.0] for _ in texts], **NEEDED.get(type_name, {}), **options}
    return TYPES[type_name]("mine", endpoint=endpoint, **given)


Script = Callable[..., ScriptedJudge]


@pytest.fixture
def script() -> Iterator[Script]:
    """`script(answer)` starts a judge that says what the function, text or list of replies tells it to."""
    with ExitStack() as running:
        yield lambda answer, **settings: running.enter_context(ScriptedJudge(_as_function(answer), **settings))


def _as_function(answer: Answer | str | list[Any]) -> Answer:
    if callable(answer):
        return answer
    replies = iter(answer) if isinstance(answer, list) else None
    return lambda _request: next(replies) if replies is not None else answer


def fitting(schema: dict[str, Any], choose: Callable[[str, dict[str, Any]], Any]) -> Any:
    """An answer that follows a schema. choose: from a field's name and schema to its value; None takes the first
    allowed one."""
    definitions = schema.get("$defs", {})

    def fill(name: str, part: dict[str, Any]) -> Any:
        if "$ref" in part:
            part = definitions[part["$ref"].rpartition("/")[2]]
        chosen = choose(name, part)
        if chosen is not None:
            return chosen
        if "enum" in part:
            return part["enum"][0]
        if part["type"] == "object":
            return {key: fill(key, value) for key, value in part["properties"].items()}
        if part["type"] == "array":
            return [fill(name, part["items"]) for _ in range(max(1, part.get("minItems", 1)))]
        return {"string": f"some {name}", "integer": 0, "boolean": False}[part["type"]]

    return fill("", schema)


Fitting = Callable[..., Answer]


@pytest.fixture
def fits() -> Fitting:
    """`fits(verdict=1, statements=["a"])` an answer to any schema, with these values in fields of these names."""

    def make(**values: Any) -> Answer:
        def choose(name: str, part: dict[str, Any]) -> Any:
            value = values.get(name)
            # A list stands for the whole field, a plain value for one item of it.
            return value if isinstance(value, list) == (part.get("type") == "array") else None

        return lambda request: json.dumps(fitting(request["response_format"]["json_schema"]["schema"], choose))

    return make
