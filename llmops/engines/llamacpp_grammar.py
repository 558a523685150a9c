"""The grammar by which llama.cpp decodes an answer that must follow a JSON schema.

llama.cpp has two ways. `response_format` makes its own GBNF, which drops `minimum` of a number, `multipleOf`, `pattern`
without anchors and more without a word. `grammar` with an llguidance grammar enforces them; but a grammar that
llguidance refuses is logged, and the answer is then free prose. So every grammar is compiled here first, by the version
of llguidance that the build of llama.cpp contains (1.0.1: `LLAMA_LLGUIDANCE` in llama.cpp's common/CMakeLists.txt).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any

import orjson

from llmops.answer_schema import (
    ENFORCEABLE,
    ROOT,
    AnswerSchema,
    rebuilt,
    refuse,
    refuse_keywords,
    schema_of,
    subschemas,
    with_format_as_pattern,
)

_DECIMALS, _DIGITS = 9, 16
"""Of a number, after and before the point, where the schema sets no bounds: a small model writes on up to `max_tokens`
else."""
_LARGEST = 10**_DIGITS - 1
_LOWER, _UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")

_WHITESPACE = r"( |\n{1,2}[ \t]{0,20})?"  # else a small model writes blank lines up to `max_tokens`
_LARGEST_STEP = 10_000
"""Of `multipleOf`, in units of its last digit: llguidance has a state for each, and a million take it 7 seconds."""

_HEADER = "%llguidance {}\nstart: %json "
_PLACE = re.compile(r"^(at \d+\(\d+\): )?(failed to compile JSON schema: )?")


class LlamaCppGrammar:
    """What a response format becomes: the grammar to send, and what to hold answers against."""

    def __init__(self, response_format: Mapping[str, Any], engine: str) -> None:
        """Raises EngineRejected: the schema is not valid, too large, or cannot be enforced as a whole."""
        schema = schema_of(response_format)
        check_size(schema)
        self.schema = AnswerSchema(schema)
        refuse_keywords(schema, ENFORCEABLE, engine)
        self.text = _compiled(schema, engine)

    def begins(self, text: str) -> bool:
        """Whether an answer that follows the grammar can begin so."""
        matcher = _matcher(self.text)
        read = text.encode()
        return bool(matcher.try_consume_tokens(list(read)) == len(read))


def grammar_of(response_format: Mapping[str, Any], engine: str = "llamacpp") -> LlamaCppGrammar:
    """The grammar; clients send the same few schemas again and again. engine: whose name stands in refusals.

    Raises EngineRejected.
    """
    try:
        return _grammar_of(orjson.dumps(response_format), engine)
    except orjson.JSONEncodeError as error:
        refuse(ROOT, f"cannot be written as JSON: {error}")


@lru_cache(maxsize=64)
def _grammar_of(response_format: bytes, engine: str) -> LlamaCppGrammar:
    return LlamaCppGrammar(orjson.loads(response_format), engine)


def _compiled(schema: Mapping[str, Any], engine: str) -> str:
    """The grammar as text. Raises EngineRejected."""
    _check_enforceable(schema)
    schema = rebuilt(schema, with_format_as_pattern)
    plain = _text(schema)
    if (problem := _problem(plain)) is not None:
        place, problem = _located(schema, problem)
        refuse(place, f"the {engine} engine cannot enforce this: {problem}")
    # What a small model needs to come to an end.
    composed = _composed(schema)
    fitted = _text(rebuilt(schema, lambda part, made: made if id(part) in composed else _bounded(_closed(made))))
    # What was added must not make a schema unsatisfiable, as closing one part of several that are put together would.
    return fitted if _problem(fitted) is None else plain


def _text(schema: Mapping[str, Any]) -> str:
    with_spaces = {**schema, "x-guidance": {"whitespace_pattern": _WHITESPACE}}
    return _HEADER + orjson.dumps(with_spaces).decode()


def _problem(grammar: str) -> str | None:
    """Why llguidance refuses the grammar, or would give up on it at its first token; None when it does not."""
    from llguidance import LLMatcher

    failed, warnings = LLMatcher.validate_grammar_with_warnings(grammar)
    if failed or warnings:
        return _short("; ".join(warnings))
    error = _matcher(grammar).get_error()
    return _short(error) if error else None


def _matcher(grammar: str) -> Any:
    from llguidance import LLMatcher

    return LLMatcher(_bytes_as_tokens(), grammar, log_level=0)


@cache
def _bytes_as_tokens() -> Any:
    from llguidance import LLTokenizer

    return LLTokenizer("byte")


def _short(problem: str) -> str:
    lines = problem.strip().splitlines()
    found = next((line for line in lines if line.startswith("error: ")), lines[0])
    # Advice to turn the check off is no advice to a client.
    return _PLACE.sub("", found).partition(". Enable 'coerce_one_of'")[0][:300]


def _located(schema: Mapping[str, Any], problem: str) -> tuple[str, str]:
    """The innermost part of the schema that llguidance refuses by itself, and why; else the whole."""
    shared = {name: schema[name] for name in ("$schema", "$defs", "definitions") if name in schema}
    parts = list(subschemas(schema))
    for place, part in reversed(parts):
        if (found := _problem(_text({**part, **shared}))) is not None:
            keywords = [name for name in ("pattern", "format", "multipleOf", "oneOf", "$ref") if name in part]
            named = [name for name in keywords if _problem(_text({**shared, name: part[name]})) is not None]
            return f"{place}.{named[0]}" if named else place, found
    return ROOT, problem


def _check_enforceable(schema: Mapping[str, Any]) -> None:
    """Refuses steps of more states than llguidance can bear, and numbers of properties of a free name: no grammar sees
    that one was written before, so none can count them."""
    together, composed = 1, _composed(schema)
    for place, part in subschemas(schema):
        if "multipleOf" in part:
            size = _units(part["multipleOf"])
            together *= size if id(part) in composed else 1  # steps that meet in one number become one
            if max(size, together) > _LARGEST_STEP:
                refuse(f"{place}.multipleOf", f"at most {_LARGEST_STEP} units of its last digit can be enforced")
        free = part.get("additionalProperties") is not False or "patternProperties" in part
        if free and part.get("minProperties", 0) > max(1, len(part.get("required", ()))):
            refuse(f"{place}.minProperties", "more than 1 can be enforced only where every property is named")


def _units(step: float) -> int:
    """A number as a whole number of units of its last digit."""
    digits = Decimal(str(step)).normalize()
    return int(digits.scaleb(-min(0, int(digits.as_tuple().exponent))))


def _composed(schema: Mapping[str, Any]) -> set[int]:
    """The ids of parts that are put together with others to one: what one of them does not name, another may."""
    found: set[int] = set()
    for _, part in subschemas(schema):
        joined = [each for name in ("allOf", "anyOf", "oneOf") for each in part.get(name, ())]
        if len(part.get("allOf", ())) > 1 or ("properties" in part and (joined or "$ref" in part)):
            # Through a reference any part may be among them.
            refers = any("$ref" in each for _, each in subschemas(part))
            found |= {id(each) for _, each in subschemas(schema if refers else part)}
    return found


def _closed(part: dict[str, Any]) -> dict[str, Any]:
    """An object has the properties that its schema names and no others, where the schema leaves it open.

    Models fill an open object with properties without an end.
    """
    properties = part.get("properties")
    says = part.keys() & {"additionalProperties", "patternProperties", "minProperties", "anyOf", "oneOf", "$ref"}
    if not isinstance(properties, dict) or not properties or says or set(part.get("required", ())) - properties.keys():
        return part
    return {**part, "additionalProperties": False}


def _bounded(part: dict[str, Any]) -> dict[str, Any]:
    """A number has at most `_DIGITS` digits before the point and `_DECIMALS` after it, where the schema sets no bounds
    and no step of its own."""
    kinds = part.get("type")
    kinds = {kinds} if isinstance(kinds, str) else set(kinds or ())
    if not kinds & {"number", "integer"} or part.keys() & {"const", "enum"}:
        return part
    made = dict(part)
    low, high = (next((part[name] for name in names if name in part), None) for names in (_LOWER, _UPPER))
    if low is None and (high is None or high > -_LARGEST):
        made["minimum"] = -_LARGEST
    if high is None and (low is None or low < _LARGEST):
        made["maximum"] = _LARGEST
    fine = any(bound and abs(bound) < 10 ** (2 - _DECIMALS) for bound in (low, high))
    if "number" in kinds and "multipleOf" not in part and not fine:
        made["multipleOf"] = 10**-_DECIMALS
    return made


# How large a schema of an answer may be: engines compile it where every request waits, and weigh what it leaves open
# for each token.
#
# Measured with 49,000 tokens of vocabulary. llama.cpp with llguidance: 5,000 values to choose from 0.02 s to compile
# and nothing a token, 20,000 0.1 s and 0.01 s a token; 1,000 alternatives 0.1 to 0.3 s; with more than 498 properties
# of one object that may be left out it gives up at the first token. (llama.cpp's own GBNF, which served before: 0.45 s
# a token with 300 values, minutes with 2,500.)
MOST_VALUES = 5_000
"""Values of all `enum` together."""
MOST_BRANCHES = 1_000
"""Alternatives and properties of all parts together."""
MOST_PROPERTIES = 400
"""Properties of one object."""


def check_size(schema: Mapping[str, Any]) -> None:
    """Raises EngineRejected when the schema is more than the engine can bear, naming the part that exceeds a bound."""
    values = branches = 0
    for place, part in subschemas(schema):
        held = {name: value for name, value in part.items() if isinstance(value, (list, tuple, Mapping))}
        values += len(held.get("enum", ()))
        properties = len(held.get("properties", ()))
        branches += properties + sum(len(held.get(name, ())) for name in ("anyOf", "oneOf", "allOf"))
        if values > MOST_VALUES:
            refuse(f"{place}.enum", f"the schema lists more than {MOST_VALUES} values")
        if properties > MOST_PROPERTIES:
            refuse(f"{place}.properties", f"an object may have at most {MOST_PROPERTIES} properties")
        if branches > MOST_BRANCHES:
            refuse(ROOT, f"the schema lists more than {MOST_BRANCHES} alternatives and properties")
