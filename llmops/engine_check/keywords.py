"""Which keywords of JSON Schema a server enforces, seen one by one.

A model is asked to copy a JSON text that breaks one keyword and nothing else of its schema. The control is the same
request without the keyword, and then without a schema: only where a control's answer follows the rest of the schema
and breaks the keyword do answers that follow it show that the server enforces it.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from llmops.engine_check.session import Observation, Session, shown
from llmops.engines.answer import is_cut_off
from llmops.errors import EngineRejected
from llmops.generation import Message
from llmops.json_schema import AnswerSchema

_DEFINITIONS = {"count": {"type": "integer"}, "node": {
    "type": "object", "properties": {"n": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}},
}}  # fmt: skip
_OPEN = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
_EXAMPLES = ({"value": "tree"}, {"value": [1, 2]})
_ASK = "Copy this JSON exactly as it is: "


class Keyword(NamedTuple):
    """What shows that a server enforces a keyword. schema: of the answer's `value`. contrary: values that break the
    keyword in it, and nothing else."""

    keyword: str
    schema: Mapping[str, Any]
    contrary: tuple[Any, Any]
    case: str = ""

    @property
    def name(self) -> str:
        return f"{self.keyword} ({self.case})" if self.case else self.keyword


def _of(kind: str, keyword: str, value: Any, *contrary: Any, case: str = "", **beside: Any) -> Keyword:
    return Keyword(keyword, {"type": kind, keyword: value, **beside}, (contrary[0], contrary[1]), case)


KEYWORDS = (
    Keyword("type", {"type": "integer"}, ("seven", "many")),
    _of("string", "enum", ["red", "green"], "blue", "grey"),
    _of("string", "const", "red", "blue", "green"),
    _of("object", "properties", {"a": {"type": "integer"}}, {"a": "seven"}, {"a": "text"}),
    _of("object", "required", ["a", "b"], {"a": 1}, {"b": 5}, properties=_OPEN["properties"]),
    _of("object", "additionalProperties", False, {"a": 1, "c": 2}, {"b": 1, "d": 5}, properties=_OPEN["properties"]),
    _of("object", "patternProperties", {"^n": {"type": "integer"}}, {"n1": "seven"}, {"name": "text"}),
    _of("object", "propertyNames", {"pattern": "^[a-z]$"}, {"Big": 1}, {"two": 5}),
    _of("object", "minProperties", 2, {"a": 1}, {"c": 5}),
    _of("object", "maxProperties", 1, {"a": 1, "b": 2}, {"c": 5, "d": 7}),
    _of("object", "dependentRequired", {"a": ["b"]}, {"a": 1}, {"a": 5}, properties=_OPEN["properties"]),
    _of("array", "items", {"type": "integer"}, ["a", "b"], ["red"]),
    _of("array", "prefixItems", [{"type": "string"}, {"type": "integer"}], [1, "a"], [5, "red"]),
    _of("array", "minItems", 4, [1], [2, 3], items={"type": "integer"}),
    _of("array", "maxItems", 2, [1, 2, 3, 4], [5, 6, 7], items={"type": "integer"}),
    _of("array", "uniqueItems", True, [1, 1, 1], [2, 5, 5], items={"type": "integer"}),
    _of("array", "contains", {"const": 9}, [1, 2], [5], items={"type": "integer"}),
    _of("string", "minLength", 12, "abc", "red", maxLength=24),
    _of("string", "maxLength", 5, "abcdefghijklm", "elephants"),
    _of("string", "pattern", "^[0-9]{3}$", "abcdef", "red", case="anchored"),
    _of("string", "pattern", "[0-9]{3}", "abcdef", "red", case="not anchored"),
    _of("string", "format", "date", "tomorrow", "31 June", case="date"),
    _of("string", "format", "date-time", "tomorrow", "2026-01-31", case="date-time"),
    _of("string", "format", "email", "nobody", "red", case="email"),
    _of("string", "format", "uuid", "1234", "red", case="uuid"),
    _of("string", "format", "ipv4", "localhost", "10.0", case="ipv4"),
    _of("string", "format", "uri", "nowhere", "red tree", case="uri"),
    _of("integer", "minimum", 10, 3, 7, case="integer"),
    _of("number", "minimum", 10, 3.5, 7.25, case="number"),
    _of("integer", "maximum", 10, 500, 42, case="integer"),
    _of("number", "maximum", 10, 500.5, 42.25, case="number"),
    _of("integer", "exclusiveMinimum", 10, 10, 3),
    _of("integer", "exclusiveMaximum", 10, 10, 42),
    _of("integer", "multipleOf", 5, 7, 42),
    Keyword("anyOf", {"anyOf": [{"type": "integer"}, {"type": "boolean"}]}, ("seven", "many")),
    Keyword("oneOf", {"oneOf": [{"type": "integer"}, {"type": "boolean"}]}, ("seven", "many"), "at least one"),
    Keyword("oneOf", {"oneOf": [{"type": "integer"}, {"type": "number"}]}, (7, 42), "not both"),
    _of("integer", "allOf", [{"minimum": 10}, {"maximum": 90}], 3, 500),
    _of("string", "not", {"const": "blue"}, "blue", "blue"),
    _of("object", "if", {"required": ["a"]}, {"a": 1}, {"a": 5}, then={"required": ["b"]}, case="then", **_OPEN),
    Keyword("$ref", {"$ref": "#/$defs/count"}, ("seven", "many")),
    Keyword("$ref", {"$ref": "#/$defs/node"}, ({"next": {"n": "seven"}}, {"n": 1, "next": {"n": "many"}}), "recursive"),
)  # fmt: skip


def _format(value_schema: Mapping[str, Any]) -> dict[str, Any]:
    """The response format whose answers are objects with one `value`."""
    schema: dict[str, Any] = {"type": "object", "properties": {"value": dict(value_schema)}}
    schema |= {"required": ["value"], "additionalProperties": False}
    if "$ref" in value_schema:
        schema["$defs"] = _DEFINITIONS
    return {"type": "json_schema", "json_schema": {"name": "probe", "strict": True, "schema": schema}}


def _copying(value: Any) -> list[Message]:
    """A conversation that asks for a copy of a value, after examples that even the smallest models follow."""
    turns: list[Message] = []
    for example in _EXAMPLES:
        turns.append({"role": "user", "content": _ASK + json.dumps(example)})
        turns.append({"role": "assistant", "content": json.dumps(example)})
    return [*turns, {"role": "user", "content": _ASK + json.dumps({"value": value})}]


async def keyword_enforced(session: Session, keyword: Keyword) -> Observation:
    """Whether answers follow a keyword that the prompt asks to break. Raises EngineError."""
    wanted = _format(keyword.schema)
    rest = _format({name: value for name, value in keyword.schema.items() if name != keyword.keyword})
    full, others = (AnswerSchema(each["json_schema"]["schema"]) for each in (wanted, rest))
    shows, why = 0, ""
    for value in keyword.contrary:
        reply = await session.ask(_copying(value), response_format=wanted)
        if is_cut_off(reply.answer.finish_reason):
            why = f"the answer had no end: {shown(reply.answer.text)}"
        elif full.problem(reply.answer.text) is not None:
            return Observation("ignored", f"answered {shown(reply.answer.text)}")
        elif await _breaks(session, _copying(value), rest, full, others):
            shows += 1
        else:
            why = why or f"answered {shown(reply.answer.text)}, and no answer without the keyword breaks it"
    if shows:
        return Observation("yes", f"{shows} of {len(keyword.contrary)} contrary prompts")
    return Observation("unknown", why)


async def _breaks(
    session: Session, turns: list[Message], rest: Mapping[str, Any], full: AnswerSchema, others: AnswerSchema
) -> bool:
    """Whether the same request without the keyword, and if the server refuses that, without a schema, is answered with
    what breaks the keyword alone."""
    try:
        reply = await session.ask(turns, response_format=rest)
    except EngineRejected:
        reply = await session.ask(turns)
    return others.problem(reply.answer.text) is None and full.problem(reply.answer.text) is not None


async def json_object(session: Session) -> Observation:
    """Whether `json_object` makes prose impossible. Raises EngineError."""
    schema, prompt = AnswerSchema({"type": "object"}), "Say hello in one short sentence. Write no JSON, only the words."
    reply = await session.ask(prompt, response_format={"type": "json_object"}, max_tokens=96)
    control = await session.ask(prompt, max_tokens=96)
    if is_cut_off(reply.answer.finish_reason) and reply.answer.text.lstrip()[:1] in ("{", ""):
        return Observation("unknown", f"the answer had no end: {shown(reply.answer.text)}")
    if schema.problem(reply.answer.text) is not None:
        return Observation("ignored", f"answered {shown(reply.answer.text)}")
    if schema.problem(control.answer.text) is None:
        return Observation("unknown", "the answer without it is JSON too")
    return Observation("yes", f"answered {shown(reply.answer.text)}")
