"""Which JSON schemas the local engines enforce, and how: llama.cpp by a grammar, OpenVINO by a schema.

llama.cpp has two ways. `response_format` makes its own GBNF, which drops `minimum` of a number, `multipleOf`, `pattern`
without anchors and more without a word. `grammar` with an llguidance grammar enforces them; but a grammar that
llguidance refuses is logged, and the answer is then free prose. So every grammar is compiled here first, by the version
of llguidance that the build of llama.cpp contains (1.0.1: `LLAMA_LLGUIDANCE` in llama.cpp's common/CMakeLists.txt).

OpenVINO's XGrammar drops what it cannot enforce with a line on stderr, or without one. Tried with openvino-genai
2026.4.1 on SmolLM2-135M, and taken but not kept: `multipleOf`, bounds of decimals, a length beside a pattern or a
format, keywords beside a `$ref`, two parts under `allOf`, bounds where no type stands, and names that are required but
not described, or described beside patterns of names. `oneOf` is read as `anyOf`. A pattern may let a quote or the end
of a line into the text as it is, which is then no JSON. `false` as a schema, and some patterns, fail in the step that
all requests share. A number may have an exponent of any length: one beyond every number (1e999) is found when the
answer is held against its schema.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any

import orjson

from llmops.json_schema import (
    ANNOTATIONS,
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
        if (refusal := _problem(_text({**part, **shared}))) is not None:
            keywords = [name for name in ("pattern", "format", "multipleOf", "oneOf", "$ref") if name in part]
            named = [name for name in keywords if _problem(_text({**shared, name: part[name]})) is not None]
            return f"{place}.{named[0]}" if named else place, refusal
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
    composed: set[int] = set()
    for _, part in subschemas(schema):
        joined = [each for name in ("allOf", "anyOf", "oneOf") for each in part.get(name, ())]
        if len(part.get("allOf", ())) > 1 or ("properties" in part and (joined or "$ref" in part)):
            # Through a reference any part may be among them.
            refers = any("$ref" in each for _, each in subschemas(part))
            composed |= {id(each) for _, each in subschemas(schema if refers else part)}
    return composed


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


_ENFORCED = ENFORCEABLE - {"multipleOf", "minProperties", "maxProperties", "additionalItems"}
_FORMATS = frozenset({"date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"})
_MOST_REPEATED = 1_000
"""Characters that a pattern or a length may ask for: XGrammar writes each out, once for each schema, in the step that
all requests share. With 49,000 tokens of vocabulary 20 take it 0.7 s, 500 to 5,000 some 10 s, as its own lengths do."""
_BOUNDS = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_NEEDS_NO_ESCAPE = r'[^"\\\x00-\x1f]'
_TYPE_OF: Mapping[str, str] = {
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), "integer"),
    **dict.fromkeys(("minLength", "maxLength", "pattern", "format"), "string"),
    **dict.fromkeys(("items", "prefixItems", "minItems", "maxItems"), "array"),
    **dict.fromkeys(("properties", "required", "additionalProperties", "patternProperties"), "object"),
}
"""The type that must stand beside a keyword, alone, for it to be kept."""

_PLAIN = r"[A-Za-z0-9_@:/#,;=~!% .&<>-]"
_PATTERN = re.compile(
    rf"\^?(?:(?![.]){_PLAIN}|\\[d./+*?()|^$-]|\[(?:{_PLAIN}|\\[d.-]|[+*])+\]|\((?!\?)|[)|*+?]|\{{\d+(?:,\d*)?\}})*\$?"
)
"""Patterns whose texts need no escape in JSON, of what XGrammar reads as everybody else does."""


def enforced_schema(response_format: Mapping[str, Any]) -> tuple[str, AnswerSchema]:
    """The schema to hand over, and what to hold answers against. Raises EngineRejected: it is not valid, too large, or
    OpenVINO does not enforce the whole of it."""
    schema = schema_of(response_format)
    refuse_keywords(schema, _ENFORCED, "openvino")
    # What llguidance finds, XGrammar would have to find too: parts that nothing satisfies, alternatives that overlap,
    # references that lead nowhere.
    checked = grammar_of(response_format, "openvino").schema
    for place, part in subschemas(schema):
        for keyword in _dropped(part):
            refuse(f"{place}.{keyword}", "the openvino engine cannot enforce this keyword here")
    return json.dumps(rebuilt(schema, _with_pattern)), checked


def _with_pattern(part: Mapping[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """Formats as patterns; lengths too: XGrammar lets the end of a line into a text of a given length as it is."""
    made = with_format_as_pattern(part, made)
    if not {"minLength", "maxLength"} & made.keys():
        return made
    rest = {name: value for name, value in made.items() if name not in ("minLength", "maxLength")}
    return {**rest, "pattern": f"^{_NEEDS_NO_ESCAPE}{{{made.get('minLength', 0)},{made.get('maxLength', '')}}}$"}


def _dropped(part: Mapping[str, Any]) -> Iterator[str]:
    """Keywords of one part that XGrammar takes and does not keep."""
    rules = part.keys() - ANNOTATIONS - {"$defs", "definitions"}
    for keyword in ("$ref", "allOf", "anyOf", "oneOf", "enum", "const"):
        if keyword in rules and rules - {keyword, "type"}:
            yield keyword
    yield from (keyword for keyword in part if part.get("type") != _TYPE_OF.get(keyword, part.get("type")))
    if not str(part.get("$ref", "#/")).startswith("#/"):
        yield "$ref"
    if len(part.get("allOf", ())) > 1:
        yield "allOf"
    yield from _dropped_of_texts(part)
    properties, patterns = part.get("properties", {}), part.get("patternProperties", {})
    if set(part.get("required", ())) - properties.keys() or (patterns and part.get("required")):
        yield "required"
    if False in properties.values():
        yield "properties"
    if patterns and (properties or False in patterns.values()):
        yield "patternProperties"
    if isinstance(part.get("items"), (list, tuple)):
        yield "items"


def _dropped_of_texts(part: Mapping[str, Any]) -> Iterator[str]:
    pattern, kind = part.get("pattern"), part.get("format")
    if pattern is not None or kind is not None:
        yield from (keyword for keyword in ("minLength", "maxLength") if keyword in part)
    if pattern is not None and (kind is not None or not _PATTERN.fullmatch(pattern) or _splits(pattern)):
        yield "pattern"
    if kind is not None and kind not in _FORMATS:
        yield "format"
    yield from (keyword for keyword in ("minLength", "maxLength") if part.get(keyword, 0) > _MOST_REPEATED)
    bounds = (int(high or low) for low, high in _BOUNDS.findall(pattern or ""))
    if math.prod(bounds) > _MOST_REPEATED:
        yield "pattern"


def _splits(pattern: str) -> bool:
    """Whether a pattern is several at its top level, `a|b`."""
    depth = 0
    for part in re.findall(r"\\.|\[(?:\\.|[^\]])*\]|.", pattern):
        depth += {"(": 1, ")": -1}.get(part, 0)
        if part == "|" and depth == 0:
            return True
    return False
